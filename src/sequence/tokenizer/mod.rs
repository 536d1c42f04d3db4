//! Turns text into token ids, which are identical to the ids from Hugging Face's tokenizers.

mod added;
mod backtrack;
mod bpe;
mod error;
pub mod esm;
mod json;
mod merge;

use std::path::Path;

pub use bpe::Bpe;
pub use error::TokenizerError;
pub use esm::Esm;
pub use json::MAX_FILE;

/// The tokenizer of a model. It is cheap to share behind `&`.
#[derive(Debug)]
pub enum Tokenizer {
    /// ESM-2's tokenizer with its 33 tokens.
    Esm2(Esm),
    /// The byte pair encoding of DNABERT-S and DNABERT-2.
    Bpe(Box<Bpe>),
}

impl Tokenizer {
    /// Returns ESM-2's tokenizer, which needs no file.
    pub fn esm2() -> Self {
        Self::Esm2(Esm)
    }

    /// Reads a `tokenizer.json`. Its settings for truncation and padding are ignored.
    ///
    /// # Errors
    /// The file cannot be read, is not JSON, or asks for a feature that is not supported. The error
    /// names the field.
    pub fn from_file(path: &Path) -> Result<Self, TokenizerError> {
        Ok(Self::Bpe(Box::new(json::from_file(path)?)))
    }

    /// Reads a `tokenizer.json` from memory; `name` is its name in messages.
    ///
    /// # Errors
    /// The errors of [`Tokenizer::from_file`].
    pub fn from_json(name: &str, json: &[u8]) -> Result<Self, TokenizerError> {
        Ok(Self::Bpe(Box::new(json::from_slice(name, json)?)))
    }

    /// Appends the tokens of `text`, including the special tokens at both ends.
    ///
    /// A byte that is not UTF-8, such as [`UNKNOWN`](super::UNKNOWN), is one unknown token by
    /// itself. The text may have at most 4 GiB.
    pub fn encode(&self, text: &[u8], out: &mut Vec<u32>) {
        match self {
            Self::Esm2(esm) => esm.encode(text, out),
            Self::Bpe(bpe) => bpe.encode(text, out),
        }
    }

    /// Appends the same tokens as [`encode`](Self::encode), but may leave out the end of a long
    /// text. If the text has more than `most` tokens between the special tokens, at least the first
    /// `most` of them are appended. The memory then depends on how many tokens are wanted and not
    /// on the length of the text.
    pub fn encode_first(&self, text: &[u8], most: usize, out: &mut Vec<u32>) {
        match self {
            Self::Esm2(esm) => esm.encode_first(text, most, out),
            Self::Bpe(bpe) => bpe.encode_first(text, most, out),
        }
    }

    /// Returns one more than the highest id that `encode` can give. This is the least number of
    /// rows of an embedding table.
    pub fn vocab_size(&self) -> usize {
        match self {
            Self::Esm2(_) => esm::VOCABULARY.len(),
            Self::Bpe(bpe) => bpe.vocab_size(),
        }
    }
}
