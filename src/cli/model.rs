//! Opens the model that `--model` names, and describes it.

use std::path::Path;

use super::download::Display;
use super::{Console, Failure};
use seqstream::architecture::ModelConfig;
use seqstream::engine::{Engine, Plan};
use seqstream::hub::{self, Found, Hub};
use seqstream::weights::Checkpoint;

/// Returns the cache and the settings of the Hub, from the environment and `--offline`.
pub fn hub(console: &Console) -> Hub {
    let mut hub = Hub::from_environment();
    if console.is_offline() {
        hub.offline = Some("--offline");
    }
    hub
}

/// Finds the model that `--model` means: a path, or a name, whose model is downloaded if it is not
/// in the cache.
pub fn find(given: &Path, console: &Console) -> Result<Found, Failure> {
    let found = hub::find(given, &hub(console), &mut Display::new(console))?;
    if let Some(id) = &found.id {
        console.detail(&format!("model: {id} in {}", found.path.display()));
    }
    Ok(found)
}

/// Returns the sizes of a model of which nothing else is needed: those of a published size by its
/// name alone, such as 650M, or those of the model that is found.
pub fn sizes(given: &Path, console: &Console) -> Result<ModelConfig, Failure> {
    match given.to_str().and_then(ModelConfig::preset) {
        Some(config) => Ok(config),
        None => Ok(open(&find(given, console)?.path, console)?.config().clone()),
    }
}

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
