//! The CUDA backend: the kernels, and the operations of a model that are made of them.
//!
//! | module | contents |
//! |---|---|
//! | [`kernels`], `params`, `launch` | the compiled kernels of `kernels/`, their arguments, and the numbers of their launches |
//! | `functions`, `fused`, [`attention`] | how each kernel is launched |
//! | `resident`, `weights`, `plan` | parameters and their way to the device; its memory |
//! | `backend`, `seal` | [`Cuda`], which a model calls; how it becomes a running model |
//! | `running`, `operations`, `slot` | passes, their operations, the layout of input and output |
//! | `chains` | the lengths of the chains of sums, and the class of short sequences |
//! | `profile` | how long operations take |
//!
//! [`devices`] lists the devices of the machine, and [`require`] says what a job on CUDA lacks.

pub mod attention;
mod backend;
mod chains;
mod error;
mod functions;
mod fused;
pub mod kernels;
pub mod launch;
mod operations;
mod plan;
mod profile;
mod resident;
mod running;
mod seal;
mod slot;
mod weights;

pub use backend::{Cuda, CudaOptions, LOAD_STREAMS};
pub use error::{CudaError, Shortage};
pub use plan::{default_tokens, first_tokens};
pub mod params;

use crate::gpu::cublaslt::{self, GemmError};
use crate::gpu::driver::{self, DeviceInfo, DriverError, Library};

/// Why CUDA cannot be used on this machine.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// This program was built without nvcc.
    #[error("this build has no CUDA kernels")]
    NoKernels,
    /// There is no driver on this machine.
    #[error("there is no CUDA driver: {0}")]
    NoDriver(String),
    /// There is a driver, but it fails or has no device.
    #[error("the CUDA driver has no usable device: {0}")]
    Driver(#[from] DriverError),
    /// There is no cuBLASLt, or it cannot be used.
    #[error(transparent)]
    Products(#[from] GemmError),
}

impl Unavailable {
    /// Returns what the user can do about it.
    pub fn hint(&self) -> String {
        match self {
            Unavailable::NoKernels => {
                "in its source folder run scripts/fetch-nvcc (or install the CUDA toolkit) and build it again; or use --device cpu".into()
            }
            Unavailable::NoDriver(_) => {
                "install NVIDIA's driver, or set SEQSTREAM_LIBCUDA to its libcuda.so.1; or use --device cpu".into()
            }
            Unavailable::Driver(error) => error
                .hint()
                .unwrap_or("see that nvidia-smi lists a device; or use --device cpu")
                .into(),
            Unavailable::Products(error) => error.hint().unwrap_or("use --device cpu").into(),
        }
    }
}

/// Returns the name of the driver's library and its devices, of which there is at least one,
/// whether or not this build has kernels.
///
/// # Errors
/// Returns [`Unavailable`] if there is no usable driver or no device.
pub fn devices() -> Result<(String, Vec<DeviceInfo>), Unavailable> {
    let name = match driver::library() {
        Library::Open(name) => name,
        Library::Missing(reason) => return Err(Unavailable::NoDriver(reason)),
    };
    Ok((name, driver::devices()?))
}

/// Checks that everything a job on CUDA needs is present (kernels in this build, a driver with a
/// device, cuBLASLt), and returns the devices.
///
/// # Errors
/// Returns [`Unavailable`] for the first of these that is missing.
pub fn require() -> Result<Vec<DeviceInfo>, Unavailable> {
    if kernels::FATBINS.is_empty() {
        return Err(Unavailable::NoKernels);
    }
    let (_, devices) = devices()?;
    cublaslt::cublaslt()?;
    Ok(devices)
}
