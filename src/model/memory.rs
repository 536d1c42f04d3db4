//! What a sequence takes of the host's memory where the host computes.

use super::Request;
use crate::architecture::{ModelConfig, ModelKind};

/// Bytes that each token of one long sequence takes on the CPU, at the least, while `threads` compute it: what
/// [`Workspace`](super::Workspace) and the CPU's attention allocate.
pub fn host_bytes(config: &ModelConfig, request: &Request, threads: usize) -> u64 {
    let hidden = config.hidden as u64;
    let head = hidden / config.heads.max(1) as u64;
    // x, h, qkv and wide.
    let mut floats = 5 * hidden + config.intermediate as u64;
    // A worker's keys and values of one head.
    floats += threads as u64 * 2 * head;
    if config.kind == ModelKind::Esm2 {
        // The table of angles, and the final norm's output where it is asked for.
        floats += head;
        if request.layers.contains(&config.layers) {
            floats += hidden;
        }
    }
    if request.per_token {
        floats += request.layers.len() as u64 * hidden;
    }
    // A factor of the embedding in f64, and its id in the batch.
    4 * floats + 8 + 4
}
