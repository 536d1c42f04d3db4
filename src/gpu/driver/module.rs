//! Loads modules of kernels and finds their functions.

use super::context::Context;
use super::error::{At, DriverError, call};
use super::ffi;
use std::ffi::{CString, c_int};
use std::sync::Arc;

/// A loaded module of kernels. A clone is cheap, and the module is unloaded with its last function.
#[derive(Debug, Clone)]
pub struct Module(Arc<Loaded>);

#[derive(Debug)]
struct Loaded {
    module: ffi::CUmodule,
    context: Context,
}

// SAFETY: modules may be used from any thread, and the handle is only passed to the driver.
unsafe impl Send for Loaded {}
// SAFETY: as above.
unsafe impl Sync for Loaded {}

impl Module {
    /// Loads a fatbin onto a device.
    ///
    /// # Errors
    /// [`DriverError`], with code 209 if the fatbin holds no code for this device.
    pub fn load(context: &Context, image: &'static [u8]) -> Result<Self, DriverError> {
        context.bind()?;
        let mut module = std::ptr::null_mut();
        // SAFETY: `image` is a fatbin that was embedded at build time, and a fatbin states its own
        // length.
        unsafe { call!(cuModuleLoadData(&mut module, image.as_ptr().cast())) }
            .map_err(|e| e.at(&context.at()))?;
        Ok(Self(Arc::new(Loaded {
            module,
            context: context.clone(),
        })))
    }

    /// Finds one of the module's kernels, and allows it `shared` bytes of dynamic shared memory. A
    /// kernel needs this permission to use more than 48 KiB of shared memory, static shared memory
    /// included. If the function is called several times for one kernel, the last `shared` above 0
    /// counts.
    ///
    /// # Errors
    /// [`DriverError`], with code 500 if there is no such kernel.
    pub fn function(&self, name: &str, shared: u32) -> Result<Function, DriverError> {
        let Loaded { module, context } = &*self.0;
        let located = |e: DriverError| {
            e.at(&At {
                operation: Some(name.to_owned()),
                ..context.at()
            })
        };
        context.bind()?;
        // No kernel has a NUL in its name. The empty name that replaces such a name is not found
        // either.
        let c_name = CString::new(name).unwrap_or_default();
        let mut function = std::ptr::null_mut();
        // SAFETY: the module is live, the name ends in a NUL, and `function` is writable.
        unsafe { call!(cuModuleGetFunction(&mut function, *module, c_name.as_ptr())) }
            .map_err(located)?;
        if shared > 0 {
            let (which, bytes) = (ffi::MAX_DYNAMIC_SHARED, shared as c_int);
            // SAFETY: `function` was found by the call above.
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
        // SAFETY: the module was loaded exactly once, in `load`, and no function refers to it any
        // more.
        let _ = unsafe { call!(cuModuleUnload(self.module)) };
    }
}

/// A kernel that is ready to be launched.
#[derive(Debug, Clone)]
pub struct Function {
    function: ffi::CUfunction,
    name: String,
    _module: Module,
}

// SAFETY: as for `Loaded`.
unsafe impl Send for Function {}
// SAFETY: as for `Loaded`.
unsafe impl Sync for Function {}

impl Function {
    pub(super) fn handle(&self) -> ffi::CUfunction {
        self.function
    }

    /// Returns the kernel's name.
    pub fn name(&self) -> &str {
        &self.name
    }
}
