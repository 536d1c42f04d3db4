//! Describes the tensors of a file, whatever the file's format.

use std::ops::Range;

use crate::dtype::DType;
use crate::untrusted::Shown;

/// The most tensors that the files of one model may have. ESM-2 15B has 781 tensors, and a
/// checkpoint with the state of its training has a few times as many. Each tensor takes some 500
/// bytes in memory, and may take only 50 bytes in a file.
pub(super) const MOST_TENSORS: usize = 1 << 16;
/// The longest name of a tensor, in bytes. Published names have at most 70 bytes. A name is kept
/// three times, and a pickle can use one name again and again at 4 bytes per use.
pub(super) const LONGEST_NAME: usize = 1000;
/// The most dimensions of a tensor: PyTorch allows no more.
pub(super) const MOST_DIMENSIONS: usize = 64;

/// A tensor as its file describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredTensor {
    /// The name in the file.
    pub name: String,
    /// Its number format.
    pub dtype: StoredDType,
    /// Row-major shape, outermost first.
    pub shape: Vec<usize>,
    /// The bytes of the file that hold its values, row-major and without gaps, or the reason why
    /// there is no such range, as the rest of a sentence.
    pub place: Result<Range<usize>, String>,
}

impl StoredTensor {
    /// The number of values; 0 if the product of the sizes overflows, which the readers exclude.
    pub fn values(&self) -> usize {
        element_count(&self.shape).unwrap_or(0)
    }
}

/// The number format of a stored tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredDType {
    /// A format that weights are read from.
    Float(DType),
    /// Another format: its name, and its bytes per value if a value has whole bytes.
    Other(&'static str, Option<usize>),
}

impl StoredDType {
    /// Bytes per value, if a value has whole bytes.
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

/// Why bytes are not a weights file: the message without the file's name, and the remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed {
    /// What is wrong, with the byte offset where there is one.
    pub what: String,
    /// What the user can do about it.
    pub hint: String,
}

impl Malformed {
    pub(super) fn new(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            hint: hint.into(),
        }
    }

    /// An error for damaged bytes, for which there is one remedy.
    pub(super) fn damaged(what: impl Into<String>) -> Self {
        Self::new(what, "the file is damaged or incomplete; download it again")
    }
}

/// Checks that a file may have one more tensor of this name, after `before` others.
///
/// # Errors
/// The error is a clause that says why it may not.
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

/// The product of a shape's sizes, or `None` if it overflows.
pub(super) fn element_count(shape: &[usize]) -> Option<usize> {
    shape
        .iter()
        .try_fold(1usize, |n, &size| n.checked_mul(size))
}
