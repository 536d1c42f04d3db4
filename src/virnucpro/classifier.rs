//! The classifier of VirNucPro: one hidden layer with a batch normalization, and two classes.
//!
//! | tensor | shape | |
//! |---|---|---|
//! | `hidden_layer.weight`, `.bias` | `[H, W]`, `[H]` | from a vector of `W` values |
//! | `bn1.weight`, `.bias`, `.running_mean`, `.running_var` | `[H]` | eps is 1e-5 |
//! | `output_layer.weight`, `.bias` | `[2, H]`, `[2]` | class 0 is "others", class 1 is "virus" |
//!
//! `bn1.num_batches_tracked` is only of use to training. The published classifiers have `W` = 3328
//! (DNABERT-S and ESM-2 3B) and `H` = 512.
//!
//! The file is a module that was saved as a whole (`300_model.pth`), its state dict, a checkpoint
//! that has the state dict under a key such as `model_state_dict`, or a safetensors file. It is read
//! as data: nothing in it is executed.

use std::ops::Range;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::ClassifierError;
use crate::dtype::DType;
use crate::untrusted::{Shown, file, shown};
use crate::weights::{Malformed, StoredDType, StoredTensor, WeightsError, read_classifier_index};

/// The longest file that is read, in bytes. The published files have 7 MB; a checkpoint with the
/// state of its training has three times as many.
const LONGEST: u64 = 1 << 30;
/// PyTorch's default for BatchNorm1d, which VirNucPro does not change.
const EPS: f64 = 1e-5;
/// Vectors that are scored at a time by one thread, so that each weight is read once for all.
const BLOCK: usize = 4;
/// The partial sums of a scalar product, which fill the registers of every processor.
const LANES: usize = 8;

/// The tensors of a classifier, with their shapes: H hidden units, W values of a vector.
const TENSORS: [(&str, &str); 8] = [
    ("hidden_layer.weight", "[H, W]"),
    ("hidden_layer.bias", "[H]"),
    ("bn1.weight", "[H]"),
    ("bn1.bias", "[H]"),
    ("bn1.running_mean", "[H]"),
    ("bn1.running_var", "[H]"),
    ("output_layer.weight", "[2, H]"),
    ("output_layer.bias", "[2]"),
];

/// A classifier, whose sums are in f64.
#[derive(Debug, Clone)]
pub struct Classifier {
    path: PathBuf,
    blake3: String,
    width: usize,
    hidden: usize,
    /// The values of [`TENSORS`].
    values: [Vec<f32>; 8],
    /// The batch normalization and the first bias together: what a product is multiplied with, and
    /// what is added then.
    scale: Vec<f64>,
    shift: Vec<f64>,
}

impl Classifier {
    /// Opens a classifier in any of the layouts.
    ///
    /// # Errors
    /// [`ClassifierError`] of every kind but [`ClassifierError::Width`].
    pub fn open(path: &Path) -> Result<Self, ClassifierError> {
        let bytes = file::read(path, LONGEST).map_err(WeightsError::read(path))?;
        let bytes = bytes.map_err(|length| WeightsError::Format {
            path: path.to_owned(),
            what: format!("it has {length} bytes, and a classifier has at most {LONGEST}"),
            hint: "give the file of a VirNucPro classifier, such as 500_model.pth".into(),
        })?;
        Self::from_bytes(path, &bytes)
    }

    /// Makes a classifier of the bytes of its file. `path` is for messages.
    ///
    /// # Errors
    /// Fails as [`open`](Self::open) does.
    pub fn from_bytes(path: &Path, bytes: &[u8]) -> Result<Self, ClassifierError> {
        let tensors = read_classifier_index(bytes).map_err(|Malformed { what, hint }| {
            WeightsError::Format {
                path: path.to_owned(),
                what,
                hint,
            }
        })?;
        let found = Found {
            path,
            bytes,
            tensors: &tensors,
            // A module that was trained on several devices has this prefix.
            prefix: match tensors.iter().all(|t| t.name.starts_with("module.")) {
                true => "module.",
                false => "",
            },
        };
        let (hidden, width) = match found.shape(0)? {
            &[hidden, width] if hidden > 0 && width > 0 => (hidden, width),
            _ => return Err(found.misshapen(0, 0, 0)),
        };
        let mut values: [Vec<f32>; 8] = Default::default();
        for (number, values) in values.iter_mut().enumerate() {
            *values = found.values(number, hidden, width)?;
        }
        let [_, bias, gain, offset, mean, variance, _, _] = &values;
        if let Some(at) = variance.iter().position(|v| *v < 0.0) {
            let what = format!("has the negative variance {} at index {at}", variance[at]);
            return Err(found.unusable(5, what));
        }
        let wide = |values: &[f32], at: usize| f64::from(values[at]);
        let scale: Vec<f64> = (0..hidden)
            .map(|i| wide(gain, i) / (wide(variance, i) + EPS).sqrt())
            .collect();
        let shift = (0..hidden)
            .map(|i| (wide(bias, i) - wide(mean, i)) * scale[i] + wide(offset, i))
            .collect();
        Ok(Self {
            path: path.to_owned(),
            blake3: blake3::hash(bytes).to_hex().to_string(),
            width,
            hidden,
            values,
            scale,
            shift,
        })
    }

    /// Returns whether a file is a classifier, or what was meant to be one: whether it has the first
    /// tensor of a classifier. A file that cannot be read is none.
    pub fn is_at(path: &Path) -> bool {
        let Ok(Ok(bytes)) = file::read(path, LONGEST) else {
            return false;
        };
        let (first, _) = TENSORS[0];
        read_classifier_index(&bytes).is_ok_and(|tensors| {
            let bare = |name: &str| name.strip_prefix("module.").unwrap_or(name) == first;
            tensors.iter().any(|t| bare(&t.name))
        })
    }

    /// The number of values of the vectors that it takes.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The number of units of the hidden layer.
    pub fn hidden(&self) -> usize {
        self.hidden
    }

    /// The BLAKE3 hash of the file, in hex.
    pub fn blake3(&self) -> &str {
        &self.blake3
    }

    /// The tensors that the scores depend on: name, shape and values.
    pub fn tensors(&self) -> impl Iterator<Item = (&'static str, Vec<usize>, &[f32])> {
        let each = TENSORS.iter().zip(&self.values).enumerate();
        each.map(|(number, ((name, _), values))| {
            let shape = expected(number, self.hidden, self.width);
            (*name, shape, values.as_slice())
        })
    }

    /// Checks that vectors which consist of these parts, each with its name and its width, can be
    /// scored.
    ///
    /// # Errors
    /// [`ClassifierError::Width`] if they have another width than the classifier takes.
    pub fn check_width(&self, parts: &[(&str, usize)]) -> Result<(), ClassifierError> {
        let found = parts.iter().map(|(_, width)| width).sum();
        if found == self.width {
            return Ok(());
        }
        let parts: Vec<String> = parts
            .iter()
            .map(|(name, width)| format!("{} {width}", Shown(name)))
            .collect();
        Err(ClassifierError::Width {
            path: self.path.clone(),
            width: self.width,
            found,
            features: parts.join(" + "),
        })
    }

    /// Scores a vector: the probabilities of the classes, others and virus. A vector with a value
    /// that is not finite gets two NaN.
    ///
    /// # Panics
    /// If the vector does not have [`width`](Self::width) values.
    pub fn scores(&self, row: &[f32]) -> [f32; 2] {
        assert_eq!(row.len(), self.width, "the width of a vector");
        self.block(row)[0]
    }

    /// Scores many vectors, which lie one after the other, with the threads of the pool in which
    /// this is called. The scores of a vector do not depend on the vectors beside it.
    ///
    /// # Panics
    /// If the values are not whole vectors of [`width`](Self::width) values.
    pub fn scores_of_all(&self, rows: &[f32]) -> Vec<[f32; 2]> {
        assert_eq!(rows.len() % self.width, 0, "the values are whole vectors");
        let count = rows.len() / self.width;
        let mut scores: Vec<[f32; 2]> = rows
            .par_chunks(BLOCK * self.width)
            .flat_map_iter(|rows| {
                let whole = rows.len() / self.width;
                self.block(rows).into_iter().take(whole)
            })
            .collect();
        scores.truncate(count);
        scores
    }

    /// Scores at most [`BLOCK`] vectors. Every vector goes through the same operations in the same
    /// order, whatever the processor and the number of vectors are: a compiler does not reorder
    /// them, and fuses none.
    fn block(&self, rows: &[f32]) -> [[f32; 2]; BLOCK] {
        let mut scores = [[f32::NAN; 2]; BLOCK];
        let wide: Vec<f64> = rows.iter().map(|v| f64::from(*v)).collect();
        pulp::Arch::new().dispatch(|| {
            let [weights, _, _, _, _, _, output, output_bias] = &self.values;
            let mut logits = [[0f64; 2]; BLOCK];
            for (unit, weights) in weights.chunks_exact(self.width).enumerate() {
                for (row, logits) in wide.chunks_exact(self.width).zip(&mut logits) {
                    let x = dot(weights, row) * self.scale[unit] + self.shift[unit];
                    // `max` would make 0 of NaN.
                    let x = if x < 0.0 { 0.0 } else { x };
                    for (class, logit) in logits.iter_mut().enumerate() {
                        *logit += x * f64::from(output[class * self.hidden + unit]);
                    }
                }
            }
            let finite = rows.chunks_exact(self.width).map(is_finite);
            for ((scores, logits), finite) in scores.iter_mut().zip(&logits).zip(finite) {
                let [others, virus] =
                    [0, 1].map(|class: usize| logits[class] + f64::from(output_bias[class]));
                // The softmax of two classes.
                let softmax = |own: f64, other: f64| (1.0 / (1.0 + (other - own).exp())) as f32;
                if finite {
                    *scores = [softmax(others, virus), softmax(virus, others)];
                }
            }
        });
        scores
    }
}

fn is_finite(row: &[f32]) -> bool {
    row.iter().all(|value| value.is_finite())
}

#[inline(always)]
fn dot(weights: &[f32], row: &[f64]) -> f64 {
    let mut sums = [0f64; LANES];
    let (weights, last_weights) = weights.as_chunks::<LANES>();
    let (row, last) = row.as_chunks::<LANES>();
    for (weights, row) in weights.iter().zip(row) {
        for lane in 0..LANES {
            sums[lane] += f64::from(weights[lane]) * row[lane];
        }
    }
    for ((sum, weight), value) in sums.iter_mut().zip(last_weights).zip(last) {
        *sum += f64::from(*weight) * value;
    }
    let [a, b, c, d, e, f, g, h] = sums;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

/// The shape of a tensor of [`TENSORS`].
fn expected(number: usize, hidden: usize, width: usize) -> Vec<usize> {
    match number {
        0 => vec![hidden, width],
        6 => vec![2, hidden],
        7 => vec![2],
        _ => vec![hidden],
    }
}

/// The tensors of a file.
struct Found<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    tensors: &'a [StoredTensor],
    prefix: &'static str,
}

impl Found<'_> {
    fn get(&self, number: usize) -> Result<&StoredTensor, ClassifierError> {
        let (name, expected) = TENSORS[number];
        let found = self
            .tensors
            .iter()
            .find(|t| t.name.strip_prefix(self.prefix) == Some(name));
        found.ok_or_else(|| ClassifierError::Missing {
            path: self.path.to_owned(),
            tensor: name,
            expected: expected.to_owned(),
            found: match self.tensors {
                [] => "the file has no tensors".to_owned(),
                [first, ..] => format!(
                    "the file has {} tensors, of which the first is {}",
                    self.tensors.len(),
                    Shown(&first.name)
                ),
            },
        })
    }

    fn shape(&self, number: usize) -> Result<&[usize], ClassifierError> {
        Ok(&self.get(number)?.shape)
    }

    fn values(
        &self,
        number: usize,
        hidden: usize,
        width: usize,
    ) -> Result<Vec<f32>, ClassifierError> {
        let tensor = self.get(number)?;
        if tensor.shape != expected(number, hidden, width) {
            return Err(self.misshapen(number, hidden, width));
        }
        let range: Range<usize> = match &tensor.place {
            Ok(range) => range.clone(),
            Err(why) => return Err(self.unusable(number, why.clone())),
        };
        let mut values = Vec::new();
        let bytes = self.bytes.get(range).unwrap_or_default();
        match tensor.dtype {
            StoredDType::Float(dtype) => dtype.decode(bytes, &mut values),
            StoredDType::Other("f64", _) => {
                let (wide, _) = bytes.as_chunks::<8>();
                values.extend(wide.iter().map(|b| f64::from_le_bytes(*b) as f32));
            }
            other => {
                let what = format!("is stored in {other}, and {} is needed", DType::F32);
                return Err(self.unusable(number, what));
            }
        }
        if values.len() != tensor.values() {
            return Err(self.unusable(number, "is not whole".into()));
        }
        if let Some(at) = values.iter().position(|v| !v.is_finite()) {
            let what = format!("has the value {} at index {at}", values[at]);
            return Err(self.unusable(number, what));
        }
        Ok(values)
    }

    fn misshapen(&self, number: usize, hidden: usize, width: usize) -> ClassifierError {
        let (tensor, letters) = TENSORS[number];
        let expected = match hidden {
            0 => letters.to_owned(),
            _ => format!(
                "{} ({letters}, where hidden_layer.weight has the shape {})",
                shown::shape(&expected(number, hidden, width)),
                shown::shape(&[hidden, width])
            ),
        };
        ClassifierError::Shape {
            path: self.path.to_owned(),
            tensor,
            found: self
                .get(number)
                .map_or_else(|_| Vec::new(), |t| t.shape.clone()),
            expected,
        }
    }

    fn unusable(&self, number: usize, what: String) -> ClassifierError {
        ClassifierError::Unusable {
            path: self.path.to_owned(),
            tensor: TENSORS[number].0,
            what,
        }
    }
}
