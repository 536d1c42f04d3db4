//! Defines the operations that models are made of, and holds the backends that run them.
//!
//! A model meets three traits, one after the other: it names its weights to a [`Builder`], which
//! becomes a [`Backend`], which begins a [`Pass`] for every batch.
//!
//! A backend knows no model: it holds matrices and does arithmetic on them. All matrices are
//! row-major, with one row per token of a packed batch ([`PackedBatch`]). Every row of every result
//! depends only on the row's own sequence, bit for bit: neither the number of rows nor the position
//! of the sequence in the batch has an influence.
//!
//! Operations may be asynchronous: a call queues the operation and returns at once. The results of
//! a pass ([`Pass::represent`]) are therefore handles, and [`Backend::fetch`] waits for their
//! values.

pub mod cpu;
pub mod cuda;
mod work;

pub use work::Work;

use crate::batch::{Budget, PackedBatch};
use crate::dtype::States;
use crate::gpu::stream::StreamError;
use crate::remedy::{Action, Remedy};
use crate::weights::Weight;
use std::ops::Range;

/// Why an operation of a backend failed.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// The worker threads could not be started.
    #[error("could not start {threads} worker threads: {source}")]
    Threads {
        /// The number of threads that was asked for.
        threads: usize,
        /// The error of the thread pool.
        source: rayon::ThreadPoolBuildError,
    },
    /// A CUDA device could not be used, or it failed.
    #[error(transparent)]
    Cuda(Box<cuda::CudaError>),
}

impl From<cuda::CudaError> for BackendError {
    fn from(error: cuda::CudaError) -> Self {
        Self::Cuda(Box::new(error))
    }
}

impl From<StreamError> for BackendError {
    fn from(error: StreamError) -> Self {
        cuda::CudaError::from(error).into()
    }
}

impl BackendError {
    /// Returns what the user can do about the error, if anything.
    pub fn remedy(&self) -> Option<Remedy> {
        match self {
            Self::Cuda(error) => error.remedy(),
            Self::Threads { .. } => Some(Action::FewerThreads.into()),
        }
    }
}

/// The function that a linear layer applies to its output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// No function: the output stays as it is.
    None,
    /// GELU in its exact form, x·Φ(x), with erf.
    Gelu,
}

/// How attention takes the positions of tokens into account.
#[derive(Debug, Clone, PartialEq)]
pub enum Position {
    /// Rotary embedding (Su et al. 2021) in its rotate-half form: `inv_freq`, `[head_dim / 2]`.
    Rotary(Vec<f32>),
    /// Symmetric ALiBi (Press et al. 2022), which adds `-slope[h]·|i - j|` to the scores: the
    /// slopes, `[heads]`.
    Alibi(Vec<f32>),
}

/// The sizes and the positions of multi-head attention.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionSpec {
    /// The number of heads.
    pub heads: usize,
    /// The width of a head, which is even for rotary positions. Scores are scaled by
    /// `head_dim^(-1/2)`.
    pub head_dim: usize,
    /// How positions enter the scores.
    pub position: Position,
}

/// The source of the weights of one part of a linear layer.
///
/// A linear layer may consist of several parts, whose outputs lie side by side (q, k, v). Weights
/// that are stored separately then need no copy on a host that computes straight from the mapped
/// file.
pub struct LinearPart {
    /// The weight matrix, `[out, in]`, row-major.
    pub weight: Weight,
    /// The bias, `[out]`.
    pub bias: Option<Weight>,
}

/// The operation that a linear layer is used in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinearKind {
    /// The layer is used in [`Pass::linear`] or [`Pass::linear_qkv`].
    Store,
    /// The layer is used in [`Pass::linear_add`].
    Add,
    /// The layer is used in [`Pass::linear_gated`]: it has one part, `[2·out, in]`, whose first
    /// half is the gate and whose second half is the up-projection, and no bias.
    Gated,
}

/// What a matrix is used for. A backend whose GEMMs take fewer bits than its sums stores a matrix
/// in one of the two formats, or in both, according to its role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The residual stream: embeddings are written to it, linear layers add to it, and LayerNorm
    /// reads it.
    Residual,
    /// An activation: linear layers and attention read and write it, and LayerNorm writes it.
    Activation,
    /// Both, for models that apply LayerNorm to the residual stream itself: linear layers read what
    /// LayerNorm wrote and also add to it.
    Both,
}

/// The parameters of a LayerNorm.
pub struct Norm<V> {
    /// The factor of each column, `[width]`.
    pub gain: V,
    /// The summand of each column, `[width]`.
    pub bias: V,
    /// The number that is added to the variance.
    pub eps: f32,
}

/// How the rows of a sequence become one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// The mean over the pooled range of rows.
    Mean,
    /// The greatest value of each column in the pooled range; NaN if a value of the range is not
    /// finite.
    Max,
    /// The first row of the sequence.
    First,
}

/// The outputs that a representation should have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputKinds {
    /// What each sequence becomes, if it becomes one row.
    pub pooled: Option<Pooling>,
    /// Every row of the pass.
    pub states: bool,
}

/// A representation in host memory.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Output {
    /// The pooled rows, `[sequences, width]`; empty if they were not wanted. The mean and the
    /// greatest values of an empty range are NaN.
    pub pooled: Vec<f32>,
    /// The rows, `[rows, width]`; empty if they were not wanted.
    pub states: States,
}

/// The limits of a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most tokens per pass.
    pub tokens: usize,
    /// The most sequences per pass.
    pub sequences: usize,
    /// The most passes that may have begun without being fetched yet.
    pub passes: usize,
}

/// Prepares a backend for one model: takes the names of its weights, layer by layer, and the
/// matrices of its passes. [`Builder::build`] turns it into the backend, so that no pass can begin
/// before all weights have been named.
///
/// Weights are named in the order in which a pass needs them. They belong to layers, which are the
/// sets of weights that load together: the embedding is layer 0, and [`Builder::next_layer`] opens
/// the next layer.
///
/// A method fails with a [`BackendError`] if the device fails or if the model does not fit into its
/// memory.
pub trait Builder: Sized {
    /// The backend that is built.
    type Backend: Backend;

    /// Creates an empty matrix of this width. The operations that write to it give it its rows.
    fn matrix(
        &mut self,
        role: Role,
        width: usize,
    ) -> Result<<Self::Backend as Backend>::Matrix, BackendError>;
    /// Opens the next layer: the weights named from here on belong to it.
    fn next_layer(&mut self) {}
    /// Names an array of weights.
    fn vector(&mut self, data: Weight) -> Result<<Self::Backend as Backend>::Vector, BackendError>;
    /// Names the weights of a linear layer. The weight of every part has `inputs` columns.
    fn linear_weights(
        &mut self,
        parts: Vec<LinearPart>,
        inputs: usize,
        kind: LinearKind,
    ) -> Result<<Self::Backend as Backend>::Linear, BackendError>;
    /// Names what attention needs.
    fn attention_weights(
        &mut self,
        spec: AttentionSpec,
    ) -> Result<<Self::Backend as Backend>::Attention, BackendError>;
    /// Returns the backend, which can run passes at once. The weights may still be on their way to
    /// the device.
    fn build(self) -> Result<Self::Backend, BackendError>;
}

/// Runs passes of a model whose weights a [`Builder`] has named: [`Backend::begin`] opens a pass,
/// whose operations are those of [`Pass`], and [`Backend::fetch`] waits for its results.
///
/// A method fails with a [`BackendError`] if the device fails, or if results are fetched out of
/// order.
pub trait Backend: Sized {
    /// Activations, `[rows, cols]`.
    type Matrix;
    /// Weights as a flat array: gains, biases and embedding tables.
    type Vector;
    /// The weights of a linear layer.
    type Linear;
    /// What attention needs besides q, k and v: its sizes and the positions.
    type Attention;
    /// A representation that a pass will produce.
    type Pending;
    /// A pass that has begun.
    type Pass<'a>: Pass<Self>
    where
        Self: 'a;

    /// Returns the class of a sequence of `tokens` tokens, which decides how it is computed.
    /// Sequences of different classes never share a pass. The class may depend only on the length:
    /// otherwise the bits of a sequence would depend on its batch.
    fn class(&self, tokens: usize) -> usize {
        let _ = tokens;
        0
    }
    /// Returns how much one pass may hold.
    fn limits(&self) -> Limits;
    /// Returns how many tokens a batch should have. A batch of more tokens than a pass holds is
    /// divided.
    fn budget(&self) -> Budget {
        Budget::even(self.limits().tokens)
    }

    /// Begins a pass over the sequences of `batch`, which are of one class and within the limits.
    /// `pooled` is one range of rows per sequence.
    fn begin<'a>(
        &'a mut self,
        class: usize,
        batch: &'a PackedBatch,
        pooled: &'a [Range<usize>],
    ) -> Result<Self::Pass<'a>, BackendError>;

    /// Waits for a representation and returns it. Representations are fetched pass by pass, after
    /// their pass has ended, and in the order in which they were taken.
    fn fetch(&mut self, pending: Self::Pending) -> Result<Output, BackendError>;
}

/// The operations of one pass, in the order in which they are called. A matrix named `out` gets as
/// many rows as the batch of the pass has tokens, and its old contents are lost.
///
/// A method fails with a [`BackendError`] if the device fails. A pass that is dropped without
/// [`Pass::end`] has no results; it is dropped only where an error ends the job.
pub trait Pass<B: Backend> {
    /// Waits, in the order of operations, for the weights of a layer: the operations that follow
    /// use them. Layers are counted from 0, which is the embedding.
    fn wait_for_weights(&mut self, layer: usize) -> Result<(), BackendError> {
        let _ = layer;
        Ok(())
    }

    /// Computes `out[t] = (table[tokens[t]] + shift) * scale[t]`; `table` is `[vocab, width]`,
    /// `shift` `[width]`. The scale is f64, because its rounding error would be the same for the
    /// whole sequence.
    fn embed(
        &mut self,
        scale: &[f64],
        table: &B::Vector,
        shift: Option<&B::Vector>,
        out: &mut B::Matrix,
    ) -> Result<(), BackendError>;

    /// Computes `out = LayerNorm(x)` over the columns of each row.
    fn layer_norm(
        &mut self,
        x: &B::Matrix,
        norm: &Norm<B::Vector>,
        out: &mut B::Matrix,
    ) -> Result<(), BackendError>;

    /// Computes `out = act(x·Wᵀ + b)`.
    fn linear(
        &mut self,
        x: &B::Matrix,
        w: &B::Linear,
        act: Activation,
        out: &mut B::Matrix,
    ) -> Result<(), BackendError>;

    /// Computes `out = x·Wᵀ + b`, the q, k and v that [`Pass::attention`] takes next with the same
    /// `attention`. A backend may rotate q and k here if attention then finds them rotated.
    fn linear_qkv(
        &mut self,
        x: &B::Matrix,
        w: &B::Linear,
        attention: &B::Attention,
        out: &mut B::Matrix,
    ) -> Result<(), BackendError> {
        let _ = attention;
        self.linear(x, w, Activation::None, out)
    }

    /// Computes `onto += x·Wᵀ + b`: adds the output of a linear layer to the residual stream.
    fn linear_add(
        &mut self,
        x: &B::Matrix,
        w: &B::Linear,
        onto: &mut B::Matrix,
    ) -> Result<(), BackendError>;

    /// Computes `out = gelu(x·Gᵀ) * (x·Uᵀ)`. `w` is G on top of U, `[2·out, in]`, without bias.
    fn linear_gated(
        &mut self,
        x: &B::Matrix,
        w: &B::Linear,
        out: &mut B::Matrix,
    ) -> Result<(), BackendError>;

    /// Computes softmax attention within each sequence. `qkv` is `[rows, 3·heads·head_dim]`: q,
    /// then k, then v, as [`Pass::linear_qkv`] made them.
    fn attention(
        &mut self,
        qkv: &B::Matrix,
        attention: &B::Attention,
        out: &mut B::Matrix,
    ) -> Result<(), BackendError>;

    /// Takes the wanted outputs from the rows of `x`, after applying `norm` if there is one.
    fn represent(
        &mut self,
        x: &B::Matrix,
        norm: Option<&Norm<B::Vector>>,
        wanted: OutputKinds,
    ) -> Result<B::Pending, BackendError>;

    /// Ends the pass: no operation follows.
    fn end(self) -> Result<(), BackendError>;
}

/// Returns the name of the SIMD level that the CPU backend computes with. It is part of a result's
/// identity, because the width of a vector decides the order of the sums.
pub fn simd_name() -> &'static str {
    cpu::simd::name()
}
