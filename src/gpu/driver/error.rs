//! What a driver call can fail with, and where.

use super::ffi;
use std::ffi::{CStr, c_char};
use std::fmt;

/// The kinds of streams that work is divided over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StreamName {
    /// Host to device.
    Load,
    /// Kernels.
    Compute,
    /// Device to host.
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

/// Where a call was made: what is known of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct At {
    /// The device's ordinal.
    pub device: Option<u32>,
    /// The stream's kind and number.
    pub stream: Option<(StreamName, usize)>,
    /// What was being done, `layer_norm of layer 3`, say.
    pub operation: Option<String>,
    /// The batch's number in the job.
    pub batch: Option<u64>,
}

/// A driver call that failed.
///
/// Asynchronous failures surface at a later call: the call named is the one that reported it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct DriverError {
    /// The driver's function.
    pub call: &'static str,
    /// Its answer; of newer drivers perhaps one that this program does not know.
    pub code: i32,
    /// The answer's name, `CUDA_ERROR_ILLEGAL_ADDRESS`, or `unknown`.
    pub name: String,
    /// What the driver says it means.
    pub meaning: String,
    /// Where it was made.
    pub at: Box<At>,
}

impl DriverError {
    /// The same error, with what `at` knows and the error does not yet.
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

    /// What may help a job: [`Self::hint`], or what holds whatever has failed.
    pub fn job_hint(&self) -> &'static str {
        self.hint().unwrap_or(
            "finished shards are kept: run again with --resume; if it comes again, the kernel's log (dmesg) may say what the device or its driver met",
        )
    }

    /// What may help, for the codes where that is known.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self.code {
            2 => {
                "lower --token-budget, or give the job a device with more free memory; finished shards are kept: --resume"
            }
            3 | 4 => "the driver is shutting down: nothing was lost, run again with --resume",
            35 | 803 => "the driver is older than this program's kernels: update it",
            100 => "no CUDA device or driver: see `seqstream doctor`, or use --device cpu",
            200 | 209 => {
                "the kernels in this build are not for this device: build for its architecture"
            }
            214 | 215 => {
                "the device's memory reported an uncorrectable error: restart it, then --resume"
            }
            700 | 714 | 715 | 716 | 717 | 718 | 719 => {
                "a kernel failed, and this process can no longer use the device: finished shards are kept; run again with --resume, and report it with this message"
            }
            702 => "a kernel ran longer than the driver allows: use a device without a display",
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

/// A driver's text for a code, if it has one.
fn text(of: unsafe extern "C" fn(i32, *mut *const c_char) -> i32, code: i32) -> Option<String> {
    let mut text: *const c_char = std::ptr::null();
    // SAFETY: `of` is cuGetErrorName or cuGetErrorString: it takes any code, and writes null or a
    // pointer to a string that is never freed.
    unsafe {
        if of(code, &mut text) != ffi::SUCCESS || text.is_null() {
            return None;
        }
        Some(CStr::from_ptr(text).to_string_lossy().into_owned())
    }
}

/// The answer of a call as a result.
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

/// Makes a driver call and turns its answer into a result that names it.
macro_rules! call {
    ($function:ident($($argument:expr),* $(,)?)) => {
        $crate::gpu::driver::error::check(
            stringify!($function),
            $crate::gpu::driver::ffi::$function($($argument),*),
        )
    };
}
pub(super) use call;
