//! Pages of the address space, and raw bytes in them: all `mmap` calls and all raw copies of this
//! crate.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::ptr;
use std::sync::LazyLock;

/// The size of a page in bytes.
pub const PAGE: usize = 4096;
/// The byte that fills fresh memory.
pub const POISON: u8 = 0xFF;
/// The size of the file whose private mappings provide fresh memory, so that a large allocation
/// costs no memory until it is written.
const POISON_FILE: usize = 16 << 20;

static POISON_PAGES: LazyLock<io::Result<OwnedFd>> = LazyLock::new(|| {
    use std::io::Write as _;
    // SAFETY: the name is a C string; the flag is a flag of memfd_create.
    let raw = unsafe { libc::memfd_create(c"cuda-sim-poison".as_ptr(), libc::MFD_CLOEXEC) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: memfd_create has just created this descriptor, and nobody else owns it.
    let mut file = std::fs::File::from(unsafe { OwnedFd::from_raw_fd(raw) });
    file.write_all(&vec![POISON; POISON_FILE])?;
    Ok(file.into())
});

/// A reserved range of addresses, closed at first. It is never unmapped, so a stale pointer never
/// points to something else.
pub struct Region {
    /// The first address.
    pub start: usize,
    /// The size in bytes.
    pub bytes: usize,
}

impl Region {
    /// Reserves `bytes` of address space.
    pub fn reserve(bytes: usize) -> io::Result<Self> {
        // SAFETY: this is a fresh anonymous mapping at an address that the operating system
        // chooses; it overlaps nothing.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            start: start as usize,
            bytes,
        })
    }

    /// Makes pages readable and writable, filled with poison.
    pub fn open(&self, start: usize, bytes: usize) -> io::Result<()> {
        self.assert_mine(start, bytes);
        let file = POISON_PAGES
            .as_ref()
            .map_err(|error| io::Error::new(error.kind(), error.to_string()))?;
        let mut done = 0;
        while done < bytes {
            let part = (bytes - done).min(POISON_FILE);
            // SAFETY: the range is page-aligned and inside this region (asserted), which only
            // `Space` hands out.
            let mapped = unsafe {
                libc::mmap(
                    (start + done) as *mut libc::c_void,
                    part,
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE,
                    file.as_raw_fd(),
                    0,
                )
            };
            if mapped == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            done += part;
        }
        Ok(())
    }

    /// Makes pages readable and writable, filled with zeros.
    pub fn open_zero(&self, start: usize, bytes: usize) -> io::Result<()> {
        self.assert_mine(start, bytes);
        // SAFETY: as in `open`.
        let mapped = unsafe {
            libc::mmap(
                start as *mut libc::c_void,
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if mapped == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// Makes pages inaccessible and releases their memory.
    pub fn close(&self, start: usize, bytes: usize) {
        self.assert_mine(start, bytes);
        if bytes == 0 {
            return;
        }
        // SAFETY: the range is page-aligned and inside this region (asserted); no Rust object lives
        // there.
        let mapped = unsafe {
            libc::mmap(
                start as *mut libc::c_void,
                bytes,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED,
                -1,
                0,
            )
        };
        assert!(
            mapped != libc::MAP_FAILED,
            "mmap over our own pages: {}",
            io::Error::last_os_error()
        );
    }

    fn assert_mine(&self, start: usize, bytes: usize) {
        assert!(start.is_multiple_of(PAGE) && bytes.is_multiple_of(PAGE));
        assert!(self.start <= start && start + bytes <= self.start + self.bytes);
    }
}

/// Copies between any two addresses; the ranges may overlap.
///
/// # Safety `source` must be readable and `target` writable for `bytes`: live simulated memory, or
/// host memory that a caller of the C ABI passed and keeps valid until the copy has finished.
pub unsafe fn copy(source: usize, target: usize, bytes: usize) {
    // SAFETY: the caller guarantees it.
    unsafe { ptr::copy(source as *const u8, target as *mut u8, bytes) }
}

/// Copies like `copy`, but writes only the pages that differ, so that a page of zeros that was
/// never written stays without memory.
///
/// # Safety As for `copy`.
pub unsafe fn update(source: usize, target: usize, bytes: usize) {
    for from in (0..bytes).step_by(PAGE) {
        let part = PAGE.min(bytes - from);
        // SAFETY: the caller guarantees both ranges.
        unsafe {
            let (source, target) = (source + from, target + from);
            let old = std::slice::from_raw_parts(target as *const u8, part);
            if old != std::slice::from_raw_parts(source as *const u8, part) {
                copy(source, target, part);
            }
        }
    }
}

/// Reads bytes.
///
/// # Safety `source` must be as in `copy`.
pub unsafe fn read(source: usize, bytes: usize) -> Vec<u8> {
    let mut out = vec![0; bytes];
    // SAFETY: the caller guarantees the source; the target is the vector.
    unsafe { copy(source, out.as_mut_ptr() as usize, bytes) };
    out
}

/// Writes bytes.
///
/// # Safety `target` must be as in `copy`.
pub unsafe fn write(target: usize, data: &[u8]) {
    // SAFETY: the caller guarantees the target; the source is the slice.
    unsafe { copy(data.as_ptr() as usize, target, data.len()) }
}

/// Returns true if all of these bytes are poison.
///
/// # Safety The range must be readable, like `copy`'s source.
pub unsafe fn is_poison(start: usize, bytes: usize) -> bool {
    // SAFETY: the caller guarantees it; nothing writes there meanwhile.
    unsafe { std::slice::from_raw_parts(start as *const u8, bytes) }
        .iter()
        .all(|byte| *byte == POISON)
}

/// Tells AddressSanitizer, if kernels are built with it, that only one range of these pages may be
/// accessed.
#[cfg(sanitized_kernels)]
pub fn forbid(start: usize, length: usize, allowed: usize, bytes: usize) {
    unsafe extern "C" {
        fn __asan_poison_memory_region(start: *const libc::c_void, bytes: usize);
        fn __asan_unpoison_memory_region(start: *const libc::c_void, bytes: usize);
    }
    // SAFETY: these pages are ours; Rust's own accesses are not instrumented.
    unsafe {
        __asan_poison_memory_region(start as *const libc::c_void, length);
        __asan_unpoison_memory_region(allowed as *const libc::c_void, bytes);
    }
}

/// Does nothing, since kernels are built without AddressSanitizer.
#[cfg(not(sanitized_kernels))]
pub fn forbid(_start: usize, _length: usize, _allowed: usize, _bytes: usize) {}
