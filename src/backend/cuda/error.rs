//! The errors of the CUDA backend.

use super::placement::LEAST_SLOTS;
use crate::bytes::{Bytes, rounded_up};
use crate::gpu::cublaslt::GemmError;
use crate::gpu::driver::DriverError;
use crate::gpu::stream::StreamError;
use crate::remedy::{Action, Remedy};
use std::fmt;

/// Why a model does not run, or no longer runs, on a CUDA device.
#[derive(Debug, thiserror::Error)]
pub enum CudaError {
    /// The driver failed, or work on the device did.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// A stream, a fence, the ring of slots or the loading of weights failed.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// A GEMM failed.
    #[error(transparent)]
    Gemm(#[from] GemmError),
    /// This build has no such kernel.
    #[error("this build has no CUDA kernel {name}")]
    NoKernel {
        /// The name of the kernel.
        name: String,
    },
    /// The model does not fit into the device's memory.
    #[error("{0}")]
    Memory(Box<Shortage>),
    /// No kernel computes attention for heads of this width.
    #[error("no CUDA kernel computes attention with heads of {head_dim} columns")]
    HeadDim {
        /// The number of columns of a head.
        head_dim: usize,
    },
    /// A pass needs the weights of a layer that is deeper than the deepest layer that was announced
    /// ([`CudaOptions::deepest`](super::CudaOptions::deepest)).
    #[error("a pass needs the weights of layer {layer}, which are not loaded for this job")]
    Unreached {
        /// The layer.
        layer: usize,
    },
    /// A device is in use, but the driver does not list it.
    #[error("device {device} is in use, but the driver does not list it")]
    NotListed {
        /// The ordinal of the device.
        device: u32,
    },
    /// A linear layer reads or writes a matrix that was not created for linear layers, which is a
    /// defect of this program.
    #[error("a linear layer reads or writes a matrix that exists in f32 only")]
    WrongRole,
    /// A pass has more results than its slot holds, which is a defect of this program.
    #[error(
        "a pass has {bytes} bytes of results, but its slot has {capacity}: it takes more representations than were announced"
    )]
    Results {
        /// The number of bytes that the results of the pass need.
        bytes: usize,
        /// The number of bytes of the slot.
        capacity: usize,
    },
    /// A representation was fetched before those of an older pass, which is a defect of this
    /// program.
    #[error("the results of pass {asked} were fetched before those of pass {oldest}")]
    FetchOrder {
        /// The number of the pass whose results were asked for.
        asked: u64,
        /// The number of the oldest pass that has results.
        oldest: u64,
    },
}

/// The memory that a model lacks on a device, and what would make it fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shortage {
    /// The ordinal of the device.
    pub device: u32,
    /// The free memory in bytes.
    pub free: u64,
    /// The total memory of the device in bytes.
    pub total: u64,
    /// The bytes that the smallest pass needs, parameters included.
    pub needed: u64,
    /// The number of tokens of that pass.
    pub tokens: usize,
    /// The number of slots that layers would be streamed through; 0 if all layers were to stay.
    pub slots: usize,
    /// The bytes of a slot.
    pub layer_bytes: u64,
    /// Whether a pass of these tokens would fit beside the fewest slots that layers can be streamed
    /// through.
    pub fits_streamed: bool,
    /// Whether the model would fit in a dtype of 16 bits, if the job's dtype has 32.
    pub fits_in_16_bits: bool,
    /// The number of tokens of a smaller pass that would fit; `None` if there is none that holds
    /// every sequence.
    pub fewer_tokens: Option<usize>,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            device,
            tokens,
            slots,
            ..
        } = self;
        let (free, needed) = (Bytes(self.free), rounded_up(self.needed));
        let plural = if *tokens == 1 { "" } else { "s" };
        match slots {
            0 => write!(
                f,
                "device {device} has {free} free, and the model needs {needed} for a pass of {tokens} token{plural}"
            ),
            slots => write!(
                f,
                "device {device} has {free} free, and even if its layers are streamed the model needs {needed}: {slots} \
                 slots for layers of {}, and memory for a pass of {tokens} token{plural}",
                rounded_up(self.layer_bytes)
            ),
        }
    }
}

impl Shortage {
    /// Returns the remedies that would help, and no others.
    fn remedy(&self) -> Remedy {
        let mut ways = Vec::new();
        if self.fits_in_16_bits {
            ways.push(Action::HalfPrecision);
        }
        if self.fits_streamed {
            let slots = (self.slots > 0).then_some(LEAST_SLOTS);
            ways.push(Action::StreamWeights { slots });
        }
        if let Some(tokens) = self.fewer_tokens {
            ways.push(Action::TokenBudget { tokens });
        }
        if self.needed <= self.total {
            ways.push(Action::FreeDeviceMemory { total: self.total });
        }
        ways.push(Action::LargerDevice {
            free: Some(self.needed),
        });
        ways.push(Action::UseCpu);
        Remedy::AnyOf(ways.into_iter().map(Into::into).collect())
    }
}

impl CudaError {
    /// Returns whether CUDA cannot be used here at all, because this build has no kernels or the
    /// machine has no usable cuBLASLt.
    pub fn is_unavailable(&self) -> bool {
        matches!(
            self,
            Self::NoKernel { .. }
                | Self::Gemm(GemmError::Missing { .. } | GemmError::Library { .. })
        )
    }

    /// Returns whether the table of GEMM algorithms that the job has to use was refused.
    pub fn is_refused_table(&self) -> bool {
        matches!(self, Self::Gemm(error) if error.is_refused_table())
    }

    /// Returns what the user can do about the error, if anything.
    pub fn remedy(&self) -> Option<Remedy> {
        match self {
            Self::Driver(e) => Some(e.job_remedy()),
            Self::Stream(e) => e.remedy(),
            Self::Gemm(e) => e.remedy(),
            Self::NoKernel { .. } => Some(Remedy::any_of([
                "build it where nvcc stands (scripts/fetch-nvcc fetches one)".into(),
                Action::UseCpu.into(),
            ])),
            Self::Memory(shortage) => Some(shortage.remedy()),
            Self::HeadDim { .. } => Some(Action::UseCpu.into()),
            Self::Unreached { .. }
            | Self::NotListed { .. }
            | Self::WrongRole
            | Self::Results { .. }
            | Self::FetchOrder { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORTAGE: Shortage = Shortage {
        device: 0,
        free: 21_000_421_376,
        total: 25_000_000_000,
        needed: 30_813_577_728,
        tokens: 128,
        slots: 0,
        layer_bytes: 0,
        fits_streamed: false,
        fits_in_16_bits: false,
        fewer_tokens: None,
    };

    fn said(shortage: Shortage) -> (String, String) {
        let error = CudaError::Memory(Box::new(shortage));
        (error.to_string(), error.remedy().unwrap().to_string())
    }

    #[test]
    fn too_little_memory_is_told_with_what_would_help_alone() {
        let (text, remedy) = said(SHORTAGE);
        assert_eq!(
            text,
            "device 0 has 19.5 GiB free, and the model needs 28.7 GiB for a pass of 128 tokens"
        );
        assert_eq!(
            remedy,
            "use a device with 28.7 GiB free, or compute on the CPU"
        );
        let (_, remedy) = said(Shortage {
            fits_in_16_bits: true,
            fewer_tokens: Some(7),
            total: 80 << 30,
            ..SHORTAGE
        });
        assert_eq!(
            remedy,
            "compute in f16 or bf16, or use 7 tokens per batch, or end what takes the rest of the device's 80.0 GiB \
             (nvidia-smi shows it), or use a device with 28.7 GiB free, or compute on the CPU"
        );
    }

    #[test]
    fn layers_that_do_not_fit_even_if_streamed_are_told_with_their_size() {
        let streamed = Shortage {
            slots: 2,
            layer_bytes: 629_145_600,
            fewer_tokens: Some(16),
            ..SHORTAGE
        };
        let (text, remedy) = said(streamed);
        assert_eq!(
            text,
            "device 0 has 19.5 GiB free, and even if its layers are streamed the model needs 28.7 GiB: 2 slots for \
             layers of 600.0 MiB, and memory for a pass of 128 tokens"
        );
        assert!(
            remedy.starts_with("use 16 tokens per batch, or "),
            "{remedy}"
        );
        // Where fewer slots, or slots at all, would help, the remedy comes first.
        let (_, remedy) = said(Shortage {
            slots: 4,
            fits_streamed: true,
            ..streamed
        });
        assert!(
            remedy.starts_with("stream the weights through 2 slots, or "),
            "{remedy}"
        );
        let (_, remedy) = said(Shortage {
            fits_streamed: true,
            ..SHORTAGE
        });
        assert!(
            remedy.starts_with("stream the weights to the device, or "),
            "{remedy}"
        );
    }
}
