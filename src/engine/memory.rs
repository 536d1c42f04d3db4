//! How much of the host's memory a model leaves to its sequences.

use super::{Device, EngineError};
use crate::model::{Request, host_bytes};
use crate::system::memory::{self, Available, Bound, show};
use crate::weights::Checkpoint;

/// What a sequence takes of the host's memory, and what there is of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostMemory {
    /// Bytes that each token of the longest sequence takes, at least.
    pub per_token: u64,
    /// The memory that can be had.
    pub available: Available,
}

impl HostMemory {
    /// The most tokens that may be computed at once.
    pub fn tokens(&self) -> u64 {
        self.available.bytes / self.per_token.max(1)
    }
}

/// What the host's memory has room for, beside the model itself.
///
/// # Errors
/// [`EngineError::Memory`] where not even the weights fit.
pub fn host_memory(
    device: &Device,
    checkpoint: &Checkpoint,
    request: &Request,
    threads: usize,
) -> Result<Option<HostMemory>, EngineError> {
    // On CUDA a pass is bounded by the device's memory.
    let (Device::Cpu, Some(mut available)) = (device, memory::available()) else {
        return Ok(None);
    };
    let weights = checkpoint.converted_bytes();
    if weights > available.bytes {
        return Err(EngineError::Memory {
            message: format!(
                "the weights need {} of memory as f32, and {} can be had {}",
                show(weights),
                show(available.bytes),
                available.bound
            ),
            hint: "weights-tools convert --dtype f32 makes a file that is used where it is mapped; or give the job more memory"
                .into(),
        });
    }
    available.bytes -= weights;
    if available.bound == Bound::AddressSpace {
        // Each thread has a stack, and a part of the heap for itself, unless there is too little for that.
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

/// Checks that a sequence of so many tokens can be computed.
///
/// # Errors
/// [`EngineError::Memory`].
pub fn fits(memory: &HostMemory, tokens: usize) -> Result<(), EngineError> {
    if tokens as u64 <= memory.tokens() {
        return Ok(());
    }
    Err(EngineError::Memory {
        message: format!(
            "a sequence of {tokens} tokens needs about {} of memory, and {} can be had {}",
            show(memory.per_token.saturating_mul(tokens as u64)),
            show(memory.available.bytes),
            memory.available.bound
        ),
        hint: format!("measure sequences of at most {} tokens", memory.tokens()),
    })
}

/// Threads of a job that do not compute.
const OTHER_THREADS: usize = 5;
/// Addresses that a thread takes: its stack, and 64 MiB for what it allocates.
const THREAD_SPACE: u64 = 66 << 20;
