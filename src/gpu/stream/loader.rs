//! The thread that loads weights while another computes.

use super::error::StreamError;
use super::layers::LayerFences;
use super::upload::Uploader;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

/// A thread with an [`Uploader`]. Dropped, it stops at the next chunk and is waited for.
#[derive(Debug)]
pub struct Loader {
    thread: Option<JoinHandle<(Uploader, Result<(), StreamError>)>>,
    loaded: Arc<LayerFences>,
    stop: Arc<AtomicBool>,
}

impl Loader {
    /// Runs `work` on a thread of its own: it uploads layer after layer, and marks each on the
    /// fences it is given, which are `loaded`.
    ///
    /// An error of `work`, or a panic, is the failure of the job; whoever waits on `loaded` for
    /// more than it marked is told.
    ///
    /// # Errors
    /// [`StreamError::Thread`]
    pub fn start(
        mut uploader: Uploader,
        loaded: Arc<LayerFences>,
        work: impl FnOnce(&mut Uploader, &LayerFences) -> Result<(), StreamError> + Send + 'static,
    ) -> Result<Self, StreamError> {
        let stop = uploader.stop_flag();
        let fences = Arc::clone(&loaded);
        let run = move || {
            let outcome = catch_unwind(AssertUnwindSafe(|| work(&mut uploader, &fences)));
            let result = match outcome {
                Ok(Err(StreamError::Stopped)) => Err(StreamError::Stopped),
                Ok(result) => result.map_err(|e| uploader.end_job(e)),
                Err(panic) => Err(uploader.end_job(StreamError::Panicked(words(&*panic)))),
            };
            fences.end();
            // Given back and not dropped here: to free pinned memory holds up the whole device.
            (uploader, result)
        };
        let thread = thread::Builder::new()
            .name("weights".into())
            .spawn(run)
            .map_err(|e| StreamError::Thread(e.to_string()))?;
        Ok(Self {
            thread: Some(thread),
            loaded,
            stop,
        })
    }

    /// What the compute thread waits on.
    pub fn loaded(&self) -> &Arc<LayerFences> {
        &self.loaded
    }

    /// Waits until all is on its way, and gives the uploader back.
    ///
    /// # Errors
    /// What ended the work early.
    pub fn finish(mut self) -> Result<Uploader, StreamError> {
        let (uploader, result) = self.join()?;
        result.map(|()| uploader)
    }

    fn join(&mut self) -> Result<(Uploader, Result<(), StreamError>), StreamError> {
        let thread = self.thread.take().ok_or(StreamError::Stopped)?;
        // Panics of the work are caught in the thread.
        thread
            .join()
            .map_err(|panic| StreamError::Panicked(words(&*panic)))
    }
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without words".into())
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Its result was told when it ended the job.
        let _ = self.join();
    }
}
