//! Opening the model that `--model` names, and saying what was loaded.

use std::path::Path;

use super::{Console, Failure};
use seqstream::engine::Engine;
use seqstream::weights::Checkpoint;

/// Opens the weights, passing on what they warn of.
pub fn open(path: &Path, console: &Console) -> Result<Checkpoint, Failure> {
    let checkpoint = Checkpoint::open(path)?;
    for warning in checkpoint.warnings() {
        console.warn(warning);
    }
    Ok(checkpoint)
}

/// Says what was loaded, for `-v`.
pub fn describe(engine: &Engine, checkpoint: &Checkpoint, console: &Console) {
    let config = checkpoint.config();
    console.detail(&format!(
        "model: {} of {} layers, width {}, {} heads; {}, {}, {} tokens per batch",
        config.kind,
        config.layers,
        config.hidden,
        config.heads,
        engine.place,
        engine.identity.dtype,
        engine.token_budget,
    ));
}
