//! Modules of kernels.

use super::context::Context;
use super::error::{At, DriverError, call};
use super::ffi;
use std::ffi::{CString, c_int};
use std::sync::Arc;

/// A loaded module; cheap to clone, unloaded with its last function.
#[derive(Debug, Clone)]
pub struct Module(Arc<Loaded>);

#[derive(Debug)]
struct Loaded {
    module: ffi::CUmodule,
    context: Context,
}

// SAFETY: modules may be used from any thread; the handle is only passed to the driver.
unsafe impl Send for Loaded {}
// SAFETY: as above.
unsafe impl Sync for Loaded {}

impl Module {
    /// Loads a fatbin onto a device.
    ///
    /// # Errors
    /// [`DriverError`]: code 209 where it holds nothing for this device.
    pub fn load(context: &Context, image: &'static [u8]) -> Result<Self, DriverError> {
        context.bind()?;
        let mut module = std::ptr::null_mut();
        // SAFETY: a fatbin says its own length; `image` is one, embedded at build time.
        unsafe { call!(cuModuleLoadData(&mut module, image.as_ptr().cast())) }
            .map_err(|e| e.at(&context.at()))?;
        Ok(Self(Arc::new(Loaded {
            module,
            context: context.clone(),
        })))
    }

    /// One of its kernels, allowed `shared` bytes of dynamic shared memory. More than 48 KiB, static shared memory
    /// included, have to be asked for. Of several calls for a kernel the last one's allowance holds.
    ///
    /// # Errors
    /// [`DriverError`]: code 500 where there is no such kernel.
    pub fn function(&self, name: &str, shared: u32) -> Result<Function, DriverError> {
        let Loaded { module, context } = &*self.0;
        let located = |e: DriverError| {
            e.at(&At {
                operation: Some(name.to_owned()),
                ..context.at()
            })
        };
        context.bind()?;
        // A name with a NUL is no kernel's: the empty one is not found either.
        let c_name = CString::new(name).unwrap_or_default();
        let mut function = std::ptr::null_mut();
        // SAFETY: a live module, a terminated name, and `function` is writable.
        unsafe { call!(cuModuleGetFunction(&mut function, *module, c_name.as_ptr())) }
            .map_err(located)?;
        if shared > 0 {
            let (which, bytes) = (ffi::MAX_DYNAMIC_SHARED, shared as c_int);
            // SAFETY: the function found above.
            unsafe { call!(cuFuncSetAttribute(function, which, bytes)) }.map_err(located)?;
        }
        Ok(Function {
            function,
            name: name.to_owned(),
            _module: self.clone(),
        })
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        let _ = self.context.bind();
        // SAFETY: loaded once, in `load`, and no function is left.
        let _ = unsafe { call!(cuModuleUnload(self.module)) };
    }
}

/// A kernel.
#[derive(Debug, Clone)]
pub struct Function {
    function: ffi::CUfunction,
    name: String,
    _module: Module,
}

// SAFETY: as for modules.
unsafe impl Send for Function {}
// SAFETY: as for modules.
unsafe impl Sync for Function {}

impl Function {
    pub(super) fn handle(&self) -> ffi::CUfunction {
        self.function
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }
}
