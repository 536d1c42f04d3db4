//! Streams: work in order, beside other streams.

use super::context::Context;
use super::error::{At, DriverError, StreamName, call};
use super::fence::Fence;
use super::ffi;
use super::memory::{PinnedBuffer, Region};
use super::module::Function;
use std::ffi::c_void;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Whether a stream has work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Busy {
    /// Some of its work is not done.
    Active,
    /// All of it is done.
    Idle,
}

/// What was put on a stream.
#[derive(Debug, Clone, Copy)]
pub enum Operation<'a> {
    /// A copy from the host.
    Load {
        /// How many.
        bytes: usize,
    },
    /// A copy to the host.
    Store {
        /// How many.
        bytes: usize,
    },
    /// A copy within the device.
    Copy {
        /// How many.
        bytes: usize,
    },
    /// A fill.
    Fill {
        /// How many.
        bytes: usize,
    },
    /// A kernel, or a library's product.
    Launch {
        /// Its name.
        kernel: &'a str,
    },
    /// A fence that is passed when all before it is done.
    Record {
        /// Which.
        fence: &'a Fence,
    },
    /// What follows waits for a fence.
    Wait {
        /// Which.
        fence: &'a Fence,
    },
}

impl fmt::Display for Operation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Operation::Load { bytes } => write!(f, "load {bytes} bytes"),
            Operation::Store { bytes } => write!(f, "store {bytes} bytes"),
            Operation::Copy { bytes } => write!(f, "copy {bytes} bytes"),
            Operation::Fill { bytes } => write!(f, "fill {bytes} bytes"),
            Operation::Launch { kernel } => write!(f, "kernel {kernel}"),
            Operation::Record { fence } => write!(f, "record {fence}"),
            Operation::Wait { fence } => write!(f, "wait for {fence}"),
        }
    }
}

/// Is told of all that streams are given.
pub trait Observe: Send + Sync + fmt::Debug {
    /// The driver has accepted `what`.
    fn enqueued(&self, stream: &Stream, what: Operation<'_>);
}

/// No batch.
const NONE: u64 = u64::MAX;

/// A stream that is ordered with no other but by fences: truly non-blocking, so that nothing on
/// the NULL stream holds it up.
#[derive(Debug)]
pub struct Stream {
    stream: ffi::CUstream,
    context: Context,
    name: StreamName,
    number: usize,
    /// What is put on it belongs to this batch; `NONE` for none.
    batch: AtomicU64,
    observer: Option<Arc<dyn Observe>>,
}

// SAFETY: streams may be used from any thread; the handle is only passed to the driver.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

impl Stream {
    /// A new stream of a device; `name` and `number` are for errors.
    ///
    /// # Errors
    /// [`DriverError`]
    pub fn new(context: &Context, name: StreamName, number: usize) -> Result<Self, DriverError> {
        context.bind()?;
        let mut stream = std::ptr::null_mut();
        // SAFETY: `stream` is writable and a context is current.
        unsafe { call!(cuStreamCreate(&mut stream, ffi::STREAM_NON_BLOCKING)) }
            .map_err(|e| e.at(&context.at()))?;
        Ok(Self {
            stream,
            context: context.clone(),
            name,
            number,
            batch: AtomicU64::new(NONE),
            observer: None,
        })
    }

    /// Tells `observer` of all that it is given from here on.
    #[must_use]
    pub fn observed(mut self, observer: Arc<dyn Observe>) -> Self {
        self.observer = Some(observer);
        self
    }

    /// Its kind.
    pub fn name(&self) -> StreamName {
        self.name
    }

    /// Its number among the device's streams of its kind.
    pub fn number(&self) -> usize {
        self.number
    }

    /// What follows belongs to this batch, for errors and logs.
    pub fn set_batch(&self, batch: Option<u64>) {
        // Only a label: nothing is ordered by it.
        self.batch.store(batch.unwrap_or(NONE), Ordering::Relaxed);
    }

    /// The batch that its latest work belongs to.
    pub fn batch(&self) -> Option<u64> {
        Some(self.batch.load(Ordering::Relaxed)).filter(|batch| *batch != NONE)
    }

    /// The device it is on.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// The driver's handle, for a library that enqueues by itself.
    pub(in crate::gpu) fn handle(&self) -> ffi::CUstream {
        self.stream
    }

    /// Marks this point of the stream: `fence` is passed when all before it is done.
    ///
    /// # Errors
    /// [`DriverError`]
    pub fn record(&self, fence: &Fence) -> Result<(), DriverError> {
        self.context.bind()?;
        // SAFETY: both handles are live.
        let answer = unsafe { call!(cuEventRecord(fence.event, self.stream)) };
        self.enqueued(answer, Operation::Record { fence })
    }

    /// All that follows on this stream waits until `fence`, as last recorded by now, is passed.
    /// The host does not wait.
    ///
    /// # Errors
    /// [`DriverError`]
    pub fn wait(&self, fence: &Fence) -> Result<(), DriverError> {
        self.context.bind()?;
        // SAFETY: both handles are live.
        let answer = unsafe { call!(cuStreamWaitEvent(self.stream, fence.event, 0)) };
        self.enqueued(answer, Operation::Wait { fence })
    }

    /// Copies `range` of a pinned buffer to the start of a region.
    ///
    /// # Safety
    /// Until a fence recorded after it is passed, nobody may write these bytes of the buffer nor
    /// touch the region but on this stream, and both must live.
    ///
    /// # Errors
    /// [`DriverError`]
    ///
    /// # Panics
    /// Where the range is not inside the buffer, or longer than the region.
    pub unsafe fn load(
        &self,
        from: &PinnedBuffer,
        range: Range<usize>,
        to: &Region,
    ) -> Result<(), DriverError> {
        assert!(range.start <= range.end && range.end <= from.len() && range.len() <= to.bytes());
        self.context.bind()?;
        let bytes = range.len();
        // SAFETY: both ranges are inside live memory by the assertion; the rest the caller promises.
        let answer = unsafe {
            let from = from.as_ptr().add(range.start).cast::<c_void>();
            call!(cuMemcpyHtoDAsync_v2(to.address(), from, bytes, self.stream))
        };
        self.enqueued(answer, Operation::Load { bytes })
    }

    /// Copies the first bytes of a region to `range` of a pinned buffer.
    ///
    /// # Safety
    /// Until a fence recorded after it is passed, nobody may touch these bytes of the buffer nor
    /// write the region but on this stream, and both must live.
    ///
    /// # Errors
    /// [`DriverError`]
    ///
    /// # Panics
    /// Where the range is not inside the buffer, or longer than the region.
    pub unsafe fn store(
        &self,
        from: &Region,
        to: &PinnedBuffer,
        range: Range<usize>,
    ) -> Result<(), DriverError> {
        assert!(range.start <= range.end && range.end <= to.len() && range.len() <= from.bytes());
        self.context.bind()?;
        let bytes = range.len();
        // SAFETY: both ranges are inside live memory by the assertion; the rest the caller promises.
        let answer = unsafe {
            let to = to.as_ptr().add(range.start).cast::<c_void>();
            call!(cuMemcpyDtoHAsync_v2(to, from.address(), bytes, self.stream))
        };
        self.enqueued(answer, Operation::Store { bytes })
    }

    /// Copies a region of this device to the start of another.
    ///
    /// # Safety
    /// Until a fence recorded after it is passed, nobody may write `from` nor touch `to` but on this
    /// stream, they may not overlap, and both must live.
    ///
    /// # Errors
    /// [`DriverError`]
    ///
    /// # Panics
    /// Where `from` is longer than `to`.
    pub unsafe fn copy(&self, from: &Region, to: &Region) -> Result<(), DriverError> {
        let bytes = from.bytes();
        assert!(bytes <= to.bytes());
        self.context.bind()?;
        let (from, to) = (from.address(), to.address());
        // SAFETY: live memory, as much of it by the assertion; the rest the caller promises.
        let answer = unsafe { call!(cuMemcpyDtoDAsync_v2(to, from, bytes, self.stream)) };
        self.enqueued(answer, Operation::Copy { bytes })
    }

    /// Fills a region with a byte.
    ///
    /// # Safety
    /// Until a fence recorded after it is passed, nobody may touch the region but on this stream,
    /// and it must live.
    ///
    /// # Errors
    /// [`DriverError`]
    pub unsafe fn fill(&self, region: &Region, value: u8) -> Result<(), DriverError> {
        self.context.bind()?;
        let (address, bytes) = (region.address(), region.bytes());
        // SAFETY: live memory of this device; the rest the caller promises.
        let answer = unsafe { call!(cuMemsetD8Async(address, value, bytes, self.stream)) };
        self.enqueued(answer, Operation::Fill { bytes })
    }

    /// Launches a kernel: `grid` blocks of `block` threads with `shared` bytes of dynamic shared
    /// memory each. `params` is the kernel's one argument.
    ///
    /// # Safety
    /// `P` must be the struct that the kernel takes, and what its addresses point at must live
    /// and be touched by nobody else until a fence recorded after the launch is passed.
    ///
    /// # Errors
    /// [`DriverError`]
    pub unsafe fn launch<P: Copy>(
        &self,
        function: &Function,
        grid: [u32; 3],
        block: [u32; 3],
        shared: u32,
        params: &P,
    ) -> Result<(), DriverError> {
        self.context.bind()?;
        // The driver reads the argument before it returns.
        let mut arguments = [std::ptr::from_ref(params).cast_mut().cast::<c_void>()];
        let answer = {
            let [gx, gy, gz] = grid;
            let [bx, by, bz] = block;
            // SAFETY: live handles; one argument, which the driver copies; the rest the caller
            // promises.
            unsafe {
                call!(cuLaunchKernel(
                    function.handle(),
                    gx,
                    gy,
                    gz,
                    bx,
                    by,
                    bz,
                    shared,
                    self.stream,
                    arguments.as_mut_ptr(),
                    std::ptr::null_mut(),
                ))
            }
        };
        let kernel = function.name();
        self.enqueued(answer, Operation::Launch { kernel })
    }

    /// Whether it has work; never blocks.
    ///
    /// # Errors
    /// [`DriverError`], of that work too.
    pub fn status(&self) -> Result<Busy, DriverError> {
        self.context.bind()?;
        // SAFETY: a live stream.
        match unsafe { ffi::cuStreamQuery(self.stream) } {
            ffi::NOT_READY => Ok(Busy::Active),
            code => {
                self.located(super::error::check("cuStreamQuery", code))?;
                Ok(Busy::Idle)
            }
        }
    }

    /// Blocks the host until all its work is done.
    ///
    /// # Errors
    /// [`DriverError`], of that work too.
    pub fn synchronize(&self) -> Result<(), DriverError> {
        self.context.bind()?;
        // SAFETY: a live stream.
        self.located(unsafe { call!(cuStreamSynchronize(self.stream)) })
    }

    fn located(&self, answer: Result<(), DriverError>) -> Result<(), DriverError> {
        answer.map_err(|e| {
            e.at(&At {
                device: Some(self.context.ordinal()),
                stream: Some((self.name, self.number)),
                batch: self.batch(),
                operation: None,
            })
        })
    }

    /// The end of a call that puts something on the stream.
    pub(in crate::gpu) fn enqueued(
        &self,
        answer: Result<(), DriverError>,
        what: Operation<'_>,
    ) -> Result<(), DriverError> {
        self.located(answer).map_err(|e| {
            e.at(&At {
                operation: Some(what.to_string()),
                ..At::default()
            })
        })?;
        if let Some(observer) = &self.observer {
            observer.enqueued(self, what);
        }
        Ok(())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.context.bind();
        // SAFETY: made once, in `new`. The driver ends the work on it first.
        let _ = unsafe { call!(cuStreamDestroy_v2(self.stream)) };
    }
}
