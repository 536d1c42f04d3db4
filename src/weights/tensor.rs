//! Gives access to the values of tensors in mapped files.

use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

use super::WeightsError;
use super::hash::read_at;
use super::mapped::{Mapped, as_f32};
use crate::dtype::DType;

/// One tensor of a checkpoint. It keeps its file mapped and is cheap to clone.
#[derive(Debug, Clone)]
pub struct Tensor {
    pub(super) name: String,
    pub(super) dtype: DType,
    pub(super) shape: Vec<usize>,
    pub(super) file: Arc<Mapped>,
    /// The bytes of its values. The range lies within the file, which was checked when the file was
    /// opened.
    pub(super) range: Range<usize>,
}

impl Tensor {
    /// The canonical name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The number format in which the values are stored.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Row-major shape, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.range.len() / self.dtype.size()
    }

    /// Whether it has no values.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// The path of the file that holds the tensor.
    pub fn file(&self) -> &Path {
        self.file.path()
    }

    /// Whether the tensor belongs to a model without values
    /// ([`Checkpoint::hollow`](super::Checkpoint::hollow)). Its bytes are zeros, and need not be
    /// read: each page that is read would take memory.
    pub fn is_hollow(&self) -> bool {
        self.file.hollow
    }

    /// The values as they are stored: little-endian, possibly unaligned.
    pub fn bytes(&self) -> &[u8] {
        self.file
            .bytes()
            .get(self.range.clone())
            .unwrap_or_default()
    }

    /// The values in f32. Values that are stored as aligned f32 are used where they are mapped,
    /// other values are converted.
    pub fn to_f32(&self) -> F32Data {
        if self.dtype == DType::F32 && as_f32(self.bytes()).is_some() {
            return F32Data::Mapped {
                file: Arc::clone(&self.file),
                range: self.range.clone(),
            };
        }
        let mut values = Vec::with_capacity(self.len());
        self.dtype.decode(self.bytes(), &mut values);
        F32Data::Owned(values)
    }

    /// Visits all values once, in order, at most `most` values at a time. `visit` gets the index of
    /// the first value and the values. They are read from the file and not through the mapping, so
    /// that visiting a large checkpoint leaves none of it in this program's memory.
    ///
    /// # Errors
    /// [`WeightsError::Read`] if the file cannot be read, and the errors that `visit` returns.
    pub fn for_each_block<E: From<WeightsError>>(
        &self,
        most: usize,
        mut visit: impl FnMut(usize, &[f32]) -> Result<(), E>,
    ) -> Result<(), E> {
        let path = self.file();
        let size = self.dtype.size();
        let (mut bytes, mut values) = (Vec::new(), Vec::new());
        let most = most.max(1);
        for first in (0..self.len()).step_by(most) {
            bytes.resize(most.min(self.len() - first) * size, 0);
            let start = self.range.start + first * size;
            read_at(self.file.file(), &mut bytes, start as u64)
                .map_err(WeightsError::read(path))?;
            values.clear();
            self.dtype.decode(&bytes, &mut values);
            visit(first, &values)?;
        }
        Ok(())
    }
}

/// Values in f32, in a mapped file or in memory of their own.
#[derive(Debug, Clone)]
pub enum F32Data {
    /// The values are in a mapped file: aligned, little-endian, not copied.
    Mapped {
        /// The file.
        file: Arc<Mapped>,
        /// The bytes of the file that hold the values.
        range: Range<usize>,
    },
    /// The values were converted from another format, or copied for alignment.
    Owned(Vec<f32>),
}

impl Deref for F32Data {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match self {
            F32Data::Mapped { file, range } => file
                .bytes()
                .get(range.clone())
                .and_then(as_f32)
                .unwrap_or_default(),
            F32Data::Owned(values) => values,
        }
    }
}

/// The values of a parameter, in the format in which they are stored or in f32.
#[derive(Debug, Clone)]
pub enum Weight {
    /// A tensor of a checkpoint.
    Stored(Tensor),
    /// Values in f32.
    F32(F32Data),
}

impl Weight {
    /// Number of values.
    pub fn len(&self) -> usize {
        match self {
            Weight::Stored(tensor) => tensor.len(),
            Weight::F32(values) => values.len(),
        }
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The values in f32. Values that are mapped as aligned f32 are not copied.
    pub fn to_f32(&self) -> F32Data {
        match self {
            Weight::Stored(tensor) => tensor.to_f32(),
            Weight::F32(values) => values.clone(),
        }
    }
}
