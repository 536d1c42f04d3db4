//! Whether a pipe has something to read, or its writer pauses.

use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

/// What is done while a pipe has nothing to give, before waiting for it. It says whether there is nothing
/// more to do until something has been read; else it is called again after a moment.
pub type OnPause = Arc<Mutex<dyn FnMut() -> bool + Send>>;

/// A pipe that is read, and something to be done when it pauses.
pub struct Pausing<R> {
    inner: R,
    on_pause: Option<OnPause>,
}

impl<R> Pausing<R> {
    /// Reads `inner`; without `on_pause` that is all.
    pub fn new(inner: R, on_pause: Option<OnPause>) -> Self {
        Self { inner, on_pause }
    }
}

#[cfg(unix)]
impl<R: Read + std::os::fd::AsFd> Read for Pausing<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if let Some(on_pause) = &self.on_pause {
            while !readable(&self.inner) {
                let mut act = on_pause.lock().unwrap_or_else(PoisonError::into_inner);
                if act() {
                    break;
                }
            }
        }
        self.inner.read(buf)
    }
}

/// Without a way to ask, a pipe is read as any file.
#[cfg(not(unix))]
impl<R: Read> Read for Pausing<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buf)
    }
}

/// Whether a read would return at once: with bytes, at the end, or with an error. Waits a moment for that.
#[cfg(unix)]
fn readable(source: &impl std::os::fd::AsFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    /// Long enough that a writer at work is not taken for one that pauses.
    const MOMENT: Timespec = Timespec {
        tv_sec: 0,
        tv_nsec: 20_000_000,
    };
    let mut asked = [PollFd::new(source, PollFlags::IN)];
    // Where a signal or an error interrupts the question, reading itself has the answer.
    poll(&mut asked, Some(&MOMENT)).map_or(true, |ready| ready > 0)
}
