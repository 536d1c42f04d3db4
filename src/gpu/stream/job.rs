//! The state that all streams of a job share: its first failure, and where failures are reported.

use super::error::StreamError;
use super::log::OperationLog;
use crate::gpu::driver::{At, DriverError, Stream};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

/// Receives a diagnosis of one or several lines.
pub type ReportFn = Arc<dyn Fn(&str) + Send + Sync>;

/// How many lines of the operation log a diagnosis shows.
const LINES_SHOWN: usize = 32;

/// The work of one job on its devices. An error anywhere ends all of it.
pub(super) struct Job {
    first: Mutex<Option<StreamError>>,
    /// Signals that something a thread may wait for has changed: a failure, a layer, a stop.
    changed: Condvar,
    /// All streams of the job, which are drained when it fails.
    streams: Mutex<Vec<Weak<Stream>>>,
    pub(super) log: Option<Arc<OperationLog>>,
    /// The file that the log is written to at the end.
    file: Option<PathBuf>,
    report: ReportFn,
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("first", &self.first)
            .finish_non_exhaustive()
    }
}

/// The lock that a thread holds while it decides whether to keep waiting.
pub(super) type JobGuard<'a> = MutexGuard<'a, Option<StreamError>>;

impl Job {
    pub(super) fn new(
        log: Option<Arc<OperationLog>>,
        file: Option<PathBuf>,
        report: ReportFn,
    ) -> Self {
        Self {
            first: Mutex::new(None),
            changed: Condvar::new(),
            streams: Mutex::default(),
            log,
            file,
            report,
        }
    }

    pub(super) fn lock(&self) -> JobGuard<'_> {
        // The value is written whole, so a panic elsewhere leaves it valid.
        self.first.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until something has changed.
    pub(super) fn wait<'a>(&self, held: JobGuard<'a>) -> JobGuard<'a> {
        self.changed
            .wait(held)
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes all threads that wait. Their condition must have been changed under the lock, or they
    /// could miss the change.
    pub(super) fn wake(&self) {
        self.changed.notify_all();
    }

    /// Returns the failure that ended the job, if there was one.
    pub(super) fn check(&self) -> Result<(), StreamError> {
        match &*self.lock() {
            None => Ok(()),
            Some(error) => Err(error.clone()),
        }
    }

    fn streams(&self) -> MutexGuard<'_, Vec<Weak<Stream>>> {
        // A stream is in the list or not, so a panic elsewhere leaves the list whole.
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds streams that are drained when the job fails.
    pub(super) fn add<'a>(&self, streams: impl IntoIterator<Item = &'a Arc<Stream>>) {
        self.streams()
            .extend(streams.into_iter().map(Arc::downgrade));
    }

    /// Ends the job if it has not ended yet: the diagnosis is reported, and all streams of all
    /// devices are drained. Work that other threads enqueue meanwhile is drained when its memory is
    /// freed. Returns the job's first failure.
    pub(super) fn fail(&self, error: StreamError) -> StreamError {
        let mut first = self.lock();
        if let Some(first) = &*first {
            return first.clone();
        }
        *first = Some(error.clone());
        self.wake();
        drop(first);
        let mut text = format!("work on the device failed: {error}");
        if let Some(remedy) = error.remedy() {
            text += &format!("\nhint: {remedy}");
        }
        if let Some(log) = &self.log {
            text += &format!("\nthe latest operations:\n{}", log.tail(LINES_SHOWN));
        }
        self.tell(&text);
        let streams: Vec<_> = self.streams().iter().filter_map(Weak::upgrade).collect();
        self.drain(&streams);
        error
    }

    pub(super) fn tell(&self, text: &str) {
        (self.report)(text);
    }

    /// Waits for all work of these streams, whatever has failed. An error fails the job. If the job
    /// has already failed with another error, the new error is only reported.
    pub(super) fn drain<'a>(&self, streams: impl IntoIterator<Item = &'a Arc<Stream>>) {
        let mut drained: Vec<&Arc<Stream>> = Vec::new();
        for stream in streams {
            if drained.iter().any(|other| Arc::ptr_eq(other, stream)) {
                continue;
            }
            drained.push(stream);
            // Twice: after a transient error the work is still in progress, and its memory must not
            // be freed under it. A lost device returns its error again at once, and has no work
            // left.
            for _ in 0..2 {
                let Err(error) = stream.synchronize() else {
                    break;
                };
                let error = error.at(&At {
                    operation: Some("draining".into()),
                    ..At::default()
                });
                if self.check().is_ok() {
                    self.fail(error.into());
                } else if !self.knows(&error) {
                    self.tell(&format!("while streams were drained: {error}"));
                }
            }
        }
    }

    /// Returns whether the job failed with this code on this device: a lost device returns the same
    /// code at every call.
    fn knows(&self, error: &DriverError) -> bool {
        match &*self.lock() {
            Some(StreamError::Driver(first)) => {
                first.code == error.code && first.at.device == error.at.device
            }
            _ => false,
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let (Some(log), Some(file)) = (&self.log, &self.file) else {
            return;
        };
        if let Err(error) = std::fs::write(file, log.tail(usize::MAX) + "\n") {
            self.tell(&format!(
                "the log of stream operations could not be written to {}: {error}",
                file.display()
            ));
        }
    }
}
