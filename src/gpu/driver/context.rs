//! Devices and their contexts.

use super::error::{At, DriverError, call};
use super::ffi;
use std::ffi::{CStr, c_char, c_int};
use std::sync::Arc;

/// Starts the driver; any number of times, from any thread.
///
/// # Errors
/// [`DriverError`]: code 100 where there is no driver or no device.
pub fn init() -> Result<(), DriverError> {
    // SAFETY: no preconditions.
    unsafe { call!(cuInit(0)) }
}

/// The CUDA version of the driver, (13, 0) for 13.0.
///
/// # Errors
/// [`DriverError`]
pub fn driver_version() -> Result<(u32, u32), DriverError> {
    let mut version: c_int = 0;
    // SAFETY: `version` is writable.
    unsafe { call!(cuDriverGetVersion(&mut version))? };
    let version = version.max(0) as u32;
    Ok((version / 1000, version % 1000 / 10))
}

/// What a device is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Its number, from 0.
    pub ordinal: u32,
    /// Its name, `NVIDIA H200`.
    pub name: String,
    /// Compute capability, (9, 0).
    pub capability: (u32, u32),
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Bytes of memory.
    pub memory: u64,
}

/// All devices the driver shows.
///
/// # Errors
/// [`DriverError`]
pub fn devices() -> Result<Vec<DeviceInfo>, DriverError> {
    init()?;
    let mut count: c_int = 0;
    // SAFETY: `count` is writable.
    unsafe { call!(cuDeviceGetCount(&mut count))? };
    (0..count.max(0) as u32).map(device).collect()
}

fn device(ordinal: u32) -> Result<DeviceInfo, DriverError> {
    let describe = || {
        let device = handle(ordinal)?;
        let mut name = [0 as c_char; 256];
        let mut memory = 0usize;
        // SAFETY: a device of this driver; the buffers are writable and as long as said. The name
        // is terminated, by the driver within its length and here at the last byte.
        let name = unsafe {
            call!(cuDeviceGetName(name.as_mut_ptr(), 255, device))?;
            call!(cuDeviceTotalMem_v2(&mut memory, device))?;
            CStr::from_ptr(name.as_ptr()).to_string_lossy().into_owned()
        };
        let [major, minor] = ffi::COMPUTE_CAPABILITY;
        Ok(DeviceInfo {
            ordinal,
            name,
            capability: (attribute(device, major)?, attribute(device, minor)?),
            multiprocessors: attribute(device, ffi::MULTIPROCESSORS)?,
            memory: memory as u64,
        })
    };
    describe().map_err(|e: DriverError| e.at(&at(ordinal)))
}

fn handle(ordinal: u32) -> Result<ffi::CUdevice, DriverError> {
    let mut device = 0;
    // SAFETY: `device` is writable.
    unsafe { call!(cuDeviceGet(&mut device, ordinal as c_int))? };
    Ok(device)
}

fn attribute(device: ffi::CUdevice, which: c_int) -> Result<u32, DriverError> {
    let mut value: c_int = 0;
    // SAFETY: `value` is writable.
    unsafe { call!(cuDeviceGetAttribute(&mut value, which, device))? };
    Ok(value.max(0) as u32)
}

fn at(ordinal: u32) -> At {
    At {
        device: Some(ordinal),
        ..At::default()
    }
}

/// The primary context of a device, which all that lives on the device holds.
///
/// Cheap to clone. Released when the last of them is dropped.
#[derive(Debug, Clone)]
pub struct Context(Arc<PrimaryContext>);

#[derive(Debug)]
struct PrimaryContext {
    ordinal: u32,
    device: ffi::CUdevice,
    context: ffi::CUcontext,
}

// SAFETY: a context may be used from any thread; the handle is only passed to the driver.
unsafe impl Send for PrimaryContext {}
// SAFETY: as above.
unsafe impl Sync for PrimaryContext {}

impl Context {
    /// Takes hold of a device.
    ///
    /// # Errors
    /// [`DriverError`]
    pub fn new(ordinal: u32) -> Result<Self, DriverError> {
        let open = || {
            init()?;
            let device = handle(ordinal)?;
            let mut context = std::ptr::null_mut();
            // SAFETY: a device of this driver; `context` is writable.
            unsafe { call!(cuDevicePrimaryCtxRetain(&mut context, device))? };
            let held = PrimaryContext {
                ordinal,
                device,
                context,
            };
            Ok(Self(Arc::new(held)))
        };
        open().map_err(|e: DriverError| e.at(&at(ordinal)))
    }

    /// What the device is.
    ///
    /// # Errors
    /// [`DriverError`]
    pub fn info(&self) -> Result<DeviceInfo, DriverError> {
        device(self.0.ordinal)
    }

    /// The device's number.
    pub fn ordinal(&self) -> u32 {
        self.0.ordinal
    }

    /// Makes it this thread's current context, as every call that follows wants it.
    pub(in crate::gpu) fn bind(&self) -> Result<(), DriverError> {
        // SAFETY: a context that this value holds.
        unsafe { call!(cuCtxSetCurrent(self.0.context)) }.map_err(|e| e.at(&self.at()))
    }

    /// Free and total bytes of the device's memory.
    ///
    /// # Errors
    /// [`DriverError`]
    pub fn memory(&self) -> Result<(u64, u64), DriverError> {
        self.bind()?;
        let (mut free, mut total) = (0usize, 0usize);
        // SAFETY: both are writable, and a context is current.
        unsafe { call!(cuMemGetInfo_v2(&mut free, &mut total)) }.map_err(|e| e.at(&self.at()))?;
        Ok((free as u64, total as u64))
    }

    /// This device, as errors name it.
    pub(super) fn at(&self) -> At {
        at(self.0.ordinal)
    }
}

impl Drop for PrimaryContext {
    fn drop(&mut self) {
        // SAFETY: retained once, in `new`. A failure here has nobody to tell: the device is lost,
        // and calls that matter have said so.
        let _ = unsafe { call!(cuDevicePrimaryCtxRelease_v2(self.device)) };
    }
}
