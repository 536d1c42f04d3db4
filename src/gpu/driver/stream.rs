//! Streams: queues of device work. Work in one stream runs in order, and beside the work of other
//! streams.

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

/// Whether a stream has work to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Busy {
    /// Some of the stream's work is not done.
    Active,
    /// All of the stream's work is done.
    Idle,
}

/// An operation that was put on a stream.
#[derive(Debug, Clone, Copy)]
pub enum Operation<'a> {
    /// A copy from the host to the device.
    Load {
        /// The number of bytes.
        bytes: usize,
    },
    /// A copy from the device to the host.
    Store {
        /// The number of bytes.
        bytes: usize,
    },
    /// A copy within the device.
    Copy {
        /// The number of bytes.
        bytes: usize,
    },
    /// A region is filled with one byte value.
    Fill {
        /// The number of bytes.
        bytes: usize,
    },
    /// A kernel is launched, or a library's GEMM is enqueued.
    Launch {
        /// The name of the kernel or of the GEMM.
        kernel: &'a str,
    },
    /// A fence is recorded, which is passed when all earlier work is done.
    Record {
        /// The recorded fence.
        fence: &'a Fence,
    },
    /// All later work waits for a fence.
    Wait {
        /// The fence that the stream waits for.
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

/// Receives every operation that is put on an observed stream.
pub trait Observe: Send + Sync + fmt::Debug {
    /// Called when the driver has accepted `what`.
    fn enqueued(&self, stream: &Stream, what: Operation<'_>);
}

/// Stands for "no batch" in `Stream::batch`.
const NONE: u64 = u64::MAX;

/// A stream that only fences order with other streams. It is created as non-blocking, so that no
/// work on the NULL stream delays it.
#[derive(Debug)]
pub struct Stream {
    stream: ffi::CUstream,
    context: Context,
    name: StreamName,
    number: usize,
    /// The batch that new work belongs to, or `NONE`.
    batch: AtomicU64,
    observer: Option<Arc<dyn Observe>>,
}

// SAFETY: streams may be used from any thread, and the handle is only passed to the driver.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

impl Stream {
    /// Creates a stream on a device. Errors show `name` and `number`.
    ///
    /// # Errors
    /// [`DriverError`] if the stream cannot be created.
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

    /// Makes the stream report every later operation to `observer`.
    #[must_use]
    pub fn observed(mut self, observer: Arc<dyn Observe>) -> Self {
        self.observer = Some(observer);
        self
    }

    /// Returns the stream's kind.
    pub fn name(&self) -> StreamName {
        self.name
    }

    /// Returns the stream's number among the device's streams of the same kind.
    pub fn number(&self) -> usize {
        self.number
    }

    /// Says which batch the work that follows belongs to, for errors and logs.
    pub fn set_batch(&self, batch: Option<u64>) {
        // This is only a label, and orders nothing: relaxed stores suffice.
        self.batch.store(batch.unwrap_or(NONE), Ordering::Relaxed);
    }

    /// Returns the batch that the latest work belongs to.
    pub fn batch(&self) -> Option<u64> {
        Some(self.batch.load(Ordering::Relaxed)).filter(|batch| *batch != NONE)
    }

    /// Returns the context of the stream's device.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Returns the driver's handle, for a library that enqueues work by itself.
    pub(in crate::gpu) fn handle(&self) -> ffi::CUstream {
        self.stream
    }

    /// Records `fence` at this point of the stream: it is passed when all earlier work is done.
    ///
    /// # Errors
    /// [`DriverError`] if the driver refuses the call.
    pub fn record(&self, fence: &Fence) -> Result<(), DriverError> {
        self.context.bind()?;
        // SAFETY: both handles are live.
        let answer = unsafe { call!(cuEventRecord(fence.event, self.stream)) };
        self.enqueued(answer, Operation::Record { fence })
    }

    /// Makes all later work on this stream wait for the last record of `fence` made so far. The
    /// host does not wait.
    ///
    /// # Errors
    /// [`DriverError`] if the driver refuses the call.
    pub fn wait(&self, fence: &Fence) -> Result<(), DriverError> {
        self.context.bind()?;
        // SAFETY: both handles are live.
        let answer = unsafe { call!(cuStreamWaitEvent(self.stream, fence.event, 0)) };
        self.enqueued(answer, Operation::Wait { fence })
    }

    /// Enqueues a copy of `range` of a pinned buffer to the start of a region.
    ///
    /// # Safety
    /// Both memories must stay alive until a fence that is recorded after this copy has been
    /// passed. Until then, apart from work on this stream, nobody may write these bytes of the
    /// buffer or touch the region.
    ///
    /// # Errors
    /// [`DriverError`] if the driver refuses the copy.
    ///
    /// # Panics
    /// Panics if the range is not inside the buffer or is longer than the region.
    pub unsafe fn load(
        &self,
        from: &PinnedBuffer,
        range: Range<usize>,
        to: &Region,
    ) -> Result<(), DriverError> {
        assert!(range.start <= range.end && range.end <= from.len() && range.len() <= to.bytes());
        self.context.bind()?;
        let bytes = range.len();
        // SAFETY: the assertion shows that both ranges are inside live memory. The caller promises
        // the rest.
        let answer = unsafe {
            let from = from.as_ptr().add(range.start).cast::<c_void>();
            call!(cuMemcpyHtoDAsync_v2(to.address(), from, bytes, self.stream))
        };
        self.enqueued(answer, Operation::Load { bytes })
    }

    /// Copies bytes of memory that is not pinned to the start of a region. The driver stages them
    /// itself, so the bytes may be changed or freed when this returns.
    ///
    /// # Safety
    /// The region must stay alive until a fence that is recorded after this copy has been passed.
    /// Until then, apart from work on this stream, nobody may touch it.
    ///
    /// # Errors
    /// [`DriverError`] if the driver refuses the copy.
    ///
    /// # Panics
    /// Panics if `from` is longer than the region.
    pub unsafe fn load_pageable(&self, from: &[u8], to: &Region) -> Result<(), DriverError> {
        assert!(from.len() <= to.bytes());
        self.context.bind()?;
        let bytes = from.len();
        // SAFETY: both are live memory of this length, and the driver reads pageable memory before
        // the call returns. The caller promises the rest.
        let answer = unsafe {
            let from = from.as_ptr().cast::<c_void>();
            call!(cuMemcpyHtoDAsync_v2(to.address(), from, bytes, self.stream))
        };
        self.enqueued(answer, Operation::Load { bytes })
    }

    /// Enqueues a copy of the first bytes of a region to `range` of a pinned buffer.
    ///
    /// # Safety
    /// Both memories must stay alive until a fence that is recorded after this copy has been
    /// passed. Until then, apart from work on this stream, nobody may touch these bytes of the
    /// buffer or write the region.
    ///
    /// # Errors
    /// [`DriverError`] if the driver refuses the copy.
    ///
    /// # Panics
    /// Panics if the range is not inside the buffer or is longer than the region.
    pub unsafe fn store(
        &self,
        from: &Region,
        to: &PinnedBuffer,
        range: Range<usize>,
    ) -> Result<(), DriverError> {
        assert!(range.start <= range.end && range.end <= to.len() && range.len() <= from.bytes());
        self.context.bind()?;
        let bytes = range.len();
        // SAFETY: the assertion shows that both ranges are inside live memory. The caller promises
        // the rest.
        let answer = unsafe {
            let to = to.as_ptr().add(range.start).cast::<c_void>();
            call!(cuMemcpyDtoHAsync_v2(to, from.address(), bytes, self.stream))
        };
        self.enqueued(answer, Operation::Store { bytes })
    }

    /// Enqueues a copy of a region of this device to the start of another region.
    ///
    /// # Safety
    /// The regions may not overlap, and both must stay alive until a fence that is recorded after
    /// this copy has been passed. Until then, apart from work on this stream, nobody may write
    /// `from` or touch `to`.
    ///
    /// # Errors
    /// [`DriverError`] if the driver refuses the copy.
    ///
    /// # Panics
    /// Panics if `from` is longer than `to`.
    pub unsafe fn copy(&self, from: &Region, to: &Region) -> Result<(), DriverError> {
        let bytes = from.bytes();
        assert!(bytes <= to.bytes());
        self.context.bind()?;
        let (from, to) = (from.address(), to.address());
        // SAFETY: both regions are live memory, and the assertion shows that `to` is long enough.
        // The caller promises the rest.
        let answer = unsafe { call!(cuMemcpyDtoDAsync_v2(to, from, bytes, self.stream)) };
        self.enqueued(answer, Operation::Copy { bytes })
    }

    /// Enqueues the filling of a region with one byte value.
    ///
    /// # Safety
    /// The region must stay alive until a fence that is recorded after this operation has been
    /// passed. Until then, apart from work on this stream, nobody may touch it.
    ///
    /// # Errors
    /// [`DriverError`] if the driver refuses the operation.
    pub unsafe fn fill(&self, region: &Region, value: u8) -> Result<(), DriverError> {
        self.context.bind()?;
        let (address, bytes) = (region.address(), region.bytes());
        // SAFETY: the region is live memory of this device. The caller promises the rest.
        let answer = unsafe { call!(cuMemsetD8Async(address, value, bytes, self.stream)) };
        self.enqueued(answer, Operation::Fill { bytes })
    }

    /// Launches a kernel with `grid` blocks of `block` threads, each block with `shared` bytes of
    /// dynamic shared memory. `params` is the kernel's only argument.
    ///
    /// # Safety
    /// `P` must be the struct that the kernel takes. The memory that its addresses point at must
    /// stay alive, and apart from work on this stream nobody may touch it, until a fence that is
    /// recorded after the launch has been passed.
    ///
    /// # Errors
    /// [`DriverError`] if the driver refuses the launch.
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
            // SAFETY: the handles are live, and the kernel has one argument, which the driver
            // copies. The caller promises the rest.
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

    /// Says whether the stream has work. It never blocks.
    ///
    /// # Errors
    /// [`DriverError`], which may also be a failure of that work.
    pub fn status(&self) -> Result<Busy, DriverError> {
        self.context.bind()?;
        // SAFETY: the stream is live.
        match unsafe { ffi::cuStreamQuery(self.stream) } {
            ffi::NOT_READY => Ok(Busy::Active),
            code => {
                self.located(super::error::check("cuStreamQuery", code))?;
                Ok(Busy::Idle)
            }
        }
    }

    /// Blocks the host until all of the stream's work is done.
    ///
    /// # Errors
    /// [`DriverError`], which may also be a failure of that work.
    pub fn synchronize(&self) -> Result<(), DriverError> {
        self.context.bind()?;
        // SAFETY: the stream is live.
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

    /// Completes a call that enqueues an operation: locates its error, or tells the observer.
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
        // SAFETY: the stream was created exactly once, in `new`. The driver finishes its work
        // before it destroys the stream.
        let _ = unsafe { call!(cuStreamDestroy_v2(self.stream)) };
    }
}
