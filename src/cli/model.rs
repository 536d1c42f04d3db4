//! Opening what `--model` names.

use std::path::Path;

use super::{Console, Failure};
use crate::model::config::ModelKind;
use crate::sequence::{Alphabet, Tokenizer};
use crate::weights::Checkpoint;

/// Opens the weights, passing on what they warn of.
pub fn open(path: &Path, console: &Console) -> Result<Checkpoint, Failure> {
    let checkpoint = Checkpoint::open(path)?;
    for warning in checkpoint.warnings() {
        console.warn(warning);
    }
    Ok(checkpoint)
}

/// What a model of this kind reads.
pub fn alphabet(kind: ModelKind) -> Alphabet {
    match kind {
        ModelKind::Esm2 => Alphabet::Protein,
        ModelKind::Dnabert => Alphabet::Dna,
    }
}

/// The tokeniser of a checkpoint: ESM-2's is fixed, DNABERT's stands beside the weights.
pub fn tokenizer(path: &Path, checkpoint: &Checkpoint) -> Result<Tokenizer, Failure> {
    match checkpoint.config().kind {
        ModelKind::Esm2 => Ok(Tokenizer::esm2()),
        ModelKind::Dnabert => {
            let file = checkpoint.tokenizer_path();
            let file = file.ok_or_else(|| Failure::NoTokenizer {
                model: path.display().to_string(),
            })?;
            Ok(Tokenizer::from_file(&file)?)
        }
    }
}
