//! The C ABI's types: the pointers that a caller passes, and `api!`, which exports a function.

use std::ffi::{CStr, c_char};

use crate::code::Code;

/// A pointer to which a result is written.
#[repr(transparent)]
pub struct Out<T>(*mut T);

impl<T> Out<T> {
    /// Writes the result; a null pointer is an invalid argument.
    pub fn set(&self, value: T) -> Result<(), Code> {
        if self.set_if_wanted(value) {
            Ok(())
        } else {
            Err(Code::INVALID_VALUE)
        }
    }

    /// Writes a result that a caller may decline by a null pointer. Returns false if the pointer is
    /// null.
    pub fn set_if_wanted(&self, value: T) -> bool {
        if self.0.is_null() {
            return false;
        }
        // SAFETY: an `Out` comes only from a C caller, who by the API's contract passes null or a
        // pointer to memory for a `T`.
        unsafe { self.0.write_unaligned(value) };
        true
    }

    /// Writes the `index`-th element of an array that the caller has allocated.
    pub fn set_at(&self, index: usize, value: T) -> Result<(), Code> {
        if self.0.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: as above; the contract makes the array longer than `index`.
        unsafe { self.0.add(index).write_unaligned(value) };
        Ok(())
    }

    /// Returns the pointer itself.
    pub fn address(&self) -> *mut T {
        self.0
    }
}

/// A pointer from which a value is read during the call.
#[repr(transparent)]
pub struct In<T>(*const T);

impl<T: Copy> In<T> {
    /// Reads the value; a null pointer is an invalid argument.
    pub fn get(&self) -> Result<T, Code> {
        if self.0.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: an `In` comes only from a C caller, who by the API's contract passes null or a
        // pointer to a readable `T`.
        Ok(unsafe { self.0.read_unaligned() })
    }

    /// Reads the `index`-th element of an array.
    pub fn at(&self, index: usize) -> Result<T, Code> {
        if self.0.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: as in `get`; the contract makes the array longer than `index`.
        Ok(unsafe { self.0.add(index).read_unaligned() })
    }

    /// Returns true if the caller passed null.
    pub fn is_null(&self) -> bool {
        self.0.is_null()
    }
}

/// A C string of the caller.
#[repr(transparent)]
pub struct Text(*const c_char);

impl Text {
    /// Copies the string; a null pointer is an invalid argument.
    pub fn get(&self) -> Result<String, Code> {
        if self.0.is_null() {
            return Err(Code::INVALID_VALUE);
        }
        // SAFETY: a `Text` comes only from a C caller, who by the API's contract passes null or a C
        // string.
        Ok(unsafe { CStr::from_ptr(self.0) }
            .to_string_lossy()
            .into_owned())
    }
}

/// Writes `text` to a caller's buffer, cut to `size` bytes including the final zero.
pub fn put_text(buffer: *mut c_char, size: usize, text: &str) -> Result<(), Code> {
    if buffer.is_null() || size == 0 {
        return Err(Code::INVALID_VALUE);
    }
    let length = text.len().min(size - 1);
    // SAFETY: by the API's contract the buffer has `size` bytes, and `length` is less.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr().cast(), buffer, length);
        buffer.add(length).write(0);
    }
    Ok(())
}

/// Exports functions of the driver: each function runs its body inside `call`, which returns a
/// result code.
macro_rules! api {
    ($($(#[$attribute:meta])* fn $name:ident($($arg:ident: $type:ty),* $(,)?) |$sim:ident| $body:block)*) => {$(
        $(#[$attribute])*
        #[unsafe(no_mangle)]
        pub extern "C" fn $name($($arg: $type),*) -> std::ffi::c_int {
            crate::call::call(stringify!($name), |$sim: &mut crate::sim::Sim| $body)
        }
    )*};
}
pub(crate) use api;
