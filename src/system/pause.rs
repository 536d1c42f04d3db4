//! A reader for pipes that calls a function when the pipe has nothing to read.

use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

/// The function to call when a pipe has nothing to read, before waiting for the pipe. It returns
/// true if it has nothing more to do until something has been read. Otherwise it is called again if
/// the pipe is still empty 20 ms later.
pub type OnPause = Arc<Mutex<dyn FnMut() -> bool + Send>>;

/// A reader for a pipe that calls a function when the pipe pauses.
pub struct Pausing<R> {
    inner: R,
    on_pause: Option<OnPause>,
}

impl<R> Pausing<R> {
    /// Wraps `inner`. Without `on_pause` it only reads.
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

/// This system cannot tell whether a pipe has something to read, so a pipe is read like any other
/// file.
#[cfg(not(unix))]
impl<R: Read> Read for Pausing<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buf)
    }
}

/// Whether a read would return at once: with bytes, at the end of the input, or with an error.
/// Waits up to 20 ms for one of these.
#[cfg(unix)]
fn readable(source: &impl std::os::fd::AsFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    /// This is long enough that a writer at work is not taken for a writer that pauses.
    const MOMENT: Timespec = Timespec {
        tv_sec: 0,
        tv_nsec: 20_000_000,
    };
    let mut asked = [PollFd::new(source, PollFlags::IN)];
    // If a signal or an error interrupts the poll, the read that follows gives the answer.
    poll(&mut asked, Some(&MOMENT)).map_or(true, |ready| ready > 0)
}
