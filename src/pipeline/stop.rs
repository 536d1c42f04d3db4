//! Stops a job in good order: the first signal asks the job to stop, and a second signal ends the
//! process. SIGINT and SIGTERM are heeded, and SIGUSR1 and SIGUSR2, which batch systems send before
//! the time of a job is up.
//!
//! Before the job begins, there is nothing that could be finished or lost, so a signal ends the
//! process at once.
//!
//! After the first signal the current shard is finished, however long that takes, because no
//! deadline could tell a long shard from a shard that never ends. A user who cannot wait sends a
//! second signal, or SIGKILL as supervisors do. Either signal loses the current shard and nothing
//! else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
#[cfg(unix)]
use signal_hook::consts::{SIGUSR1, SIGUSR2};

use crate::system::signals::is_ignored;

#[cfg(unix)]
const HEEDED: &[i32] = &[SIGINT, SIGTERM, SIGUSR1, SIGUSR2];
#[cfg(not(unix))]
const HEEDED: &[i32] = &[SIGINT, SIGTERM];

/// Whether the job has been asked to stop. Clones share the same state, so a program keeps one and
/// gives the other to the job:
///
/// ```
/// use seqstream::pipeline::Stop;
///
/// let stop = Stop::new();
/// let of_the_job = stop.clone();
/// stop.request(15); // as if SIGTERM had arrived
/// assert_eq!(of_the_job.requested(), Some(15));
/// ```
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// The signal that asked the job to stop; 0 is none.
    signal: Arc<AtomicUsize>,
    /// Whether the next signal ends the process at once.
    at_once: Arc<AtomicBool>,
}

impl Stop {
    /// Makes a value that only [`request`](Self::request) sets.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a value that the first SIGINT, SIGTERM, SIGUSR1 or SIGUSR2 after [`begin`](Self::begin)
    /// sets. A second signal ends the process at once, and so does any signal before `begin`. The
    /// exit code is then `code`, or 128 plus the number of the signal. A signal that this process was
    /// started to ignore stays ignored: a shell makes the background commands of a script ignore
    /// SIGINT, so that Ctrl-C ends the script alone.
    ///
    /// # Errors
    /// A signal handler cannot be installed.
    pub fn on_signals(code: Option<u8>) -> std::io::Result<Self> {
        let stop = Self::new();
        stop.at_once.store(true, Ordering::SeqCst);
        for &signal in HEEDED.iter().filter(|signal| !is_ignored(**signal)) {
            let code = code.map_or(128 + signal, i32::from);
            // This handler is registered before the handler that sets its flag, so the first signal
            // does not end the process.
            signal_hook::flag::register_conditional_shutdown(
                signal,
                code,
                Arc::clone(&stop.at_once),
            )?;
            signal_hook::flag::register(signal, Arc::clone(&stop.at_once))?;
            signal_hook::flag::register_usize(signal, Arc::clone(&stop.signal), signal as usize)?;
        }
        Ok(stop)
    }

    /// From now on the first signal lets the job finish what it has in hand.
    pub fn begin(&self) {
        self.at_once.store(false, Ordering::SeqCst);
    }

    /// Asks the job to stop, as if `signal` had arrived.
    pub fn request(&self, signal: i32) {
        self.signal.store(signal as usize, Ordering::SeqCst);
    }

    /// Returns the signal that asked the job to stop, if there was one.
    pub fn requested(&self) -> Option<i32> {
        match self.signal.load(Ordering::SeqCst) {
            0 => None,
            signal => Some(signal as i32),
        }
    }
}
