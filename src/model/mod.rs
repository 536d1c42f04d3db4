//! The models: architecture ([`config`]) and, each written once as operations on a
//! [`crate::backend`], [`esm2`] and [`dnabert`].

pub mod config;
mod dnabert;
mod esm2;

use crate::backend::{Backend, BackendError};
use crate::batch::PackedBatch;
use crate::weights::{Checkpoint, F32Data, WeightsError};
use config::{ModelConfig, ModelKind};
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
}

impl ModelError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Weights(e) => e.hint(),
            Self::Backend(_) => None,
            Self::Token { .. } => Some("the tokenizer.json belongs to another model".into()),
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
pub trait Embedder {
    /// Computes `request` for every sequence of `batch`; the outputs stand in the order of
    /// `request.layers`.
    fn embed(&mut self, batch: &PackedBatch, request: &Request) -> Result<Vec<LayerOutput>, ModelError>;
    /// The model's sizes.
    fn config(&self) -> &ModelConfig;
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

/// A loaded model on a backend.
pub struct Model<B: Backend> {
    config: ModelConfig,
    backend: B,
    net: Net<B>,
    workspace: Workspace<B>,
}

enum Net<B: Backend> {
    Esm2(esm2::Esm2<B>),
    Dnabert(dnabert::Dnabert<B>),
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
    /// The tensor as f32.
    fn get(&self, name: &str) -> Result<F32Data, WeightsError>;
    /// The tensor, if it is there.
    fn find(&self, name: &str) -> Option<F32Data>;
}

impl Parameters for Checkpoint {
    fn get(&self, name: &str) -> Result<F32Data, WeightsError> {
        Ok(self.tensor(name)?.to_f32())
    }
    fn find(&self, name: &str) -> Option<F32Data> {
        self.optional(name).map(|t| t.to_f32())
    }
}

impl<B: Backend> Model<B> {
    /// Makes the parameters resident on the backend.
    pub fn load(
        backend: B,
        config: &ModelConfig,
        parameters: &impl Parameters,
    ) -> Result<Self, ModelError> {
        let net = match config.kind {
            ModelKind::Esm2 => Net::Esm2(esm2::Esm2::load(&backend, config, parameters)?),
            ModelKind::Dnabert => Net::Dnabert(dnabert::Dnabert::load(&backend, config, parameters)?),
        };
        let workspace = Workspace {
            x: backend.matrix(),
            h: backend.matrix(),
            qkv: backend.matrix(),
            wide: backend.matrix(),
        };
        Ok(Self { config: config.clone(), backend, net, workspace })
    }
}

impl<B: Backend> Embedder for Model<B> {
    fn embed(&mut self, batch: &PackedBatch, request: &Request) -> Result<Vec<LayerOutput>, ModelError> {
        let vocab = self.config.vocab;
        if let Some(&token) = batch.tokens().iter().find(|t| **t as usize >= vocab) {
            return Err(ModelError::Token { token, vocab });
        }
        let mut taps = Taps::new(self.config.kind, batch, request);
        let ws = &mut self.workspace;
        match &self.net {
            Net::Esm2(net) => net.forward(&mut self.backend, ws, batch, &mut taps)?,
            Net::Dnabert(net) => net.forward(&mut self.backend, ws, batch, &mut taps)?,
        }
        Ok(taps.finish())
    }

    fn config(&self) -> &ModelConfig {
        &self.config
    }
}

/// Collects the representations that were asked for, as a forward pass reaches them.
struct Taps<'a> {
    request: &'a Request,
    /// The rows that are averaged, a range a sequence.
    ranges: Vec<Range<usize>>,
    done: Vec<LayerOutput>,
}

impl<'a> Taps<'a> {
    fn new(kind: ModelKind, batch: &PackedBatch, request: &'a Request) -> Self {
        let ranges = (0..batch.len())
            .map(|i| match request.pool {
                Some(Pool::Cls) => batch.range(i).start..batch.range(i).start + 1,
                _ => kind.pooled_tokens(batch.range(i)),
            })
            .collect();
        Self { request, ranges, done: Vec::new() }
    }

    /// Whether representation `layer` is wanted.
    fn wants(&self, layer: usize) -> bool {
        self.request.layers.contains(&layer)
    }

    /// The deepest representation that is wanted: layers after it need not run.
    fn last(&self) -> usize {
        self.request.layers.iter().copied().max().unwrap_or(0)
    }

    /// Takes representation `layer` from `x`, if it is wanted.
    fn take<B: Backend>(&mut self, backend: &mut B, layer: usize, x: &B::Matrix) -> Result<(), BackendError> {
        if self.wants(layer) {
            let pooled = match self.request.pool {
                Some(_) => backend.mean(x, &self.ranges)?,
                None => Vec::new(),
            };
            let states = if self.request.per_token { backend.download(x)? } else { Vec::new() };
            self.done.push(LayerOutput { layer, pooled, states });
        }
        Ok(())
    }

    /// In the order of the request.
    fn finish(self) -> Vec<LayerOutput> {
        let find = |l: &usize| self.done.iter().find(|o| o.layer == *l).cloned();
        self.request.layers.iter().filter_map(find).collect()
    }
}
