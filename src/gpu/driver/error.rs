//! The error of a failed driver call, and the location that it names.

use super::ffi;
use crate::remedy::{Action, Remedy};
use std::ffi::{CStr, c_char};
use std::fmt;

/// The kinds of streams among which work is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StreamName {
    /// Copies from the host to the device.
    Load,
    /// Runs kernels.
    Compute,
    /// Copies from the device to the host.
    Store,
}

impl fmt::Display for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StreamName::Load => "load",
            StreamName::Compute => "compute",
            StreamName::Store => "store",
        })
    }
}

/// The location of a call, as far as it is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct At {
    /// The device's ordinal.
    pub device: Option<u32>,
    /// The stream's kind and number.
    pub stream: Option<(StreamName, usize)>,
    /// The operation in progress, for example `layer_norm of layer 3`.
    pub operation: Option<String>,
    /// The batch's number in the job.
    pub batch: Option<u64>,
}

/// The error of a driver call that failed.
///
/// An asynchronous failure surfaces at a later call, so the call that is named is the call that
/// reported the failure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct DriverError {
    /// The driver function that was called.
    pub call: &'static str,
    /// The result code. A newer driver may return a code that this program does not know.
    pub code: i32,
    /// The name of the result code, such as `CUDA_ERROR_ILLEGAL_ADDRESS`, or `unknown`.
    pub name: String,
    /// The driver's description of the result code.
    pub meaning: String,
    /// Where the call was made.
    pub at: Box<At>,
}

impl DriverError {
    /// Returns the same error with its location completed: each field that the error does not know
    /// yet is taken from `at`.
    #[must_use]
    pub fn at(mut self, at: &At) -> Self {
        let mine = &mut self.at;
        mine.device = mine.device.or(at.device);
        mine.stream = mine.stream.or(at.stream);
        mine.batch = mine.batch.or(at.batch);
        if mine.operation.is_none() {
            mine.operation.clone_from(&at.operation);
        }
        self
    }

    /// Returns what the user of a job can do: [`Self::remedy`] if there is one, else what helps
    /// against most failures.
    pub fn job_remedy(&self) -> Remedy {
        self.remedy().unwrap_or_else(|| {
            Remedy::all([
                Action::ResumeJob.into(),
                "if it comes again, the kernel's log (dmesg) may say what the device or its driver met"
                    .into(),
            ])
        })
    }

    /// Returns what the user can do, for the result codes for which this is known.
    pub fn remedy(&self) -> Option<Remedy> {
        Some(match self.code {
            2 => Remedy::all([
                Remedy::any_of([
                    Action::LowerTokenBudget.into(),
                    Action::LargerDevice { free: None }.into(),
                ]),
                Action::ResumeJob.into(),
            ]),
            3 | 4 => Remedy::all([
                "the driver is shutting down: nothing was lost".into(),
                Action::ResumeJob.into(),
            ]),
            35 | 803 => "the driver is older than this program's kernels: update it".into(),
            100 => Remedy::any_of([Action::ShowDevices.into(), Action::UseCpu.into()]),
            200 | 209 => {
                "the kernels in this build are not for this device: build for its architecture"
                    .into()
            }
            214 | 215 => Remedy::steps([
                "the device's memory reported an uncorrectable error: restart it".into(),
                Action::ResumeJob.into(),
            ]),
            700 | 714 | 715 | 716 | 717 | 718 | 719 => Remedy::all([
                "a kernel failed, and this process can no longer use the device".into(),
                Action::ResumeJob.into(),
                "report it with this message".into(),
            ]),
            702 => {
                "a kernel ran longer than the driver allows: use a device without a display".into()
            }
            _ => return None,
        })
    }
}

impl fmt::Display for DriverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let At {
            device,
            stream,
            operation,
            batch,
        } = &*self.at;
        write!(
            f,
            "{} failed with {} ({}: {})",
            self.call, self.code, self.name, self.meaning
        )?;
        if let Some(device) = device {
            write!(f, ", device {device}")?;
        }
        if let Some((name, number)) = stream {
            write!(f, ", stream {name} {number}")?;
        }
        if let Some(operation) = operation {
            write!(f, ", in {operation}")?;
        }
        if let Some(batch) = batch {
            write!(f, ", batch {batch}")?;
        }
        Ok(())
    }
}

/// Returns the driver's text for a result code, if it has one.
fn text(of: unsafe extern "C" fn(i32, *mut *const c_char) -> i32, code: i32) -> Option<String> {
    let mut text: *const c_char = std::ptr::null();
    // SAFETY: `of` is cuGetErrorName or cuGetErrorString. Both take any code, and write either null
    // or a pointer to a string that is never freed.
    unsafe {
        if of(code, &mut text) != ffi::SUCCESS || text.is_null() {
            return None;
        }
        Some(CStr::from_ptr(text).to_string_lossy().into_owned())
    }
}

/// Turns the result code of a call into a `Result`.
pub(super) fn check(call: &'static str, code: i32) -> Result<(), DriverError> {
    if code == ffi::SUCCESS {
        return Ok(());
    }
    Err(DriverError {
        call,
        code,
        name: text(ffi::cuGetErrorName, code).unwrap_or_else(|| "unknown".into()),
        meaning: text(ffi::cuGetErrorString, code)
            .unwrap_or_else(|| "no meaning that this driver knows".into()),
        at: Box::default(),
    })
}

/// Makes a driver call and turns its result code into a `Result` whose error names the function.
macro_rules! call {
    ($function:ident($($argument:expr),* $(,)?)) => {
        $crate::gpu::driver::error::check(
            stringify!($function),
            $crate::gpu::driver::ffi::$function($($argument),*),
        )
    };
}
pub(super) use call;
