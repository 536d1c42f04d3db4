//! Tells which alphabet and which tokenizer a model reads.

use std::path::Path;

use super::EngineError;
use crate::architecture::ModelKind;
use crate::sequence::{Alphabet, Tokenizer};
use crate::weights::Checkpoint;

/// The alphabet that a model of this kind reads.
pub fn alphabet(kind: ModelKind) -> Alphabet {
    match kind {
        ModelKind::Esm2 => Alphabet::Protein,
        ModelKind::Dnabert => Alphabet::Dna,
    }
}

/// The tokenizer of a checkpoint. ESM-2's tokenizer is fixed; DNABERT's is the tokenizer.json
/// beside the weights. `path` is the model's path, which errors name.
///
/// # Errors
/// [`EngineError::NoTokenizer`] if the tokenizer.json is missing, and [`EngineError::Tokenizer`] if
/// it cannot be used.
pub fn tokenizer(path: &Path, checkpoint: &Checkpoint) -> Result<Tokenizer, EngineError> {
    match checkpoint.config().kind {
        ModelKind::Esm2 => Ok(Tokenizer::esm2()),
        ModelKind::Dnabert => {
            let file = checkpoint.tokenizer_path();
            let file = file.ok_or_else(|| EngineError::NoTokenizer {
                model: path.display().to_string(),
            })?;
            Ok(Tokenizer::from_file(&file)?)
        }
    }
}
