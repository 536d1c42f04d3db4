//! What a file says about its tensors, whatever the file's format.

use std::ops::Range;

use crate::dtype::DType;

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

/// The product of a shape's sizes, `None` if it overflows.
pub(super) fn element_count(shape: &[usize]) -> Option<usize> {
    shape
        .iter()
        .try_fold(1usize, |n, &size| n.checked_mul(size))
}
