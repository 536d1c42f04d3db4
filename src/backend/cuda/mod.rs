//! CUDA: the kernels, and the operations of a model made of them.
//!
//! | | |
//! |---|---|
//! | [`kernels`], `params` | what nvcc made of `kernels/`, and their arguments |
//! | `functions`, `fused`, [`attention`] | how each kernel is launched |
//! | `resident`, `weights`, `plan` | parameters and their way to the device; how its memory is divided |
//! | `backend`, `seal` | [`Cuda`], what a model names; how that becomes what runs |
//! | `running`, `operations`, `slot` | passes, and the operations of one; what goes in and out |
//! | `profile` | how long operations take |
//!
//! [`devices`] is how the program knows what a machine has, and [`require`] says what is missing.

pub mod attention;
mod backend;
mod chains;
mod error;
mod functions;
mod fused;
pub mod kernels;
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

/// Why CUDA cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// Built without nvcc.
    #[error("this build has no CUDA kernels")]
    NoKernels,
    /// No driver on this machine.
    #[error("there is no CUDA driver: {0}")]
    NoDriver(String),
    /// There is a driver, and it fails or has no device.
    #[error("the CUDA driver has no usable device: {0}")]
    Driver(#[from] DriverError),
    /// No cuBLASLt, or one that cannot be used.
    #[error(transparent)]
    Products(#[from] GemmError),
}

impl Unavailable {
    /// The remedy.
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

/// The driver's library and its devices, at least one, whether or not this build has kernels.
///
/// # Errors
/// [`Unavailable`]
pub fn devices() -> Result<(String, Vec<DeviceInfo>), Unavailable> {
    let name = match driver::library() {
        Library::Open(name) => name,
        Library::Missing(reason) => return Err(Unavailable::NoDriver(reason)),
    };
    Ok((name, driver::devices()?))
}

/// What a job on CUDA needs: kernels in this build, a driver and a device, cuBLASLt.
///
/// # Errors
/// [`Unavailable`], the first that is missing.
pub fn require() -> Result<Vec<DeviceInfo>, Unavailable> {
    if kernels::FATBINS.is_empty() {
        return Err(Unavailable::NoKernels);
    }
    let (_, devices) = devices()?;
    cublaslt::cublaslt()?;
    Ok(devices)
}
