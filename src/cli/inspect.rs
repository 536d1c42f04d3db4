//! `seqstream inspect`: shows the architecture, the files and the tensors of a model.

use std::collections::BTreeMap;

use serde_json::json;

use super::args::InspectArgs;
use super::progress::{bytes, count};
use super::{Console, Failure, model};
use seqstream::architecture::ModelConfig;
use seqstream::architecture::ModelKind;
use seqstream::architecture::layout;
use seqstream::untrusted::Shown;
use seqstream::untrusted::shown;
use seqstream::weights::TensorInfo;

/// Runs `seqstream inspect`.
pub fn run(args: &InspectArgs, console: &Console) -> Result<(), Failure> {
    let checkpoint = model::open(&args.model, console)?;
    let config = checkpoint.config();
    let tensors = checkpoint.tensors();
    if args.json {
        let files: Vec<String> = checkpoint
            .files()
            .map(|f| f.display().to_string())
            .collect();
        let value = json!({
            "model": config,
            "parameters": layout::parameters(config),
            "bytes": checkpoint.total_bytes(),
            "blake3": checkpoint.hash()?,
            "files": files,
            "tokenizer": checkpoint.tokenizer_path(),
            "warnings": checkpoint.warnings(),
            "tensors": tensors,
        });
        return console.print(|out| writeln!(out, "{value}").map_err(Failure::Stdout));
    }
    let mut lines = vec![
        (
            "model",
            format!("{}, {}", config.kind, architecture(config)),
        ),
        ("parameters", count(layout::parameters(config))),
        (
            "stored",
            format!(
                "{} in {}",
                bytes(checkpoint.total_bytes()),
                dtypes(&tensors)
            ),
        ),
    ];
    lines.extend(
        checkpoint
            .files()
            .map(|file| ("file", shown::path(file).to_string())),
    );
    if let Some(path) = checkpoint.config_path() {
        lines.push(("config", shown::path(path).to_string()));
    }
    if config.kind == ModelKind::Dnabert {
        let path = checkpoint
            .tokenizer_path()
            .map(|p| shown::path(&p).to_string());
        lines.push((
            "tokenizer",
            path.unwrap_or_else(|| "missing: DNA cannot be read without tokenizer.json".into()),
        ));
    }
    console.print(|out| {
        for (name, value) in &lines {
            writeln!(out, "{name:<11} {value}").map_err(Failure::Stdout)?;
        }
        writeln!(out, "tensors     {}", tensors.len()).map_err(Failure::Stdout)?;
        // Names and shapes come from the file, so they are escaped: a file must not control the
        // terminal.
        let names: Vec<String> = tensors.iter().map(|t| Shown(&t.name).to_string()).collect();
        let width = names.iter().map(String::len).max().unwrap_or(0);
        for (t, name) in tensors.iter().zip(&names) {
            let unused = if t.used { "" } else { "  (not used)" };
            let shape = shown::shape(&t.shape);
            writeln!(out, "  {name:<width$} {:<5} {shape}{unused}", t.dtype)
                .map_err(Failure::Stdout)?;
        }
        Ok(())
    })
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
