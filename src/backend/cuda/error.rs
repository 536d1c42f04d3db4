//! What the CUDA backend can fail with.

use crate::gpu::cublaslt::GemmError;
use crate::gpu::driver::DriverError;
use crate::gpu::stream::StreamError;

/// Why a model does not run, or no longer runs, on a CUDA device.
#[derive(Debug, thiserror::Error)]
pub enum CudaError {
    /// The driver, or work on the device.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// Streams, fences, the ring of slots, the loading of weights.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// A product.
    #[error(transparent)]
    Gemm(#[from] GemmError),
    /// This build has no such kernel.
    #[error("this build has no CUDA kernel {name}")]
    NoKernel {
        /// Its name.
        name: String,
    },
    /// The model does not fit.
    #[error(
        "device {device} has {free} bytes free, and the model needs {needed} for a pass of {tokens} tokens"
    )]
    Memory {
        /// The device's ordinal.
        device: u32,
        /// Free bytes.
        free: u64,
        /// Bytes that the smallest pass takes, parameters included.
        needed: u64,
        /// Its tokens.
        tokens: usize,
    },
    /// Attention that no kernel computes.
    #[error("no CUDA kernel computes attention with heads of {head_dim} columns")]
    HeadDim {
        /// Columns of a head.
        head_dim: usize,
    },
    /// A call out of its order: a defect of this program.
    #[error("{call} without {missing}")]
    OutOfOrder {
        /// The call.
        call: &'static str,
        /// What has to come first.
        missing: &'static str,
    },
}

impl CudaError {
    /// Whether CUDA cannot be had here at all, as without a driver.
    pub fn is_unavailable(&self) -> bool {
        matches!(
            self,
            Self::NoKernel { .. }
                | Self::Gemm(GemmError::Missing { .. } | GemmError::Library { .. })
        )
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Driver(e) => Some(e.job_hint().into()),
            Self::Stream(e) => e.hint().map(Into::into),
            Self::Gemm(e) => e.hint().map(Into::into),
            Self::NoKernel { .. } => Some(
                "build it where nvcc stands (scripts/fetch-nvcc fetches one), or use --device cpu"
                    .into(),
            ),
            Self::Memory { .. } => Some(
                "use --dtype f16, a smaller --token-budget, a device with more free memory (nvidia-smi shows what takes it), or --device cpu".into(),
            ),
            Self::HeadDim { .. } => Some("use --device cpu".into()),
            Self::OutOfOrder { .. } => None,
        }
    }
}
