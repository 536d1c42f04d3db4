//! Stops a job in good order: the first SIGINT or SIGTERM asks the job to stop, and a second signal
//! ends the process.
//!
//! After the first signal the current shard is finished, however long that takes, because no
//! deadline could tell a long shard from a shard that never ends. A user who cannot wait sends a
//! second signal, or SIGKILL as supervisors do. Either signal loses the current shard and nothing
//! else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};

use crate::system::signals::is_ignored;

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
pub struct Stop(Arc<AtomicUsize>);

impl Stop {
    /// Makes a value that only [`request`](Self::request) sets.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a value that the first SIGINT or SIGTERM sets. A second signal ends the process at
    /// once, with exit code 130 or 143. A signal that this process was started to ignore stays
    /// ignored: a shell makes the background commands of a script ignore SIGINT, so that Ctrl-C
    /// ends the script alone.
    ///
    /// # Errors
    /// A signal handler cannot be installed.
    pub fn on_signals() -> std::io::Result<Self> {
        let stop = Self::new();
        let mut heeded = vec![SIGINT, SIGTERM];
        heeded.retain(|signal| !is_ignored(*signal));
        for &signal in &heeded {
            let asked = Arc::new(AtomicBool::new(false));
            // This handler is registered before the handler that sets its flag, so the first signal
            // does not end the process.
            signal_hook::flag::register_conditional_shutdown(
                signal,
                128 + signal,
                Arc::clone(&asked),
            )?;
            for &other in &heeded {
                signal_hook::flag::register(other, Arc::clone(&asked))?;
            }
            signal_hook::flag::register_usize(signal, Arc::clone(&stop.0), signal as usize)?;
        }
        Ok(stop)
    }

    /// Asks the job to stop, as if `signal` had arrived.
    pub fn request(&self, signal: i32) {
        self.0.store(signal as usize, Ordering::SeqCst);
    }

    /// Returns the signal that asked the job to stop, if there was one.
    pub fn requested(&self) -> Option<i32> {
        match self.0.load(Ordering::SeqCst) {
            0 => None,
            signal => Some(signal as i32),
        }
    }
}
