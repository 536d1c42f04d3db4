//! The thread that loads weights while another thread computes.

use super::error::StreamError;
use super::layers::LayerFences;
use super::upload::Uploader;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::{self, JoinHandle};

/// A thread that owns an [`Uploader`]. When the loader is dropped, the thread stops at the next
/// chunk, or in [`Uploader::wait_for`], and is waited for.
#[derive(Debug)]
pub struct Loader {
    thread: Option<JoinHandle<Uploader>>,
    loaded: Arc<LayerFences>,
    stop: Arc<AtomicBool>,
}

impl Loader {
    /// Runs `work` on a new thread. `work` uploads layer after layer, and marks each of them on the
    /// fences that it is given, which are `loaded`.
    ///
    /// An error or a panic of `work` becomes the failure of the job. A thread that waits on
    /// `loaded` for a layer that was not marked is told.
    ///
    /// # Errors
    /// [`StreamError::Thread`] if the thread cannot be started.
    pub fn start(
        mut uploader: Uploader,
        loaded: Arc<LayerFences>,
        work: impl FnOnce(&mut Uploader, &LayerFences) -> Result<(), StreamError> + Send + 'static,
    ) -> Result<Self, StreamError> {
        let stop = uploader.stop_flag();
        let fences = Arc::clone(&loaded);
        let run = move || {
            let outcome = catch_unwind(AssertUnwindSafe(|| work(&mut uploader, &fences)));
            let failure = match outcome {
                Ok(Ok(()) | Err(StreamError::Stopped)) => None,
                Ok(Err(error)) => Some(error),
                Err(panic) => Some(StreamError::Panicked(words(&*panic))),
            };
            if let Some(failure) = failure {
                // Whoever waits for a layer gets the failure of the job.
                let _ = uploader.end_job(failure);
            }
            fences.end();
            // The uploader is returned and not dropped here: freeing pinned memory holds up the
            // whole device.
            uploader
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

    /// Returns the fences that the compute thread waits on.
    pub fn loaded(&self) -> &Arc<LayerFences> {
        &self.loaded
    }
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without words".into())
}

impl Drop for Loader {
    fn drop(&mut self) {
        // The thread may be waiting for a slot that no pass will release any more.
        self.loaded.stop(&self.stop);
        if let Some(thread) = self.thread.take() {
            // Panics of the work are caught inside the thread, and ended the job.
            let _ = thread.join();
        }
    }
}
