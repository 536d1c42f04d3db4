//! Devices and their contexts.

use super::error::{At, DriverError, call};
use super::ffi;
use std::ffi::{CStr, c_char, c_int};
use std::sync::Arc;

/// Initialises the driver. It may be called any number of times and from any thread.
///
/// # Errors
/// [`DriverError`], with code 100 if there is no driver or no device.
pub fn init() -> Result<(), DriverError> {
    // SAFETY: the call has no preconditions.
    unsafe { call!(cuInit(0)) }
}

/// Returns the CUDA version that the driver supports, (13, 0) for 13.0.
///
/// # Errors
/// [`DriverError`] if the driver cannot be asked.
pub fn driver_version() -> Result<(u32, u32), DriverError> {
    let mut version: c_int = 0;
    // SAFETY: `version` is writable.
    unsafe { call!(cuDriverGetVersion(&mut version))? };
    let version = version.max(0) as u32;
    Ok((version / 1000, version % 1000 / 10))
}

/// Describes a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// The device's number, counted from 0.
    pub ordinal: u32,
    /// The device's name, such as `NVIDIA H200`.
    pub name: String,
    /// The compute capability, (9, 0) for 9.0.
    pub capability: (u32, u32),
    /// The number of streaming multiprocessors.
    pub multiprocessors: u32,
    /// The total memory in bytes.
    pub memory: u64,
}

/// Lists all devices that the driver shows.
///
/// # Errors
/// [`DriverError`] if the driver cannot be initialised or a device cannot be described.
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
        // SAFETY: `device` comes from this driver, and each buffer is writable and at least as long
        // as the length that is passed with it. The name ends in a NUL: the driver writes one
        // within the 255 bytes that it is given, and the buffer's last byte stays 0.
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

/// The primary context of a device. Every object that lives on the device holds a clone of it.
///
/// A clone is cheap. The context is released when its last clone is dropped.
#[derive(Debug, Clone)]
pub struct Context(Arc<PrimaryContext>);

#[derive(Debug)]
struct PrimaryContext {
    ordinal: u32,
    device: ffi::CUdevice,
    context: ffi::CUcontext,
}

// SAFETY: a context may be used from any thread, and the handle is only passed to the driver.
unsafe impl Send for PrimaryContext {}
// SAFETY: as above.
unsafe impl Sync for PrimaryContext {}

impl Context {
    /// Retains the primary context of the device with this number.
    ///
    /// # Errors
    /// [`DriverError`] if there is no such device or its context cannot be created.
    pub fn new(ordinal: u32) -> Result<Self, DriverError> {
        let open = || {
            init()?;
            let device = handle(ordinal)?;
            let mut context = std::ptr::null_mut();
            // SAFETY: `device` comes from this driver, and `context` is writable.
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

    /// Describes the device.
    ///
    /// # Errors
    /// [`DriverError`] if the device cannot be described.
    pub fn info(&self) -> Result<DeviceInfo, DriverError> {
        device(self.0.ordinal)
    }

    /// Returns the device's number.
    pub fn ordinal(&self) -> u32 {
        self.0.ordinal
    }

    /// Makes this the current context of the calling thread, which every later driver call needs.
    pub(in crate::gpu) fn bind(&self) -> Result<(), DriverError> {
        // SAFETY: this value keeps the context alive.
        unsafe { call!(cuCtxSetCurrent(self.0.context)) }.map_err(|e| e.at(&self.at()))
    }

    /// Returns the free and the total bytes of the device's memory.
    ///
    /// # Errors
    /// [`DriverError`] if the driver cannot be asked.
    pub fn memory(&self) -> Result<(u64, u64), DriverError> {
        self.bind()?;
        let (mut free, mut total) = (0usize, 0usize);
        // SAFETY: both are writable, and a context is current.
        unsafe { call!(cuMemGetInfo_v2(&mut free, &mut total)) }.map_err(|e| e.at(&self.at()))?;
        Ok((free as u64, total as u64))
    }

    /// Returns the part of an error's location that names this device.
    pub(super) fn at(&self) -> At {
        at(self.0.ordinal)
    }
}

impl Drop for PrimaryContext {
    fn drop(&mut self) {
        // SAFETY: the context was retained exactly once, in `new`. A failure here cannot be
        // reported to anyone: it means that the device is lost, which the calls that matter have
        // reported.
        let _ = unsafe { call!(cuDevicePrimaryCtxRelease_v2(self.device)) };
    }
}
