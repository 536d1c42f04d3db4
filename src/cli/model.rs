//! Opens the model that `--model` names, and describes it.

use std::path::Path;

use super::{Console, Failure};
use seqstream::engine::{Engine, Plan};
use seqstream::weights::Checkpoint;

/// Opens the weights and prints their warnings.
pub fn open(path: &Path, console: &Console) -> Result<Checkpoint, Failure> {
    let checkpoint = Checkpoint::open(path)?;
    for warning in checkpoint.warnings() {
        console.warn(warning);
    }
    Ok(checkpoint)
}

/// Prints the details of the loaded model, which only `--verbose` shows.
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
        engine.embedder.budget().tokens,
    ));
    plan(&engine.plan, console);
}

/// Says which devices stream layers because the model would not fit, and with `--verbose` how the
/// memory of all devices is divided.
pub fn plan(plan: &Plan, console: &Console) {
    for device in &plan.devices {
        if let Some(notice) = device.notice() {
            console.say(&notice);
        }
        console.detail(device.to_string().trim_end());
    }
}
