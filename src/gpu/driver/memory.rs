//! Pinned memory on the host, and an arena of device memory.

use super::context::Context;
use super::error::{At, DriverError, call};
use super::ffi;
use std::ffi::c_void;
use std::ops::Range;
use std::sync::Arc;

/// Every region starts at a multiple of this many bytes, which is enough for any vector load and
/// for TMA.
const ALIGN: usize = 256;

/// Page-locked host memory. Copies from and to it do not block the host.
#[derive(Debug)]
pub struct PinnedBuffer {
    start: *mut u8,
    len: usize,
    context: Context,
}

// SAFETY: this is plain memory. The functions that hand it out say who may touch it and when.
unsafe impl Send for PinnedBuffer {}

impl PinnedBuffer {
    /// Allocates `len` bytes, at least one, and fills them with zeros.
    ///
    /// # Errors
    /// [`DriverError`] if the host memory cannot be allocated.
    pub fn new(context: &Context, len: usize) -> Result<Self, DriverError> {
        context.bind()?;
        let mut start: *mut c_void = std::ptr::null_mut();
        let len = len.max(1);
        // SAFETY: `start` is writable and a context is current.
        unsafe { call!(cuMemHostAlloc(&mut start, len, 0)) }.map_err(|e| e.at(&context.at()))?;
        // SAFETY: the driver allocated `len` bytes, and nobody uses them yet.
        unsafe { start.cast::<u8>().write_bytes(0, len) };
        Ok(Self {
            start: start.cast(),
            len,
            context: context.clone(),
        })
    }

    /// Returns the size in bytes.
    #[allow(clippy::len_without_is_empty)] // it is never empty
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns the address of the first byte.
    pub fn as_ptr(&self) -> *mut u8 {
        self.start
    }

    /// Lends the bytes for reading.
    ///
    /// # Safety
    /// No copy into the buffer may be in progress: the fence after the last such copy must have
    /// been passed.
    pub unsafe fn bytes(&self) -> &[u8] {
        // SAFETY: all `len` bytes are initialised, and the caller promises that the device does not
        // write them.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }

    /// Lends the bytes for writing.
    ///
    /// # Safety
    /// No copy from or into the buffer may be in progress.
    pub unsafe fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `&mut self` excludes other users of the buffer.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }
}

impl Drop for PinnedBuffer {
    fn drop(&mut self) {
        let _ = self.context.bind();
        // SAFETY: the memory was allocated exactly once, in `new`. The driver finishes pending
        // copies before it frees the memory.
        let _ = unsafe { call!(cuMemFreeHost(self.start.cast())) };
    }
}

/// The device memory of a job. It is allocated once and then handed out in regions, so that a
/// running job allocates nothing. Each region keeps the arena alive; the memory is freed with the
/// last region.
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

/// A contiguous part of an [`Arena`].
#[derive(Debug, Clone)]
pub struct Region {
    block: Arc<Block>,
    offset: usize,
    bytes: usize,
}

impl Arena {
    /// Allocates `bytes` bytes of the device's memory; [`Context::memory`] says how many are free.
    ///
    /// # Errors
    /// [`DriverError`], with code 2 if the device has too little free memory.
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

    /// Returns the bytes of an arena that a region of `bytes` bytes occupies, so that a caller can
    /// compute an arena's size in advance.
    pub fn footprint(bytes: usize) -> usize {
        bytes.next_multiple_of(ALIGN)
    }

    /// Returns how many bytes of the arena are still free.
    pub fn left(&self) -> usize {
        self.block.bytes - self.used
    }

    /// Takes the next `bytes` bytes of the arena, aligned to 256. `what` says what they are for, in
    /// error messages.
    ///
    /// # Errors
    /// [`DriverError`] with code 2 (out of memory), which names `what`.
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

/// Builds the driver's own out-of-memory error for an allocation that the driver was not asked for.
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
    /// Returns a part of the region, which also keeps the arena alive.
    ///
    /// # Panics
    /// Panics if the range is not inside the region.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Region {
        assert!(range.start <= range.end && range.end <= self.bytes);
        Region {
            block: Arc::clone(&self.block),
            offset: self.offset + range.start,
            bytes: range.len(),
        }
    }

    /// Returns the region's address on the device.
    pub fn address(&self) -> u64 {
        self.block.address + self.offset as u64
    }

    /// Returns the region's size in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let _ = self.context.bind();
        // SAFETY: the memory was allocated exactly once, in `Arena::new`, and no region refers to
        // it any more. The driver finishes pending work before it frees the memory.
        let _ = unsafe { call!(cuMemFree_v2(self.address)) };
    }
}
