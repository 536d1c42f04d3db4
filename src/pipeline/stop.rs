//! Stopping in good order: the first SIGINT or SIGTERM asks, a second one ends the process.
//!
//! After the first the shard in hand is finished, however long that takes: no deadline could tell a
//! long shard from one that never ends, and whoever cannot wait sends a second signal, or SIGKILL as
//! supervisors do. Either costs the shard in hand and nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};

use crate::system::signals::is_ignored;

/// Whether the job has been asked to stop. Clones share the answer.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicUsize>);

impl Stop {
    /// One that only [`request`](Self::request) trips.
    pub fn new() -> Self {
        Self::default()
    }

    /// One that the first SIGINT or SIGTERM trips; a second signal ends the process at once, with
    /// 130 or 143. A signal that this process was started to ignore stays ignored: a shell does that to
    /// SIGINT for what a script runs in the background, so that Ctrl-C ends the script alone.
    pub fn on_signals() -> std::io::Result<Self> {
        let stop = Self::new();
        let mut heeded = vec![SIGINT, SIGTERM];
        heeded.retain(|signal| !is_ignored(*signal));
        for &signal in &heeded {
            let asked = Arc::new(AtomicBool::new(false));
            // Registered before the flag is set by the same signal: the first one passes by.
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

    /// Asks the job to stop, as `signal` would.
    pub fn request(&self, signal: i32) {
        self.0.store(signal as usize, Ordering::SeqCst);
    }

    /// The signal that asked, if one has.
    pub fn requested(&self) -> Option<i32> {
        match self.0.load(Ordering::SeqCst) {
            0 => None,
            signal => Some(signal as i32),
        }
    }
}
