//! Memory: pinned on the host, an arena on the device.

use super::context::Context;
use super::error::{At, DriverError, call};
use super::ffi;
use std::ffi::c_void;
use std::ops::Range;
use std::sync::Arc;

/// What regions start at multiples of: enough for every vector load and TMA.
const ALIGN: usize = 256;

/// Page-locked host memory: copies from and to it do not block the host.
#[derive(Debug)]
pub struct PinnedBuffer {
    start: *mut u8,
    len: usize,
    context: Context,
}

// SAFETY: plain memory; who may touch it when is said by the functions that hand it out.
unsafe impl Send for PinnedBuffer {}

impl PinnedBuffer {
    /// `len` bytes, at least one; zeroed.
    ///
    /// # Errors
    /// [`DriverError`]
    pub fn new(context: &Context, len: usize) -> Result<Self, DriverError> {
        context.bind()?;
        let mut start: *mut c_void = std::ptr::null_mut();
        let len = len.max(1);
        // SAFETY: `start` is writable and a context is current.
        unsafe { call!(cuMemHostAlloc(&mut start, len, 0)) }.map_err(|e| e.at(&context.at()))?;
        // SAFETY: the driver gave `len` bytes, which nobody uses yet.
        unsafe { start.cast::<u8>().write_bytes(0, len) };
        Ok(Self {
            start: start.cast(),
            len,
            context: context.clone(),
        })
    }

    /// Its bytes.
    #[allow(clippy::len_without_is_empty)] // never empty
    pub fn len(&self) -> usize {
        self.len
    }

    /// Where it starts.
    pub fn as_ptr(&self) -> *mut u8 {
        self.start
    }

    /// The bytes, to read.
    ///
    /// # Safety
    /// No copy into the buffer may be under way: the fence after the last one has been passed.
    pub unsafe fn bytes(&self) -> &[u8] {
        // SAFETY: `len` initialised bytes; the caller promises that the device does not write them.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }

    /// The bytes, to write.
    ///
    /// # Safety
    /// No copy from or into the buffer may be under way.
    pub unsafe fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and nobody else holds the buffer.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }
}

impl Drop for PinnedBuffer {
    fn drop(&mut self) {
        let _ = self.context.bind();
        // SAFETY: allocated once, in `new`. The driver ends copies on it first.
        let _ = unsafe { call!(cuMemFreeHost(self.start.cast())) };
    }
}

/// The device memory of a job: allocated once and then handed out, so that a running job allocates
/// nothing. Regions keep it alive; it is freed with the last of them.
#[derive(Debug)]
pub struct Arena {
    block: Arc<Block>,
    used: usize,
}

#[derive(Debug)]
struct Block {
    address: ffi::CUdeviceptr,
    bytes: usize,
    context: Context,
}

/// A part of an arena.
#[derive(Debug, Clone)]
pub struct Region {
    block: Arc<Block>,
    offset: usize,
    bytes: usize,
}

impl Arena {
    /// `bytes` of a device's memory; [`Context::memory`] says how much is free.
    ///
    /// # Errors
    /// [`DriverError`]: code 2 where there is not that much.
    pub fn new(context: &Context, bytes: usize) -> Result<Self, DriverError> {
        context.bind()?;
        let bytes = bytes.max(1).next_multiple_of(ALIGN);
        let mut address = 0;
        // SAFETY: `address` is writable and a context is current.
        unsafe { call!(cuMemAlloc_v2(&mut address, bytes)) }.map_err(|e| e.at(&context.at()))?;
        Ok(Self {
            block: Arc::new(Block {
                address,
                bytes,
                context: context.clone(),
            }),
            used: 0,
        })
    }

    /// What a region of so many bytes takes of an arena: for its sum before there is one.
    pub fn footprint(bytes: usize) -> usize {
        bytes.next_multiple_of(ALIGN)
    }

    /// Bytes that are left.
    pub fn left(&self) -> usize {
        self.block.bytes - self.used
    }

    /// The next `bytes` of it, for `what`, aligned to 256.
    ///
    /// # Errors
    /// [`DriverError`] with code 2, out of memory, that names `what`.
    pub fn take(&mut self, what: &str, bytes: usize) -> Result<Region, DriverError> {
        if bytes > self.left() {
            return Err(out_of_memory(
                &self.block.context,
                "Arena::take",
                format!("placing {what}, {bytes} bytes of {} left", self.left()),
            ));
        }
        let region = Region {
            block: Arc::clone(&self.block),
            offset: self.used,
            bytes,
        };
        self.used = (self.used + bytes)
            .next_multiple_of(ALIGN)
            .min(self.block.bytes);
        Ok(region)
    }
}

/// The driver's own error, of a call that did not have to be made.
fn out_of_memory(context: &Context, call: &'static str, operation: String) -> DriverError {
    DriverError {
        call,
        code: 2,
        name: "CUDA_ERROR_OUT_OF_MEMORY".into(),
        meaning: "out of memory".into(),
        at: Box::new(At {
            operation: Some(operation),
            ..context.at()
        }),
    }
}

impl Region {
    /// A part of it, which keeps the arena alive as well.
    ///
    /// # Panics
    /// Where the range is not inside the region.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Region {
        assert!(range.start <= range.end && range.end <= self.bytes);
        Region {
            block: Arc::clone(&self.block),
            offset: self.offset + range.start,
            bytes: range.len(),
        }
    }

    /// Its address on the device.
    pub fn address(&self) -> u64 {
        self.block.address + self.offset as u64
    }

    /// Its size.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let _ = self.context.bind();
        // SAFETY: allocated once, in `Arena::new`, and no region is left. The driver ends work first.
        let _ = unsafe { call!(cuMemFree_v2(self.address)) };
    }
}
