//! What all streams of a job share: its first failure, and where failures are told.

use super::error::StreamError;
use super::log::OperationLog;
use crate::gpu::driver::{At, DriverError, Stream};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

/// Takes a line (or several) of diagnosis.
pub type ReportFn = Arc<dyn Fn(&str) + Send + Sync>;

/// Lines of the operation log that a diagnosis shows.
const LINES_SHOWN: usize = 32;

/// One job's work on its devices. An error anywhere is the end of all of it.
pub(super) struct Job {
    first: Mutex<Option<StreamError>>,
    /// Something that a thread may wait for has changed: a failure, a layer, a stop.
    changed: Condvar,
    /// All streams of the job.
    streams: Mutex<Vec<Weak<Stream>>>,
    pub(super) log: Option<Arc<OperationLog>>,
    /// Where the log is left at the end.
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

/// The lock that a thread holds while it looks whether to wait on.
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
        // The value is written whole: whoever panicked left it as it was.
        self.first.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until something has changed.
    pub(super) fn wait<'a>(&self, held: JobGuard<'a>) -> JobGuard<'a> {
        self.changed
            .wait(held)
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes all who wait. What they look at was changed under the lock, or they could miss it.
    pub(super) fn wake(&self) {
        self.changed.notify_all();
    }

    /// The failure that ended the job, if one has.
    pub(super) fn check(&self) -> Result<(), StreamError> {
        match &*self.lock() {
            None => Ok(()),
            Some(error) => Err(error.clone()),
        }
    }

    fn streams(&self) -> MutexGuard<'_, Vec<Weak<Stream>>> {
        // A stream is in the list or not: whoever panicked left it whole.
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stream that is drained when the job fails.
    pub(super) fn add<'a>(&self, streams: impl IntoIterator<Item = &'a Arc<Stream>>) {
        self.streams()
            .extend(streams.into_iter().map(Arc::downgrade));
    }

    /// Ends the job, if it has not ended yet: the diagnosis is told, and all streams of all devices
    /// are drained. What other threads enqueue meanwhile is drained when its memory is given back.
    /// The first failure.
    pub(super) fn fail(&self, error: StreamError) -> StreamError {
        let mut first = self.lock();
        if let Some(first) = &*first {
            return first.clone();
        }
        *first = Some(error.clone());
        self.wake();
        drop(first);
        let mut text = format!("work on the device failed: {error}");
        if let Some(hint) = error.hint() {
            text += &format!("\nhint: {hint}");
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

    /// Waits for all work of these streams, whatever has failed. An error fails the job, or is told
    /// where the job has failed already, with another.
    pub(super) fn drain<'a>(&self, streams: impl IntoIterator<Item = &'a Arc<Stream>>) {
        let mut drained: Vec<&Arc<Stream>> = Vec::new();
        for stream in streams {
            if drained.iter().any(|other| Arc::ptr_eq(other, stream)) {
                continue;
            }
            drained.push(stream);
            // Twice: after an error of the moment the work is still under way, and memory must not
            // be given back under it. A lost device answers again at once, and has no work left.
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

    /// Whether the job failed with this code on this device: a lost device says it at every call.
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
