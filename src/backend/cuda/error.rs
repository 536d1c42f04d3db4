//! The errors of the CUDA backend.

use crate::gpu::cublaslt::GemmError;
use crate::gpu::driver::DriverError;
use crate::gpu::stream::StreamError;
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
    /// Whether the model would fit in a dtype of 16 bits, if the job's dtype has 32.
    pub fits_in_16_bits: bool,
    /// The number of tokens of a smaller pass that would fit; `None` if there is none that holds
    /// every sequence.
    pub fewer_tokens: Option<usize>,
}

/// Formats tenths of a GiB.
fn gib(tenths: u64) -> String {
    format!("{}.{} GiB", tenths / 10, tenths % 10)
}

/// Formats free memory, rounded down so that the text never promises more than there is.
fn gib_of_free(bytes: u64) -> String {
    gib(((u128::from(bytes) * 10) >> 30) as u64)
}

/// Formats needed memory, rounded up so that it never reads the same as a free amount that is too
/// small.
fn gib_of_need(bytes: u64) -> String {
    gib((u128::from(bytes) * 10).div_ceil(1 << 30) as u64)
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "device {} has {} free, and the model needs {} for a pass of {} token{}",
            self.device,
            gib_of_free(self.free),
            gib_of_need(self.needed),
            self.tokens,
            if self.tokens == 1 { "" } else { "s" },
        )
    }
}

impl Shortage {
    /// Returns the remedies that would help, and no others.
    fn hint(&self) -> String {
        let needed = gib_of_need(self.needed);
        let mut ways = Vec::new();
        if self.fits_in_16_bits {
            ways.push("use --dtype f16 or bf16".to_owned());
        }
        if let Some(tokens) = self.fewer_tokens {
            ways.push(format!("use --token-budget {tokens}"));
        }
        if self.needed <= self.total {
            ways.push(format!(
                "end what takes the rest of the device's {} (nvidia-smi shows it)",
                gib_of_free(self.total)
            ));
        }
        ways.push(format!("use a device with {needed} free"));
        ways.push("use --device cpu".into());
        ways.join(", or ")
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
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Driver(e) => Some(e.job_hint().into()),
            Self::Stream(e) => e.hint().map(Into::into),
            Self::Gemm(e) => e.hint().map(Into::into),
            Self::NoKernel { .. } => Some(
                "build it where nvcc stands (scripts/fetch-nvcc fetches one), or use --device cpu"
                    .into(),
            ),
            Self::Memory(shortage) => Some(shortage.hint()),
            Self::HeadDim { .. } => Some("use --device cpu".into()),
            Self::NotListed { .. }
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
        fits_in_16_bits: false,
        fewer_tokens: None,
    };

    fn said(shortage: Shortage) -> (String, String) {
        let error = CudaError::Memory(Box::new(shortage));
        (error.to_string(), error.hint().unwrap())
    }

    #[test]
    fn too_little_memory_is_told_in_gib_with_what_would_help_alone() {
        let (text, hint) = said(SHORTAGE);
        assert_eq!(
            text,
            "device 0 has 19.5 GiB free, and the model needs 28.7 GiB for a pass of 128 tokens"
        );
        assert_eq!(hint, "use a device with 28.7 GiB free, or use --device cpu");
        let (_, hint) = said(Shortage {
            fits_in_16_bits: true,
            fewer_tokens: Some(7),
            total: 80 << 30,
            ..SHORTAGE
        });
        assert_eq!(
            hint,
            "use --dtype f16 or bf16, or use --token-budget 7, or end what takes the rest of the device's 80.0 GiB \
             (nvidia-smi shows it), or use a device with 28.7 GiB free, or use --device cpu"
        );
    }

    /// Even if only a few bytes are missing, the two sizes never read the same.
    #[test]
    fn what_is_free_reads_as_less_than_what_is_needed() {
        for free in [0, 1, (1 << 30) - 1, 1 << 30, (5 << 30) / 10, 1 << 60] {
            let (text, _) = said(Shortage {
                free,
                needed: free + 1,
                ..SHORTAGE
            });
            let (has, needs) = text.split_once(" GiB free").unwrap();
            let has = has.rsplit_once(' ').unwrap().1;
            let needs = needs.split_once("needs ").unwrap().1;
            assert_ne!(Some(has), needs.split(' ').next(), "{text}");
        }
    }
}
