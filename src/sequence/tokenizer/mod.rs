//! Text to token ids, identical to Hugging Face's on the same text.

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

/// A model's tokenizer. Cheap to share behind `&`.
#[derive(Debug)]
pub enum Tokenizer {
    /// ESM-2's 33 tokens.
    Esm2(Esm),
    /// DNABERT-S's and DNABERT-2's byte pair encoding.
    Bpe(Box<Bpe>),
}

impl Tokenizer {
    /// ESM-2's, which has no file.
    pub fn esm2() -> Self {
        Self::Esm2(Esm)
    }

    /// Reads a `tokenizer.json`. Truncation and padding are ignored, whatever it says of them.
    ///
    /// # Errors
    /// A file that cannot be read, is no JSON, or asks for what is not supported; the field is named.
    pub fn from_file(path: &Path) -> Result<Self, TokenizerError> {
        Ok(Self::Bpe(Box::new(json::from_file(path)?)))
    }

    /// The same from memory; `name` is what messages call it.
    ///
    /// # Errors
    /// As [`Tokenizer::from_file`].
    pub fn from_json(name: &str, json: &[u8]) -> Result<Self, TokenizerError> {
        Ok(Self::Bpe(Box::new(json::from_slice(name, json)?)))
    }

    /// Appends the tokens of `text`, the special ones at both ends included.
    ///
    /// A byte that is not UTF-8, and so [`UNKNOWN`](super::UNKNOWN), is one unknown token by itself. Text is at
    /// most 4 GiB.
    pub fn encode(&self, text: &[u8], out: &mut Vec<u32>) {
        match self {
            Self::Esm2(esm) => esm.encode(text, out),
            Self::Bpe(bpe) => bpe.encode(text, out),
        }
    }

    /// Appends what [`encode`](Self::encode) does, or, where the text has more than `most` tokens between the special
    /// ones, perhaps only the first ones of them, `most` at least: memory then goes by what is wanted of a text.
    pub fn encode_first(&self, text: &[u8], most: usize, out: &mut Vec<u32>) {
        match self {
            Self::Esm2(esm) => esm.encode_first(text, most, out),
            Self::Bpe(bpe) => bpe.encode_first(text, most, out),
        }
    }

    /// One more than the highest id that `encode` can give: the least number of rows of an embedding table.
    pub fn vocab_size(&self) -> usize {
        match self {
            Self::Esm2(_) => esm::VOCABULARY.len(),
            Self::Bpe(bpe) => bpe.vocab_size(),
        }
    }
}
