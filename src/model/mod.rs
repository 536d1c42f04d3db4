//! The forward passes of the models `esm2` and `dnabert`, each written once as operations on a
//! [`crate::backend`]. `passes` runs them for batch after batch.

mod dnabert;
mod esm2;
mod memory;
mod passes;

pub use memory::host_bytes;
pub use passes::{Model, name_parts};

use crate::architecture::{ModelConfig, ModelKind};
use crate::backend::{Backend, BackendError, Builder, Norm, OutputKinds, Pass, Pooling};
use crate::batch::{Budget, PackedBatch};
use crate::dtype::States;
use crate::remedy::Remedy;
use crate::weights::{Checkpoint, Weight, WeightsError};
use std::ops::Range;

/// Why a model cannot be loaded or run.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The weights are incomplete or cannot be read.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The backend failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// A batch has a token id that the embedding table has no row for.
    #[error("token id {token} stands in the batch, but the model's vocabulary has {vocab} entries")]
    Token {
        /// The token id.
        token: u32,
        /// The number of rows of the table.
        vocab: usize,
    },
    /// A sequence is too long for the backend, even alone.
    #[error("a sequence of {tokens} tokens does not fit: the device can take {most} at once")]
    TooLong {
        /// The number of tokens of the sequence.
        tokens: usize,
        /// The most tokens that the backend can hold at once.
        most: usize,
    },
}

impl ModelError {
    /// Returns what the user can do about the error.
    pub fn remedy(&self) -> Option<Remedy> {
        match self {
            Self::Weights(e) => e.remedy(),
            Self::Backend(e) => e.remedy(),
            Self::Token { .. } => Some("the tokenizer.json belongs to another model".into()),
            Self::TooLong { .. } => Some(Remedy::for_long_sequence()),
        }
    }
}

/// How the token states of a sequence become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pool {
    /// The mean of the states: over the residues for ESM-2 (without cls and eos), over all tokens
    /// for DNABERT.
    Mean,
    /// The state of the first token.
    Cls,
    /// The greatest value of each dimension, over the same tokens as the mean.
    Max,
}

/// The representations to compute for every sequence of a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The wanted layers: 0 is the embedding, and the model's number of layers is the final output.
    pub layers: Vec<usize>,
    /// How each sequence becomes one vector, or several; empty if no vectors are wanted.
    pub pools: Vec<Pool>,
    /// Whether the states of the single tokens are wanted too.
    pub per_token: bool,
}

/// The representation of a batch at one layer.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerOutput {
    /// The layer, as in [`Request::layers`].
    pub layer: usize,
    /// One vector per sequence and pool, `[sequences, pools, hidden]`; empty without a pool.
    pub pooled: Vec<f32>,
    /// The token states, `[total tokens, hidden]`, special tokens included; empty unless requested.
    pub states: States,
}

/// A model that turns batches into representations.
///
/// Batches are collected in the order in which they were submitted. Between the two calls a batch
/// may be in progress on a device, so that reading, packing and writing can go on meanwhile.
pub trait Embedder {
    /// Begins to compute `request` for every sequence of `batch`. A batch may be submitted whether
    /// or not there is a free slot ([`free_slots`](Embedder::free_slots)); without one, this call
    /// waits.
    ///
    /// # Errors
    /// [`ModelError`], which may also concern a batch that was submitted before. After an error
    /// nothing can be collected.
    fn submit(&mut self, batch: &PackedBatch, request: &Request) -> Result<(), ModelError>;
    /// Waits for the oldest batch that was submitted and not yet collected, and returns its outputs
    /// in the order of its `request.layers`. Returns `None` if there is no such batch.
    ///
    /// # Errors
    /// [`ModelError`] if the batch could not be computed.
    fn collect(&mut self) -> Result<Option<Vec<LayerOutput>>, ModelError>;
    /// The number of batches that can be submitted now without waiting for an earlier batch.
    fn free_slots(&self) -> usize;
    /// The most tokens that each batch should have.
    fn budget(&self) -> Budget;
    /// The model's sizes.
    fn config(&self) -> &ModelConfig;

    /// Submits one batch and waits for its outputs. No other batch may be in progress.
    ///
    /// # Errors
    /// [`ModelError`] if the batch cannot be computed.
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
    fn budget(&self) -> Budget {
        (**self).budget()
    }
    fn config(&self) -> &ModelConfig {
        (**self).config()
    }
}

impl ModelKind {
    /// The tokens over which the mean of a sequence is taken. `range` holds all tokens of the
    /// sequence; both ranges count in the batch's tokens.
    pub fn pooled_tokens(self, range: Range<usize>) -> Range<usize> {
        match self {
            Self::Esm2 => range.start + 1..range.end - 1,
            Self::Dnabert => range,
        }
    }
}

/// The matrices for the activations of a forward pass. They are kept between batches.
struct Workspace<B: Backend> {
    /// The residual stream, `[tokens, hidden]`.
    x: B::Matrix,
    /// The normalised stream, or attention's output, `[tokens, hidden]`.
    h: B::Matrix,
    /// Queries, keys and values, `[tokens, 3·hidden]`.
    qkv: B::Matrix,
    /// The inner activations of the feed-forward block, `[tokens, intermediate]`.
    wide: B::Matrix,
}

/// A source of a model's parameters, which are found by their canonical names.
pub trait Parameters {
    /// The tensor of this name.
    ///
    /// # Errors
    /// [`WeightsError`] if there is no such tensor, or if it cannot be used.
    fn get(&self, name: &str) -> Result<Weight, WeightsError>;
    /// The tensor of this name, if there is one that can be used.
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

/// Names the parameters of a LayerNorm.
fn norm<B: Backend>(
    builder: &mut impl Builder<Backend = B>,
    parameters: &impl Parameters,
    name: &str,
    eps: f32,
) -> Result<Norm<B::Vector>, ModelError> {
    Ok(Norm {
        gain: builder.vector(parameters.get(&format!("{name}.weight"))?)?,
        bias: builder.vector(parameters.get(&format!("{name}.bias"))?)?,
        eps,
    })
}

/// Collects the requested representations as a forward pass reaches them.
struct Collector<'a, B: Backend> {
    request: &'a Request,
    /// The layer and the position among the pools of each representation that was taken.
    taken: Vec<(usize, usize, B::Pending)>,
}

impl<'a, B: Backend> Collector<'a, B> {
    fn new(request: &'a Request) -> Self {
        Self {
            request,
            taken: Vec::new(),
        }
    }

    /// The deepest requested layer. The layers after it need not run.
    fn last(&self) -> usize {
        self.request.layers.iter().copied().max().unwrap_or(0)
    }

    /// Takes the representation `layer` from `x`, after `norm` if there is one, if it is requested.
    fn take(
        &mut self,
        pass: &mut B::Pass<'_>,
        layer: usize,
        x: &B::Matrix,
        norm: Option<&Norm<B::Vector>>,
    ) -> Result<(), BackendError> {
        if self.request.layers.contains(&layer) {
            // Where the pools are several, each is a representation of its own.
            for at in 0..self.request.pools.len().max(1) {
                let pooled = self.request.pools.get(at).map(|pool| match pool {
                    Pool::Mean => Pooling::Mean,
                    Pool::Cls => Pooling::First,
                    Pool::Max => Pooling::Max,
                });
                let wanted = OutputKinds {
                    pooled,
                    states: self.request.per_token && at == 0,
                };
                self.taken
                    .push((layer, at, pass.represent(x, norm, wanted)?));
            }
        }
        Ok(())
    }
}
