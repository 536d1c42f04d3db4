//! The streams of a job's devices.

use super::error::StreamError;
use super::job::{Job, ReportFn};
use super::log::OperationLog;
use crate::gpu::driver::{Busy, Context, DriverError, Stream, StreamName};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// Names the file that the operation log is left in, and so switches it on.
pub const LOG_VARIABLE: &str = "SEQSTREAM_STREAM_LOG";

/// Operations that the log keeps where nothing else was said: some thousand batches.
const LOG_KEEPS: usize = 16 * 1024;

/// How a job divides its work over streams.
#[derive(Clone)]
pub struct StreamOptions {
    /// Load streams a device, at least one. Weights that are loaded beside batches want their own.
    pub load: usize,
    /// Compute streams a device, at least one.
    pub compute: usize,
    /// Store streams a device, at least one.
    pub store: usize,
    /// Off: one stream a device serves all three kinds. The results are the same, bit for bit.
    pub overlap: bool,
    /// How many operations the log keeps; `None`: there is no log.
    pub log: Option<usize>,
    /// The file that the log is left in when the job ends.
    pub log_file: Option<PathBuf>,
    /// Where diagnoses go; standard error by default.
    pub report: ReportFn,
}

impl Default for StreamOptions {
    /// A stream of each kind, overlapping; no log.
    fn default() -> Self {
        Self {
            load: 1,
            compute: 1,
            store: 1,
            overlap: true,
            log: None,
            log_file: None,
            report: Arc::new(|text| eprintln!("seqstream: {text}")),
        }
    }
}

impl StreamOptions {
    /// With the operation log that [`LOG_VARIABLE`] asks for, if it is set.
    #[must_use]
    pub fn from_environment(mut self) -> Self {
        if let Some(file) = std::env::var_os(LOG_VARIABLE).filter(|file| !file.is_empty()) {
            self.log = self.log.or(Some(LOG_KEEPS));
            self.log_file = Some(file.into());
        }
        self
    }
}

impl fmt::Debug for StreamOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamOptions")
            .field("load", &self.load)
            .field("compute", &self.compute)
            .field("store", &self.store)
            .field("overlap", &self.overlap)
            .field("log", &self.log)
            .field("log_file", &self.log_file)
            .finish_non_exhaustive()
    }
}

/// Whether a stream has work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamStatus {
    /// The device's ordinal.
    pub device: u32,
    /// The stream's kind.
    pub kind: StreamName,
    /// Its number among those of its kind.
    pub index: usize,
    /// Whether it has work.
    pub busy: Busy,
}

/// A stream of each kind of one device: what one [`StreamProcessor`](super::StreamProcessor) works on.
#[derive(Debug, Clone)]
pub struct StreamSet {
    /// Host to device.
    pub load: Arc<Stream>,
    /// Kernels.
    pub compute: Arc<Stream>,
    /// Device to host.
    pub store: Arc<Stream>,
    pub(super) job: Arc<Job>,
}

#[derive(Debug)]
struct Device {
    context: Context,
    load: Vec<Arc<Stream>>,
    compute: Vec<Arc<Stream>>,
    store: Vec<Arc<Stream>>,
}

impl Device {
    fn of_kind(&self, kind: StreamName) -> &[Arc<Stream>] {
        match kind {
            StreamName::Load => &self.load,
            StreamName::Compute => &self.compute,
            StreamName::Store => &self.store,
        }
    }

    /// Each stream once, though it may serve several kinds.
    fn streams(&self) -> impl Iterator<Item = &Arc<Stream>> {
        let shared = Arc::ptr_eq(&self.load[0], &self.compute[0]);
        let others = if shared { 0 } else { usize::MAX };
        self.compute
            .iter()
            .chain(self.load.iter().take(others))
            .chain(self.store.iter().take(others))
    }
}

/// The streams of all devices of a job. One failure ends the whole job: after it, every call of
/// everything that works on these streams answers with it.
#[derive(Debug)]
pub struct StreamManager {
    devices: Vec<Device>,
    options: StreamOptions,
    job: Arc<Job>,
}

impl StreamManager {
    /// A manager without streams yet.
    ///
    /// # Errors
    /// [`StreamError::Option`] where there would be no stream of a kind, or more than 16.
    pub fn new(options: StreamOptions) -> Result<Self, StreamError> {
        for (what, value) in [
            ("load streams a device", options.load),
            ("compute streams a device", options.compute),
            ("store streams a device", options.store),
        ] {
            let (from, to) = (1, 16);
            if !(from..=to).contains(&value) {
                return Err(StreamError::Option {
                    what,
                    value,
                    from,
                    to,
                });
            }
        }
        let log = options.log.map(|keep| Arc::new(OperationLog::new(keep)));
        let job = Job::new(log, options.log_file.clone(), Arc::clone(&options.report));
        Ok(Self {
            devices: Vec::new(),
            options,
            job: Arc::new(job),
        })
    }

    /// Creates the streams of these devices; those of a device that has some already stay.
    ///
    /// # Errors
    /// [`StreamError::Driver`]
    pub fn create_streams(&mut self, devices: &[Context]) -> Result<(), StreamError> {
        self.job.check()?;
        for context in devices {
            if self.device(context.ordinal()).is_none() {
                let device = self.create(context).map_err(|e| self.job.fail(e.into()))?;
                self.job.add(device.streams());
                self.devices.push(device);
            }
        }
        Ok(())
    }

    fn create(&self, context: &Context) -> Result<Device, DriverError> {
        let streams = |kind: StreamName, count: usize| {
            (0..count)
                .map(|number| {
                    let stream = Stream::new(context, kind, number)?;
                    Ok(Arc::new(match &self.job.log {
                        Some(log) => stream.observed(Arc::clone(log) as _),
                        None => stream,
                    }))
                })
                .collect::<Result<Vec<_>, DriverError>>()
        };
        let StreamOptions {
            load,
            compute,
            store,
            overlap,
            ..
        } = self.options;
        let context = context.clone();
        if overlap {
            return Ok(Device {
                load: streams(StreamName::Load, load)?,
                compute: streams(StreamName::Compute, compute)?,
                store: streams(StreamName::Store, store)?,
                context,
            });
        }
        let one = streams(StreamName::Compute, 1)?;
        let serves = |count: usize| vec![Arc::clone(&one[0]); count];
        Ok(Device {
            load: serves(load),
            store: serves(store),
            // Each only once: `streams` goes through these.
            compute: one,
            context,
        })
    }

    fn device(&self, ordinal: u32) -> Option<&Device> {
        self.devices.iter().find(|d| d.context.ordinal() == ordinal)
    }

    /// A device's first stream of a kind.
    ///
    /// # Errors
    /// [`StreamError::NoStream`]
    pub fn get_stream(&self, device: u32, kind: StreamName) -> Result<&Arc<Stream>, StreamError> {
        self.get_stream_at(device, kind, 0)
    }

    /// A device's stream of a kind by its number.
    ///
    /// # Errors
    /// [`StreamError::NoStream`]
    pub fn get_stream_at(
        &self,
        device: u32,
        kind: StreamName,
        index: usize,
    ) -> Result<&Arc<Stream>, StreamError> {
        let found = self.device(device).map(|d| d.of_kind(kind));
        // With the streams off there is one, whatever its number.
        let index_of = if self.options.overlap { index } else { 0 };
        found
            .and_then(|streams| streams.get(index_of))
            .ok_or(StreamError::NoStream {
                device,
                kind,
                index,
            })
    }

    /// A stream of each kind: the `index`-th, counted around where there are fewer of a kind.
    ///
    /// # Errors
    /// [`StreamError::NoStream`] where the device has none.
    pub fn streams(&self, device: u32, index: usize) -> Result<StreamSet, StreamError> {
        let of = |kind: StreamName| {
            let count = self.device(device).map_or(1, |d| d.of_kind(kind).len());
            self.get_stream_at(device, kind, index % count).cloned()
        };
        Ok(StreamSet {
            load: of(StreamName::Load)?,
            compute: of(StreamName::Compute)?,
            store: of(StreamName::Store)?,
            job: Arc::clone(&self.job),
        })
    }

    fn among(&self, device: Option<u32>) -> impl Iterator<Item = &Arc<Stream>> {
        self.devices
            .iter()
            .filter(move |d| device.is_none_or(|wanted| d.context.ordinal() == wanted))
            .flat_map(Device::streams)
    }

    /// Blocks the host until all work of a device, or of all, is done. Not for a running job.
    ///
    /// # Errors
    /// [`StreamError`], of that work too; the other streams are waited for all the same.
    pub fn synchronize(&self, device: Option<u32>) -> Result<(), StreamError> {
        self.job.drain(self.among(device));
        self.job.check()
    }

    /// Whether each stream has work; never blocks.
    ///
    /// # Errors
    /// [`StreamError`], of that work too.
    pub fn status(&self) -> Result<Vec<StreamStatus>, StreamError> {
        self.job.check()?;
        self.among(None)
            .map(|stream| {
                Ok(StreamStatus {
                    device: stream.context().ordinal(),
                    kind: stream.name(),
                    index: stream.number(),
                    busy: stream
                        .status()
                        .map_err(|e: DriverError| self.job.fail(e.into()))?,
                })
            })
            .collect()
    }

    /// A scope at whose end a device's streams, or all, have no work left, however it is left.
    pub fn scope(&self, device: Option<u32>) -> StreamScope<'_> {
        StreamScope {
            manager: self,
            device,
        }
    }

    /// The failure that ended the job, if one has.
    ///
    /// # Errors
    /// That failure.
    pub fn check(&self) -> Result<(), StreamError> {
        self.job.check()
    }

    /// Ends the job with a failure from elsewhere, unless it has failed already. The first failure.
    pub fn fail(&self, error: StreamError) -> StreamError {
        self.job.fail(error)
    }

    /// The log of operations, if there is one.
    pub fn log(&self) -> Option<&OperationLog> {
        self.job.log.as_deref()
    }
}

/// Drains streams when it goes out of scope. An error in that is told and fails the job.
#[must_use = "a scope that is not held ends at once"]
#[derive(Debug)]
pub struct StreamScope<'a> {
    manager: &'a StreamManager,
    device: Option<u32>,
}

impl StreamScope<'_> {
    /// Ends it, and says how the work ended.
    ///
    /// # Errors
    /// The job's first failure.
    pub fn close(self) -> Result<(), StreamError> {
        let (manager, device) = (self.manager, self.device);
        std::mem::forget(self); // it holds nothing, and would drain once more
        manager.synchronize(device)
    }
}

impl Drop for StreamScope<'_> {
    fn drop(&mut self) {
        self.manager.job.drain(self.manager.among(self.device));
    }
}
