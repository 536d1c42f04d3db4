//! The operations the models are made of, and where they run.
//!
//! A backend knows no model: it holds matrices and does arithmetic on them. All matrices are
//! row-major f32, a row a token of a packed batch ([`crate::batch::PackedBatch`]). Every row of
//! every result depends on the row's own sequence alone, bit for bit: not on the number of rows,
//! nor on where in the batch the sequence stands.

pub mod cpu;
pub mod cuda;

use crate::weights::F32Data;
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
    pub weight: F32Data,
    /// [out].
    pub bias: Option<F32Data>,
}

/// The operations. Matrices named `out` are resized to fit; what they held is lost.
pub trait Backend {
    /// Activations, [rows, cols].
    type Matrix;
    /// Parameters as a flat array: gains, biases, embedding tables.
    type Vector;
    /// The weights of a linear layer.
    type Linear;

    /// How a sequence of so many tokens is computed: sequences of different classes never share a
    /// pass. A class may depend on nothing else, or a sequence's bits would depend on its batch.
    fn class(&self, tokens: usize) -> usize {
        let _ = tokens;
        0
    }
    /// What follows, up to the next call, computes sequences of this class.
    fn begin(&mut self, class: usize) {
        let _ = class;
    }

    /// An empty matrix; operations that write to it give it its size.
    fn matrix(&self) -> Self::Matrix;
    /// Makes parameters resident.
    fn vector(&self, data: F32Data) -> Result<Self::Vector, BackendError>;
    /// Makes a linear layer resident; every part has `inputs` columns.
    fn linear_weights(
        &self,
        parts: Vec<LinearPart>,
        inputs: usize,
    ) -> Result<Self::Linear, BackendError>;

    /// `out[t] = (table[tokens[t]] + shift) * scale[t]`; table is [vocab, width], shift [width].
    fn embed(
        &mut self,
        tokens: &[u32],
        scale: &[f32],
        table: &Self::Vector,
        shift: Option<&Self::Vector>,
        width: usize,
        out: &mut Self::Matrix,
    ) -> Result<(), BackendError>;

    /// `out = LayerNorm(x)` over the columns.
    fn layer_norm(
        &mut self,
        x: &Self::Matrix,
        gain: &Self::Vector,
        bias: &Self::Vector,
        eps: f32,
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
    /// `starts` is the batch's ([`crate::batch::PackedBatch::starts`]).
    fn attention(
        &mut self,
        qkv: &Self::Matrix,
        starts: &[usize],
        spec: &AttentionSpec,
        out: &mut Self::Matrix,
    ) -> Result<(), BackendError>;

    /// The mean over each range of rows, on the host: [ranges, cols]. An empty range gives NaN.
    fn mean(&mut self, x: &Self::Matrix, ranges: &[Range<usize>])
    -> Result<Vec<f32>, BackendError>;

    /// The whole matrix, on the host: [rows, cols].
    fn download(&mut self, x: &Self::Matrix) -> Result<Vec<f32>, BackendError>;
}

/// The SIMD level the CPU backend computes with: part of a result's identity, since the width
/// of a vector decides the order of the sums.
pub fn simd_name() -> &'static str {
    cpu::simd::name()
}
