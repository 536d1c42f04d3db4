//! The program's own job, for `embed_fasta`, and the whole program, for the command `seqstream`.

use std::cell::RefCell;
use std::ffi::OsString;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};

use pyo3::prelude::*;
use seqstream::pipeline::Stop;

use crate::cli::{self, Console, Failure, library};
use crate::exception;
use crate::model::TICK;

const SIGINT: i32 = 2;

thread_local! {
    /// The warnings of the job that runs on this thread.
    static WARNINGS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

fn keep(warning: &str) {
    WARNINGS.with_borrow_mut(|kept| kept.push(warning.to_owned()));
}

/// Runs the job of `seqstream embed` with the arguments of the command line, and returns its
/// warnings.
///
/// The job has a thread of its own, which holds no GIL. The first Ctrl-C asks the job to stop after
/// the shard in hand, as in the program, and a second one leaves the thread to itself.
#[pyfunction]
pub fn run_job(py: Python<'_>, args: Vec<OsString>) -> PyResult<Vec<String>> {
    let stop = Stop::new();
    let (done, ended) = sync_channel(1);
    let of_the_job = stop.clone();
    let run = move || {
        let result = library::job(args, &Console::silent(keep), &of_the_job);
        // If nobody waits any more, nobody needs the result.
        let _ = done.send((result, WARNINGS.take()));
    };
    std::thread::Builder::new()
        .name("seqstream job".into())
        .spawn(run)?;
    let ((result, warnings), interrupt) = py.detach(move || {
        let mut interrupt = None;
        loop {
            match ended.recv_timeout(TICK) {
                Ok(outcome) => return Ok((outcome, interrupt)),
                Err(RecvTimeoutError::Disconnected) => {
                    let failure = Failure::Other("internal error: the job panicked".into());
                    return Ok(((Err(failure), Vec::new()), interrupt));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            if let Err(error) = Python::attach(|py| py.check_signals()) {
                stop.request(SIGINT);
                if interrupt.is_some() {
                    return Err(error);
                }
                interrupt = Some(error);
            }
        }
    })?;
    match (result, interrupt) {
        (_, Some(interrupt)) => Err(interrupt),
        (Err(failure), None) => Err(exception(py, &failure)),
        (Ok(()), None) => Ok(warnings),
    }
}

/// Runs the program `seqstream` and returns its exit code.
#[pyfunction]
pub fn run_program(py: Python<'_>, args: Vec<OsString>) -> u8 {
    py.detach(|| cli::program(args))
}
