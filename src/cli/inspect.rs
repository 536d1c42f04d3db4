//! `seqstream inspect`: shows the architecture, the files and the tensors of a model.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use indicatif::HumanCount;
use serde::Serialize;

use super::args::InspectArgs;
use super::{Console, Failure, model};
use seqstream::architecture::ModelConfig;
use seqstream::architecture::ModelKind;
use seqstream::architecture::layout;
use seqstream::bytes::Bytes;
use seqstream::untrusted::Shown;
use seqstream::untrusted::shown;
use seqstream::weights::{Checkpoint, TensorInfo};

/// Runs `seqstream inspect`.
pub fn run(args: &InspectArgs, console: &Console) -> Result<(), Failure> {
    let found = model::find(&args.model, console)?;
    let checkpoint = model::open(&found.path, console)?;
    // Only the JSON has the hash, because every byte of the model is read for it.
    let hash = args.json.then(|| checkpoint.hash()).transpose()?;
    console.report(&Inspection::of(found.id, &checkpoint, hash), args.json)
}

/// The architecture, the files and the tensors of a model.
#[derive(Serialize)]
struct Inspection<'a> {
    /// The name on the Hugging Face Hub and the commit, if the model was given by its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    model: &'a ModelConfig,
    parameters: u64,
    bytes: u64,
    blake3: Option<String>,
    #[serde(serialize_with = "shown::serialize_paths")]
    files: Vec<&'a Path>,
    /// Only the text shows it.
    #[serde(skip)]
    config: Option<&'a Path>,
    tokenizer: Option<String>,
    warnings: &'a [String],
    tensors: Vec<TensorInfo>,
}

impl<'a> Inspection<'a> {
    fn of(id: Option<String>, checkpoint: &'a Checkpoint, blake3: Option<String>) -> Self {
        Self {
            id,
            model: checkpoint.config(),
            parameters: layout::parameters(checkpoint.config()),
            bytes: checkpoint.total_bytes(),
            blake3,
            files: checkpoint.files().collect(),
            config: checkpoint.config_path(),
            tokenizer: checkpoint
                .tokenizer_path()
                .map(|path| path.to_string_lossy().into_owned()),
            warnings: checkpoint.warnings(),
            tensors: checkpoint.tensors(),
        }
    }
}

impl fmt::Display for Inspection<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, value: &dyn fmt::Display| writeln!(f, "{name:<11} {value}");
        if let Some(id) = &self.id {
            line("name", id)?;
        }
        let config = self.model;
        line(
            "model",
            &format!("{}, {}", config.kind, architecture(config)),
        )?;
        line("parameters", &HumanCount(self.parameters))?;
        line(
            "stored",
            &format!("{} in {}", Bytes(self.bytes), dtypes(&self.tensors)),
        )?;
        for file in &self.files {
            line("file", &shown::path(file))?;
        }
        if let Some(path) = self.config {
            line("config", &shown::path(path))?;
        }
        if config.kind == ModelKind::Dnabert {
            match &self.tokenizer {
                Some(path) => line("tokenizer", &shown::path(Path::new(path)))?,
                None => line(
                    "tokenizer",
                    &"missing: DNA cannot be read without tokenizer.json",
                )?,
            }
        }
        line("tensors", &self.tensors.len())?;
        // Names and shapes come from the file, so they are escaped: a file must not control the
        // terminal.
        let names = self.tensors.iter().map(|t| Shown(&t.name).to_string());
        let names: Vec<String> = names.collect();
        let width = names.iter().map(String::len).max().unwrap_or(0);
        for (t, name) in self.tensors.iter().zip(&names) {
            let unused = if t.used { "" } else { "  (not used)" };
            let shape = shown::shape(&t.shape);
            writeln!(f, "  {name:<width$} {:<5} {shape}{unused}", t.dtype)?;
        }
        Ok(())
    }
}

fn architecture(config: &ModelConfig) -> String {
    format!(
        "{} layers, width {}, {} heads of {}, feed-forward {}, vocabulary {}",
        config.layers,
        config.hidden,
        config.heads,
        config.head_dim(),
        config.intermediate,
        config.vocab
    )
}

fn dtypes(tensors: &[TensorInfo]) -> String {
    let mut by_dtype: BTreeMap<&str, u64> = BTreeMap::new();
    tensors
        .iter()
        .for_each(|t| *by_dtype.entry(&t.dtype).or_default() += 1);
    match by_dtype.len() {
        1 => by_dtype.into_keys().collect(),
        _ => by_dtype
            .into_iter()
            .map(|(d, n)| format!("{d} ({n} tensors)"))
            .collect::<Vec<_>>()
            .join(", "),
    }
}
