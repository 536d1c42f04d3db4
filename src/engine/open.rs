//! What a model reads: its alphabet and its tokenizer.

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

/// The tokenizer of a checkpoint: ESM-2's is fixed, DNABERT's stands beside the weights. `path` is
/// the model's, for errors.
///
/// # Errors
/// [`EngineError::NoTokenizer`] and [`EngineError::Tokenizer`].
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
