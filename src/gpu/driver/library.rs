//! Finds out which library the driver's calls go to.

use super::ffi;
use std::ffi::{CStr, c_char};

/// The library behind the driver's calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Library {
    /// The library was opened. The name is libcuda.so.1 unless `$SEQSTREAM_LIBCUDA` names another
    /// file.
    Open(String),
    /// No library could be opened. The text is the dynamic linker's message.
    Missing(String),
}

/// Makes a file the driver's library, unless a library is open already, and says which library it
/// is.
pub fn choose(path: &CStr) -> Library {
    // SAFETY: the function copies the string.
    unsafe { ffi::cuda_trampoline_choose(path.as_ptr()) };
    library()
}

/// Opens the driver's library unless that has happened already, and says which library it is.
pub fn library() -> Library {
    let mut text: *const c_char = std::ptr::null();
    // SAFETY: the function writes a pointer to a string that is never freed or changed afterwards.
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
