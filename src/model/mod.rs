//! The models `esm2` and `dnabert`, each written once as operations on a [`crate::backend`];
//! `passes` runs them batch after batch.

mod dnabert;
mod esm2;
mod memory;
mod passes;

pub use memory::host_bytes;
pub use passes::Model;

use crate::architecture::{ModelConfig, ModelKind};
use crate::backend::{Backend, BackendError, Norm, OutputKinds};
use crate::batch::PackedBatch;
use crate::weights::{Checkpoint, Weight, WeightsError};
use std::ops::Range;

/// What loading or running a model can fail with.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The weights are missing something or cannot be read.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The backend failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// A token id that the embedding table has no row for.
    #[error("token id {token} stands in the batch, but the model's vocabulary has {vocab} entries")]
    Token {
        /// The id.
        token: u32,
        /// Rows of the table.
        vocab: usize,
    },
    /// A sequence that the backend has no room for, even alone.
    #[error("a sequence of {tokens} tokens does not fit: the device has room for {most} at once")]
    TooLong {
        /// Its tokens.
        tokens: usize,
        /// The backend's limit.
        most: usize,
    },
}

impl ModelError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Weights(e) => e.hint(),
            Self::Backend(e) => e.hint(),
            Self::Token { .. } => Some("the tokenizer.json belongs to another model".into()),
            Self::TooLong { .. } => Some(
                "embed it in windows (--max-length N --long window), or use a device with more free memory, or --device cpu".into(),
            ),
        }
    }
}

/// How a sequence's token states become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pool {
    /// The mean: over residues for ESM-2 (no cls, no eos), over all tokens for DNABERT.
    Mean,
    /// The state of the first token.
    Cls,
}

/// What to compute for a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Which representations: 0 is the embedding, `layers` the final output.
    pub layers: Vec<usize>,
    /// One vector a sequence, if any.
    pub pool: Option<Pool>,
    /// Whether the token states are wanted too.
    pub per_token: bool,
}

/// One representation of a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerOutput {
    /// Which.
    pub layer: usize,
    /// [sequences, hidden]; empty without a pool.
    pub pooled: Vec<f32>,
    /// [total tokens, hidden], special tokens included; empty unless asked for.
    pub states: Vec<f32>,
}

/// Something that turns batches into representations.
///
/// Batches are submitted and collected in the same order. What is between the two may be under way
/// on a device, so that reading, packing and writing go on beside it.
pub trait Embedder {
    /// Begins to compute `request` for every sequence of `batch`. It may be submitted whether or not
    /// there is [room](Embedder::room): without, this waits.
    ///
    /// # Errors
    /// [`ModelError`]; of a batch submitted before, too. After an error nothing can be collected.
    fn submit(&mut self, batch: &PackedBatch, request: &Request) -> Result<(), ModelError>;
    /// The outputs of the oldest batch that was submitted and not yet collected, in the order of
    /// its `request.layers`; waits for them. `None` if there is no such batch.
    ///
    /// # Errors
    /// [`ModelError`]
    fn collect(&mut self) -> Result<Option<Vec<LayerOutput>>, ModelError>;
    /// How many batches may be submitted now without waiting for an earlier one.
    fn free_slots(&self) -> usize;
    /// The model's sizes.
    fn config(&self) -> &ModelConfig;

    /// Submits one batch and waits for it. Nothing else may be under way.
    ///
    /// # Errors
    /// [`ModelError`]
    fn embed(
        &mut self,
        batch: &PackedBatch,
        request: &Request,
    ) -> Result<Vec<LayerOutput>, ModelError> {
        self.submit(batch, request)?;
        Ok(self.collect()?.unwrap_or_default())
    }
}

impl<E: Embedder + ?Sized> Embedder for Box<E> {
    fn submit(&mut self, batch: &PackedBatch, request: &Request) -> Result<(), ModelError> {
        (**self).submit(batch, request)
    }
    fn collect(&mut self) -> Result<Option<Vec<LayerOutput>>, ModelError> {
        (**self).collect()
    }
    fn free_slots(&self) -> usize {
        (**self).free_slots()
    }
    fn config(&self) -> &ModelConfig {
        (**self).config()
    }
}

impl ModelKind {
    /// The tokens of a sequence (given as its range in the batch) that the mean is over.
    pub fn pooled_tokens(self, range: Range<usize>) -> Range<usize> {
        match self {
            Self::Esm2 => range.start + 1..range.end - 1,
            Self::Dnabert => range,
        }
    }
}

/// The activations of a forward pass, kept between batches.
struct Workspace<B: Backend> {
    /// The residual stream, [tokens, hidden].
    x: B::Matrix,
    /// Normalised stream, or attention's output.
    h: B::Matrix,
    /// [tokens, 3·hidden].
    qkv: B::Matrix,
    /// [tokens, intermediate].
    wide: B::Matrix,
}

/// Where parameters come from, by canonical name.
pub trait Parameters {
    /// The tensor.
    ///
    /// # Errors
    /// [`WeightsError`] if it is not there.
    fn get(&self, name: &str) -> Result<Weight, WeightsError>;
    /// The tensor, if it is there.
    fn find(&self, name: &str) -> Option<Weight>;
}

impl Parameters for Checkpoint {
    fn get(&self, name: &str) -> Result<Weight, WeightsError> {
        Ok(Weight::Stored(self.tensor(name)?.clone()))
    }
    fn find(&self, name: &str) -> Option<Weight> {
        self.optional(name).map(|t| Weight::Stored(t.clone()))
    }
}

/// A LayerNorm's parameters, made resident.
fn norm<B: Backend>(
    backend: &mut B,
    parameters: &impl Parameters,
    name: &str,
    eps: f32,
) -> Result<Norm<B::Vector>, ModelError> {
    Ok(Norm {
        gain: backend.vector(parameters.get(&format!("{name}.weight"))?)?,
        bias: backend.vector(parameters.get(&format!("{name}.bias"))?)?,
        eps,
    })
}

/// Collects the representations that were asked for, as a forward pass reaches them.
struct Collector<'a, B: Backend> {
    request: &'a Request,
    taken: Vec<(usize, B::Pending)>,
}

impl<'a, B: Backend> Collector<'a, B> {
    fn new(request: &'a Request) -> Self {
        Self {
            request,
            taken: Vec::new(),
        }
    }

    /// The deepest representation that is wanted: layers after it need not run.
    fn last(&self) -> usize {
        self.request.layers.iter().copied().max().unwrap_or(0)
    }

    /// Takes representation `layer` from `x`, after `norm` if there is one, if it is wanted.
    fn take(
        &mut self,
        backend: &mut B,
        layer: usize,
        x: &B::Matrix,
        norm: Option<&Norm<B::Vector>>,
    ) -> Result<(), BackendError> {
        if self.request.layers.contains(&layer) {
            let wanted = OutputKinds {
                pooled: self.request.pool.is_some(),
                states: self.request.per_token,
            };
            self.taken
                .push((layer, backend.represent(x, norm, wanted)?));
        }
        Ok(())
    }
}
