//! What the CUDA backend can fail with.

use crate::gpu::cublaslt::GemmError;
use crate::gpu::driver::DriverError;
use crate::gpu::stream::StreamError;
use std::fmt;

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
    #[error("{0}")]
    Memory(Box<Shortage>),
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

/// By how much a model does not fit on a device, and what would make it fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shortage {
    /// The device's ordinal.
    pub device: u32,
    /// Free bytes.
    pub free: u64,
    /// All bytes of the device.
    pub total: u64,
    /// Bytes that the smallest pass takes, parameters included.
    pub needed: u64,
    /// Its tokens.
    pub tokens: usize,
    /// Whether the model would fit in a dtype of 16 bits, where the job's has 32.
    pub fits_in_16_bits: bool,
    /// Tokens of a smaller pass that would fit, where every sequence fits into it.
    pub fewer_tokens: Option<usize>,
}

/// Tenths of a GiB, as text.
fn gib(tenths: u64) -> String {
    format!("{}.{} GiB", tenths / 10, tenths % 10)
}

/// No more than there is: rounded down.
fn gib_of_free(bytes: u64) -> String {
    gib(((u128::from(bytes) * 10) >> 30) as u64)
}

/// Enough: rounded up, so that it never reads like what is free and too little.
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
    /// Only what would help.
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
    /// Whether CUDA cannot be had here at all, as without a driver.
    pub fn is_unavailable(&self) -> bool {
        matches!(
            self,
            Self::NoKernel { .. }
                | Self::Gemm(GemmError::Missing { .. } | GemmError::Library { .. })
        )
    }

    /// Whether the table of GEMM algorithms that the job has to use is refused.
    pub fn is_refused_table(&self) -> bool {
        matches!(self, Self::Gemm(error) if error.is_refused_table())
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
            Self::Memory(shortage) => Some(shortage.hint()),
            Self::HeadDim { .. } => Some("use --device cpu".into()),
            Self::OutOfOrder { .. } => None,
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

    /// A few bytes short: the two sizes never read alike.
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
