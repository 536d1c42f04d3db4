//! The compiled part of the Python package `seqstream`: the module `seqstream._native`.
//!
//! | file | what it does |
//! |---|---|
//! | `model` | a loaded model as a Python object, and calls that wait without holding the GIL |
//! | `worker` | the thread of a model, which owns the engine and computes one call after the other |
//! | `job` | `embed_fasta` and the command `seqstream` |
//! | `words` | errors and hints in the words of Python |
//!
//! Everything that needs no speed is in Python, in the folder `seqstream` beside this one.
//!
//! The program's own files are compiled into this library a second time, by their path. They are
//! modules of the program and not of the library `seqstream`, which knows no flags and no terminal
//! (docs/architecture.md, invariant 11); a library of its own could not be used by the program
//! without a cycle between packages.

#[path = "../../src/cli/mod.rs"]
mod cli;
mod job;
mod model;
mod words;
mod worker;

use std::path::PathBuf;

use pyo3::prelude::*;

use cli::Failure;

/// Makes the Python exception of a failure.
fn exception(py: Python<'_>, failure: &Failure) -> PyErr {
    let code = failure.code();
    let class = match code {
        2 => "UsageError",
        3 => "InputError",
        4 => "ModelError",
        5 => "OutputError",
        6 => "ResumeError",
        7 | 8 => "DeviceError",
        9 => "DownloadError",
        _ => "SeqstreamError",
    };
    raise(
        py,
        class,
        &words::message(failure),
        words::hint(failure),
        code,
    )
}

/// Makes an exception of a class of `seqstream._errors`.
fn raise(py: Python<'_>, class: &str, message: &str, hint: Option<String>, code: u8) -> PyErr {
    let made = py
        .import("seqstream._errors")
        .and_then(|errors| errors.getattr(class))
        .and_then(|class| class.call1((message, hint, code)));
    match made {
        Ok(exception) => PyErr::from_value(exception),
        Err(error) => error,
    }
}

/// Adds a folder in which cuBLASLt is searched, before all others.
#[pyfunction]
fn look_in(folder: PathBuf) {
    seqstream::gpu::cublaslt::look_in(&folder);
}

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<model::Model>()?;
    module.add_class::<model::Pending>()?;
    module.add_class::<model::Values>()?;
    module.add_function(wrap_pyfunction!(look_in, module)?)?;
    module.add_function(wrap_pyfunction!(job::run_job, module)?)?;
    module.add_function(wrap_pyfunction!(job::run_program, module)?)
}
