//! Computes the memory that a sequence takes on the host if the CPU computes.

use super::Request;
use crate::architecture::{ModelConfig, ModelKind};

/// A lower bound of the bytes that each token of one long sequence takes on the CPU, while
/// `threads` threads compute it. It counts the memory that the model's workspace and the CPU's
/// attention allocate.
pub fn host_bytes(config: &ModelConfig, request: &Request, threads: usize) -> u64 {
    let hidden = config.hidden as u64;
    let head = hidden / config.heads.max(1) as u64;
    // The matrices x, h, qkv and wide of the workspace.
    let mut floats = 5 * hidden + config.intermediate as u64;
    // The keys and values of one head, for each thread.
    floats += threads as u64 * 2 * head;
    if config.kind == ModelKind::Esm2 {
        // The table of rotary angles, and the final LayerNorm's output if the request asks for it.
        floats += head;
        if request.layers.contains(&config.layers) {
            floats += hidden;
        }
    }
    if request.per_token {
        floats += request.layers.len() as u64 * hidden;
    }
    // The factor of the token's embedding in f64, and the token's id in the batch.
    4 * floats + 8 + 4
}
