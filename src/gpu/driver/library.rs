//! Which library the driver's calls go to.

use super::ffi;
use std::ffi::{CStr, c_char};

/// The library behind the driver's calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Library {
    /// Opened: its name, libcuda.so.1 unless `$SEQSTREAM_LIBCUDA` says otherwise.
    Open(String),
    /// None: what the dynamic linker said.
    Missing(String),
}

/// Opens the driver's library if nothing has yet, and says which it is.
pub fn library() -> Library {
    let mut text: *const c_char = std::ptr::null();
    // SAFETY: the function writes a pointer to a string that is never freed nor changed again.
    let (open, text) = unsafe {
        let open = ffi::cuda_trampoline_library(&mut text);
        (open == 1, CStr::from_ptr(text))
    };
    let text = text.to_string_lossy().into_owned();
    if open {
        Library::Open(text)
    } else {
        Library::Missing(text)
    }
}
