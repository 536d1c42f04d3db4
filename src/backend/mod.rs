//! The operations the models are made of, and where they run.
//!
//! A backend knows no model: it holds matrices and does arithmetic on them. All matrices are
//! row-major, a row a token of a packed batch ([`PackedBatch`]). Every row of every result depends
//! on the row's own sequence alone, bit for bit: not on the number of rows, nor on where in the
//! batch the sequence stands.
//!
//! Operations may be asynchronous: they are put in order and return at once. What a pass is to give
//! ([`Backend::represent`]) is a promise, and [`Backend::fetch`] waits for it.

pub mod cpu;
pub mod cuda;

use crate::batch::PackedBatch;
use crate::weights::Weight;
use std::ops::Range;

/// What an operation on a backend can fail with.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// The worker threads could not be started.
    #[error("could not start {threads} worker threads: {source}")]
    Threads {
        /// How many were asked for.
        threads: usize,
        /// Why not.
        source: rayon::ThreadPoolBuildError,
    },
    /// A CUDA device could not be used, or failed.
    #[error(transparent)]
    Cuda(Box<cuda::CudaError>),
}

impl From<cuda::CudaError> for BackendError {
    fn from(error: cuda::CudaError) -> Self {
        Self::Cuda(Box::new(error))
    }
}

impl BackendError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Cuda(error) => error.hint(),
            Self::Threads { .. } => Some("give fewer --threads".into()),
        }
    }
}

/// How a linear layer's output leaves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// As it is.
    None,
    /// GELU in its exact form, x·Φ(x), with erf.
    Gelu,
}

/// How attention learns where tokens stand.
#[derive(Debug, Clone, PartialEq)]
pub enum Position {
    /// Rotary embedding (Su et al. 2021), rotate-half: `inv_freq`, [head_dim / 2].
    Rotary(Vec<f32>),
    /// Symmetric ALiBi (Press et al. 2022): `-slope[h]·|i - j|` added to the scores; [heads].
    Alibi(Vec<f32>),
}

/// The sizes of multi-head attention.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionSpec {
    /// Number of heads.
    pub heads: usize,
    /// Width of a head; even for rotary positions. Scores are scaled by its -1/2 power.
    pub head_dim: usize,
    /// Where tokens stand.
    pub position: Position,
}

/// Where the weights of a linear layer come from: `weight` is [out, in], `bias` [out].
///
/// Several parts make one layer whose outputs stand side by side (q, k, v), so that separately
/// stored weights need no copy on a host that computes straight from the mapping.
pub struct LinearPart {
    /// [out, in], row-major.
    pub weight: Weight,
    /// [out].
    pub bias: Option<Weight>,
}

/// Which operation a linear layer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinearKind {
    /// [`Backend::linear`]
    Store,
    /// [`Backend::linear_add`]
    Add,
    /// [`Backend::linear_gated`]: one part, gate over up, [2·out, in], without bias.
    Gated,
}

/// What a matrix is for: a backend whose products take fewer bits than its sums keeps either, or
/// both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The residual stream: embeddings are written to it, linear layers added onto it, LayerNorm
    /// reads it.
    Residual,
    /// What products and attention read and write, and LayerNorm writes.
    Activation,
    /// Both, for models that put LayerNorm on the stream itself: what LayerNorm wrote is read by
    /// products as well as added to.
    Both,
}

/// A LayerNorm.
pub struct Norm<V> {
    /// [width]
    pub gain: V,
    /// [width]
    pub bias: V,
    /// Added to the variance.
    pub eps: f32,
}

/// What of a representation is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputKinds {
    /// The mean over each pooled range of the pass.
    pub pooled: bool,
    /// Every row.
    pub states: bool,
}

/// A representation, on the host.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Output {
    /// [pooled ranges, width]; empty unless wanted. An empty range gives NaN.
    pub pooled: Vec<f32>,
    /// [rows, width]; empty unless wanted.
    pub states: Vec<f32>,
}

/// How much fits in one pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most tokens.
    pub tokens: usize,
    /// Most sequences.
    pub sequences: usize,
    /// Most passes begun and not yet fetched.
    pub passes: usize,
}

/// The operations. Matrices named `out` get the batch's rows; what they held is lost.
///
/// Parameters are made resident first, in groups that [`Backend::group`] opens, in the order in
/// which a pass needs them; [`Backend::sealed`] ends that. A pass is [`Backend::begin`], operations,
/// and [`Backend::end`].
pub trait Backend {
    /// Activations, [rows, cols].
    type Matrix;
    /// Parameters as a flat array: gains, biases, embedding tables.
    type Vector;
    /// The weights of a linear layer.
    type Linear;
    /// What attention needs besides q, k and v: its sizes, and where tokens stand.
    type Attention;
    /// A representation that a pass will have made.
    type Pending;

    /// How a sequence of so many tokens is computed: sequences of different classes never share a
    /// pass. A class may depend on nothing else, or a sequence's bits would depend on its batch.
    fn class(&self, tokens: usize) -> usize {
        let _ = tokens;
        0
    }
    /// What one pass may hold.
    fn limits(&self) -> Limits;

    /// An empty matrix of this width; operations that write to it give it its rows.
    fn matrix(&mut self, role: Role, width: usize) -> Result<Self::Matrix, BackendError>;
    /// Parameters that are made resident from here on belong to the next group.
    fn group(&mut self) {}
    /// Makes parameters resident.
    fn vector(&mut self, data: Weight) -> Result<Self::Vector, BackendError>;
    /// Makes a linear layer resident; every part has `inputs` columns.
    fn linear_weights(
        &mut self,
        parts: Vec<LinearPart>,
        inputs: usize,
        product: LinearKind,
    ) -> Result<Self::Linear, BackendError>;
    /// Makes what attention needs resident.
    fn attention_weights(&mut self, spec: AttentionSpec) -> Result<Self::Attention, BackendError>;
    /// All parameters have been named; they may still be on their way.
    fn sealed(&mut self) -> Result<(), BackendError> {
        Ok(())
    }

    /// Begins a pass over sequences of one class, within the limits; `pooled` is a range of rows a
    /// sequence.
    fn begin(
        &mut self,
        class: usize,
        batch: &PackedBatch,
        pooled: &[Range<usize>],
    ) -> Result<(), BackendError>;
    /// What follows uses the parameters of this group, counted from 0.
    fn need(&mut self, group: usize) -> Result<(), BackendError> {
        let _ = group;
        Ok(())
    }
    /// Ends a pass.
    fn end(&mut self) -> Result<(), BackendError> {
        Ok(())
    }

    /// `out[t] = (table[tokens[t]] + shift) * scale[t]`; table is [vocab, width], shift [width].
    /// The scale is f64, since its rounding would be one of the whole sequence.
    fn embed(
        &mut self,
        batch: &PackedBatch,
        scale: &[f64],
        table: &Self::Vector,
        shift: Option<&Self::Vector>,
        out: &mut Self::Matrix,
    ) -> Result<(), BackendError>;

    /// `out = LayerNorm(x)` over the columns.
    fn layer_norm(
        &mut self,
        x: &Self::Matrix,
        norm: &Norm<Self::Vector>,
        out: &mut Self::Matrix,
    ) -> Result<(), BackendError>;

    /// `out = act(x·Wᵀ + b)`.
    fn linear(
        &mut self,
        x: &Self::Matrix,
        w: &Self::Linear,
        act: Activation,
        out: &mut Self::Matrix,
    ) -> Result<(), BackendError>;

    /// `x_out += x·Wᵀ + b`: a linear layer onto the residual stream.
    fn linear_add(
        &mut self,
        x: &Self::Matrix,
        w: &Self::Linear,
        onto: &mut Self::Matrix,
    ) -> Result<(), BackendError>;

    /// `out = gelu(x·Gᵀ) * (x·Uᵀ)`, `w` being G over U, [2·out, in], without bias.
    fn linear_gated(
        &mut self,
        x: &Self::Matrix,
        w: &Self::Linear,
        out: &mut Self::Matrix,
    ) -> Result<(), BackendError>;

    /// Softmax attention within each sequence; `qkv` is [rows, 3·heads·head_dim], q then k then v.
    fn attention(
        &mut self,
        qkv: &Self::Matrix,
        batch: &PackedBatch,
        attention: &Self::Attention,
        out: &mut Self::Matrix,
    ) -> Result<(), BackendError>;

    /// Takes what is wanted of the rows of `x`, after `norm` if there is one.
    fn represent(
        &mut self,
        x: &Self::Matrix,
        norm: Option<&Norm<Self::Vector>>,
        wanted: OutputKinds,
    ) -> Result<Self::Pending, BackendError>;

    /// Waits for a representation. Those of an ended pass are fetched in the order in which they
    /// were taken, pass by pass.
    fn fetch(&mut self, pending: Self::Pending) -> Result<Output, BackendError>;
}

/// The SIMD level the CPU backend computes with: part of a result's identity, since the width
/// of a vector decides the order of the sums.
pub fn simd_name() -> &'static str {
    cpu::simd::name()
}
