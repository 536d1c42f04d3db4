//! Computes how much of the host's memory a model leaves to its sequences.

use super::{Device, EngineError};
use crate::bytes::{Bytes, rounded_up};
use crate::model::{Request, host_bytes};
use crate::remedy::{Action, Remedy};
use crate::system::memory::{self, Available, Bound};
use crate::weights::Checkpoint;

/// The host memory that a sequence needs, and the host memory that is available.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostMemory {
    /// Bytes that each token of the longest sequence needs, as a lower bound.
    pub per_token: u64,
    /// The memory that is available.
    pub available: Available,
}

impl HostMemory {
    /// The most tokens that can be computed at once.
    pub fn tokens(&self) -> u64 {
        self.available.bytes / self.per_token.max(1)
    }
}

/// The host memory that is available to sequences, after the model's weights. Returns `None` if the
/// host's memory does not bound the job (on CUDA), or if the system does not say how much there is.
///
/// # Errors
/// [`EngineError::Memory`] if not even the weights fit.
pub fn host_memory(
    device: &Device,
    checkpoint: &Checkpoint,
    request: &Request,
    threads: usize,
) -> Result<Option<HostMemory>, EngineError> {
    // On CUDA, the device's memory bounds a pass.
    let (Device::Cpu, Some(mut available)) = (device, memory::available()) else {
        return Ok(None);
    };
    let weights = checkpoint.converted_bytes();
    if weights > available.bytes {
        return Err(EngineError::Memory {
            message: format!(
                "the weights need {} of memory as f32, and {} can be had {}",
                rounded_up(weights),
                Bytes(available.bytes),
                available.bound
            ),
            remedy: Remedy::any_of([Action::ConvertToF32.into(), Action::MoreMemory.into()]),
        });
    }
    available.bytes -= weights;
    if available.bound == Bound::AddressSpace {
        // Each thread takes address space for its stack and, unless there is too little, for its
        // own part of the heap.
        let threads = (threads + OTHER_THREADS) as u64 * THREAD_SPACE;
        available.bytes = available
            .bytes
            .saturating_sub(threads)
            .max(available.bytes / 4);
    }
    Ok(Some(HostMemory {
        per_token: host_bytes(checkpoint.config(), request, threads),
        available,
    }))
}

/// Checks that a sequence of `tokens` tokens can be computed.
///
/// # Errors
/// [`EngineError::Memory`] if the sequence needs more memory than is available.
pub fn fits(memory: &HostMemory, tokens: usize) -> Result<(), EngineError> {
    if tokens as u64 <= memory.tokens() {
        return Ok(());
    }
    Err(EngineError::Memory {
        message: format!(
            "a sequence of {tokens} tokens needs about {} of memory, and {} can be had {}",
            rounded_up(memory.per_token.saturating_mul(tokens as u64)),
            Bytes(memory.available.bytes),
            memory.available.bound
        ),
        remedy: Action::ShorterSequences {
            tokens: memory.tokens(),
        }
        .into(),
    })
}

/// Number of threads of a job that do not compute.
const OTHER_THREADS: usize = 5;
/// Bytes of address space that a thread takes: its stack, and 64 MiB for what it allocates.
const THREAD_SPACE: u64 = 66 << 20;
