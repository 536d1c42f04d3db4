//! The CUDA backend: the kernels, and the operations of a model that are made of them.
//!
//! | module | contents |
//! |---|---|
//! | [`kernels`], `params`, `launch` | the compiled kernels of `kernels/`, their arguments, and the numbers of their launches |
//! | `functions`, `fused`, `qkv`, [`attention`] | how each kernel is launched |
//! | `builder` | [`CudaBuilder`]: weights and matrices are named, and the backend is built |
//! | `weights` | the weights: their names, their way to the device, where they lie |
//! | `placement`, `plan`, `rates` | which layers stay on the device and which are streamed; the plan that is printed, with its assumed rates |
//! | `memory`, `activations` | how much a pass may hold; the matrices that passes work on |
//! | `backend`, `pass`, `slot` | [`Cuda`] begins passes; their operations; the layout of input and output |
//! | [`costs`] | what each launch costs, for studies on the simulated driver |
//! | `chains` | the lengths of the chains of sums, and the class of short sequences |
//! | `profile` | how long operations take |
//!
//! [`devices`] lists the devices of the machine, and [`require`] says what a job on CUDA lacks.

mod activations;
pub mod attention;
mod backend;
mod builder;
mod chains;
pub mod costs;
mod error;
mod functions;
mod fused;
pub mod kernels;
pub mod launch;
mod memory;
mod pass;
mod placement;
mod plan;
mod profile;
mod qkv;
mod rates;
mod slot;
mod weights;

pub use backend::Cuda;
pub use builder::{CudaBuilder, CudaOptions, LOAD_STREAMS, SLOTS};
pub use error::{CudaError, Shortage};
pub use placement::{LEAST_SLOTS, MOST_SLOTS, WeightMode};
pub use plan::{DevicePlan, Estimates, OneMoreSlot};
pub mod params;

use crate::gpu::cublaslt::{self, GemmError};
use crate::gpu::driver::{self, DeviceInfo, DriverError, Library};
use crate::remedy::{Action, Remedy};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// How long the driver has the dynamic loader to itself, unless it has started before.
const HEAD_START: Duration = Duration::from_millis(30);

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
    pub fn remedy(&self) -> Remedy {
        let or_the_cpu =
            |advice: &'static str| Remedy::any_of([advice.into(), Action::UseCpu.into()]);
        match self {
            Unavailable::NoKernels => or_the_cpu(
                "in its source folder run scripts/fetch-nvcc (or install the CUDA toolkit) and build it again",
            ),
            Unavailable::NoDriver(_) => {
                or_the_cpu("install NVIDIA's driver, or set SEQSTREAM_LIBCUDA to its libcuda.so.1")
            }
            Unavailable::Driver(error) => error
                .remedy()
                .unwrap_or_else(|| or_the_cpu("see that nvidia-smi lists a device")),
            Unavailable::Products(error) => error.remedy().unwrap_or_else(|| Action::UseCpu.into()),
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
    // The driver takes 0.1 s to start, and cuBLASLt half as long to be opened. Both ask the dynamic
    // loader, which serves one at a time, so the driver, which needs it for its first moments only,
    // gets a head start.
    let (started, starting) = mpsc::channel::<()>();
    let (devices, library) = thread::scope(|scope| {
        let open = move || {
            let _ = starting.recv_timeout(HEAD_START);
            cublaslt::cublaslt()
        };
        let opening = thread::Builder::new().spawn_scoped(scope, open);
        let devices = devices();
        drop(started);
        let opened = opening.ok().and_then(|opening| opening.join().ok());
        (devices, opened.unwrap_or_else(cublaslt::cublaslt))
    });
    let (_, devices) = devices?;
    library?;
    Ok(devices)
}
