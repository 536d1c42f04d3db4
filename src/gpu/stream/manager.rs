//! Creates and holds the streams of a job's devices.

use super::error::StreamError;
use super::job::{Job, ReportFn};
use super::log::OperationLog;
use super::timeline::Timeline;
use crate::gpu::driver::{Busy, Context, DriverError, Stream, StreamName};
use crate::trace::Trace;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// The environment variable that names the file for the operation log. Setting it switches the log
/// on.
pub const LOG_VARIABLE: &str = "SEQSTREAM_STREAM_LOG";

/// How many operations the log keeps unless a number is given: those of some thousand batches.
const LOG_KEEPS: usize = 16 * 1024;

/// How a job divides its work over streams.
#[derive(Clone)]
pub struct StreamOptions {
    /// The number of load streams per device, at least one. Weights that are loaded beside batches
    /// need one of their own.
    pub load: usize,
    /// The number of compute streams per device, at least one.
    pub compute: usize,
    /// The number of store streams per device, at least one.
    pub store: usize,
    /// Whether kinds of work overlap. If not, one stream per device serves all three kinds, and the
    /// results are the same, bit for bit.
    pub overlap: bool,
    /// How many operations the log keeps; with `None` there is no log.
    pub log: Option<usize>,
    /// The file that the log is written to when the job ends.
    pub log_file: Option<PathBuf>,
    /// Receives diagnoses, which go to standard error by default.
    pub report: ReportFn,
    /// The trace that gets the times of all work on the streams; off by default.
    pub trace: Trace,
}

impl Default for StreamOptions {
    /// One stream of each kind with overlap, and no log.
    fn default() -> Self {
        Self {
            load: 1,
            compute: 1,
            store: 1,
            overlap: true,
            log: None,
            log_file: None,
            report: Arc::new(|text| eprintln!("seqstream: {text}")),
            trace: Trace::off(),
        }
    }
}

impl StreamOptions {
    /// Adds the operation log that [`LOG_VARIABLE`] asks for, if it is set.
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
            .field("trace", &self.trace)
            .finish_non_exhaustive()
    }
}

/// Whether a stream has work to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamStatus {
    /// The device's ordinal.
    pub device: u32,
    /// The stream's kind.
    pub kind: StreamName,
    /// The stream's number among those of its kind.
    pub index: usize,
    /// Whether the stream has work to do.
    pub busy: Busy,
}

/// One stream of each kind of one device, which a [`StreamProcessor`](super::StreamProcessor) works
/// on.
#[derive(Debug, Clone)]
pub struct StreamSet {
    /// Copies from the host to the device.
    pub load: Arc<Stream>,
    /// Runs kernels.
    pub compute: Arc<Stream>,
    /// Copies from the device to the host.
    pub store: Arc<Stream>,
    pub(super) job: Arc<Job>,
    /// Times the device's work, if there is a trace.
    pub(super) timeline: Option<Arc<Timeline>>,
}

#[derive(Debug)]
struct Device {
    context: Context,
    load: Vec<Arc<Stream>>,
    compute: Vec<Arc<Stream>>,
    store: Vec<Arc<Stream>>,
    timeline: Option<Arc<Timeline>>,
}

impl Device {
    fn of_kind(&self, kind: StreamName) -> &[Arc<Stream>] {
        match kind {
            StreamName::Load => &self.load,
            StreamName::Compute => &self.compute,
            StreamName::Store => &self.store,
        }
    }

    /// Returns each stream once, though it may serve several kinds.
    fn streams(&self) -> impl Iterator<Item = &Arc<Stream>> {
        let shared = Arc::ptr_eq(&self.load[0], &self.compute[0]);
        let others = if shared { 0 } else { usize::MAX };
        self.compute
            .iter()
            .chain(self.load.iter().take(others))
            .chain(self.store.iter().take(others))
    }
}

/// The streams of all devices of a job. One failure ends the whole job: after it, every call that
/// works on these streams returns that failure.
#[derive(Debug)]
pub struct StreamManager {
    devices: Vec<Device>,
    options: StreamOptions,
    job: Arc<Job>,
}

impl StreamManager {
    /// Creates a manager that has no streams yet.
    ///
    /// # Errors
    /// [`StreamError::Option`] if a kind would have no stream or more than 16.
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

    /// Creates the streams of these devices. A device that already has streams keeps them.
    ///
    /// # Errors
    /// [`StreamError::Driver`] if a stream cannot be created, or the job's failure.
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
        let timeline = |compute: &[Arc<Stream>]| match (self.options.trace.is_on(), compute.first())
        {
            (true, Some(stream)) => Ok(Some(Arc::new(Timeline::new(&self.options.trace, stream)?))),
            _ => Ok::<_, DriverError>(None),
        };
        if overlap {
            let compute = streams(StreamName::Compute, compute)?;
            return Ok(Device {
                load: streams(StreamName::Load, load)?,
                timeline: timeline(&compute)?,
                compute,
                store: streams(StreamName::Store, store)?,
                context,
            });
        }
        let one = streams(StreamName::Compute, 1)?;
        let serves = |count: usize| vec![Arc::clone(&one[0]); count];
        Ok(Device {
            load: serves(load),
            store: serves(store),
            timeline: timeline(&one)?,
            // The list holds the one stream once, since `Device::streams` goes through it.
            compute: one,
            context,
        })
    }

    fn device(&self, ordinal: u32) -> Option<&Device> {
        self.devices.iter().find(|d| d.context.ordinal() == ordinal)
    }

    /// Returns a device's stream of a kind by its number.
    ///
    /// # Errors
    /// [`StreamError::NoStream`] if there is none of that number.
    pub fn get_stream_at(
        &self,
        device: u32,
        kind: StreamName,
        index: usize,
    ) -> Result<&Arc<Stream>, StreamError> {
        let found = self.device(device).map(|d| d.of_kind(kind));
        // With overlap switched off there is only one stream, whatever number is asked for.
        let index_of = if self.options.overlap { index } else { 0 };
        found
            .and_then(|streams| streams.get(index_of))
            .ok_or(StreamError::NoStream {
                device,
                kind,
                index,
            })
    }

    /// Returns one stream of each kind: the stream with number `index`, modulo the number of
    /// streams of that kind.
    ///
    /// # Errors
    /// [`StreamError::NoStream`] if the device has none.
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
            timeline: self.device(device).and_then(|d| d.timeline.clone()),
        })
    }

    fn among(&self, device: Option<u32>) -> impl Iterator<Item = &Arc<Stream>> {
        self.devices
            .iter()
            .filter(move |d| device.is_none_or(|wanted| d.context.ordinal() == wanted))
            .flat_map(Device::streams)
    }

    /// Blocks the host until all work of one device, or of all devices, is done. A running job does
    /// not call this.
    ///
    /// # Errors
    /// [`StreamError`], which may also be a failure of that work. The other streams are waited for
    /// all the same.
    pub fn synchronize(&self, device: Option<u32>) -> Result<(), StreamError> {
        self.job.drain(self.among(device));
        self.job.check()
    }

    /// Says which streams have work to do. It never blocks.
    ///
    /// # Errors
    /// [`StreamError`], which may also be a failure of that work.
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

    /// Returns a scope that drains the streams of one device, or of all devices, when it ends,
    /// whatever ends it.
    pub fn scope(&self, device: Option<u32>) -> StreamScope<'_> {
        StreamScope {
            manager: self,
            device,
        }
    }

    /// Returns the failure that ended the job, if there was one.
    ///
    /// # Errors
    /// The job's failure.
    pub fn check(&self) -> Result<(), StreamError> {
        self.job.check()
    }

    /// Ends the job with a failure from elsewhere, unless the job has failed already. Returns the
    /// job's first failure.
    pub fn fail(&self, error: StreamError) -> StreamError {
        self.job.fail(error)
    }

    /// Returns the log of operations, if there is one.
    pub fn log(&self) -> Option<&OperationLog> {
        self.job.log.as_deref()
    }
}

/// Drains streams when it goes out of scope. An error of the draining is reported and fails the
/// job.
#[must_use = "a scope that is not held ends at once"]
#[derive(Debug)]
pub struct StreamScope<'a> {
    manager: &'a StreamManager,
    device: Option<u32>,
}

impl StreamScope<'_> {
    /// Ends the scope, and says whether the work succeeded.
    ///
    /// # Errors
    /// The job's first failure.
    pub fn close(self) -> Result<(), StreamError> {
        let (manager, device) = (self.manager, self.device);
        std::mem::forget(self); // it owns nothing, and dropping it would drain once more
        manager.synchronize(device)
    }
}

impl Drop for StreamScope<'_> {
    fn drop(&mut self) {
        self.manager.job.drain(self.manager.among(self.device));
    }
}
