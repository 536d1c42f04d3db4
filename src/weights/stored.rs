//! What a file says about its tensors, whatever the file's format.

use std::ops::Range;

use super::DType;
use crate::untrusted::Shown;

/// The most tensors that the files of one model may have. ESM-2 15B has 781, and a checkpoint with
/// the state of its training a few times as many. Each takes some 500 bytes here, and may take 50 in
/// a file.
pub(super) const MOST_TENSORS: usize = 1 << 16;
/// The longest name of a tensor, in bytes. Published ones have at most 70; a name is kept three
/// times, and a pickle can use one again and again at 4 bytes each.
pub(super) const LONGEST_NAME: usize = 1000;
/// The most dimensions of a tensor: PyTorch allows no more.
pub(super) const MOST_DIMENSIONS: usize = 64;

/// A tensor as its file describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredTensor {
    /// Name as the file has it.
    pub name: String,
    /// Its number format.
    pub dtype: StoredDType,
    /// Row-major shape, outermost first.
    pub shape: Vec<usize>,
    /// Where in the file its values lie, row-major and without gaps, or why there is no such place.
    pub place: Result<Range<usize>, String>,
}

impl StoredTensor {
    /// Number of values; 0 if that overflows, which the readers exclude.
    pub fn values(&self) -> usize {
        element_count(&self.shape).unwrap_or(0)
    }
}

/// The number format of a stored tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredDType {
    /// One that weights are read from.
    Float(DType),
    /// Another one, by name, and its bytes a value where a value has whole bytes.
    Other(&'static str, Option<usize>),
}

impl StoredDType {
    /// Bytes a value, where a value has whole bytes.
    pub fn size(self) -> Option<usize> {
        match self {
            StoredDType::Float(dtype) => Some(dtype.size()),
            StoredDType::Other(_, size) => size,
        }
    }
}

impl std::fmt::Display for StoredDType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StoredDType::Float(dtype) => dtype.fmt(f),
            StoredDType::Other(name, _) => f.write_str(name),
        }
    }
}

/// Why bytes are no weights file: the message without the file's name, and the remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed {
    /// What is wrong, with the byte offset where there is one.
    pub what: String,
    /// The remedy.
    pub hint: String,
}

impl Malformed {
    pub(super) fn new(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            hint: hint.into(),
        }
    }

    /// Damage, for which there is one remedy.
    pub(super) fn damaged(what: impl Into<String>) -> Self {
        Self::new(what, "the file is damaged or incomplete; download it again")
    }
}

/// Whether a file may have one more tensor of this name, after `before` others.
///
/// # Errors
/// A clause that says why not.
pub(super) fn fitting_name(name: &str, before: usize) -> Result<(), String> {
    if name.len() > LONGEST_NAME {
        return Err(format!(
            "a tensor's name, {}, has {} bytes, of which {LONGEST_NAME} are read",
            Shown(name),
            name.len()
        ));
    }
    if before >= MOST_TENSORS {
        return Err(format!(
            "there are more than {MOST_TENSORS} tensors, and no model has so many"
        ));
    }
    Ok(())
}

/// The product of a shape's sizes, `None` if it overflows.
pub(super) fn element_count(shape: &[usize]) -> Option<usize> {
    shape
        .iter()
        .try_fold(1usize, |n, &size| n.checked_mul(size))
}
