//! Computes LayerNorm over the columns of each row: mean and variance in two passes, in f32 vectors
//! whose sums are added in f64.

use super::Cpu;
use crate::weights::F32Data;
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

/// Rows per task.
const ROWS: usize = 32;
/// Number of vectors that are summed in f32, in four chains of 16. The sums of the chains are added
/// in f64.
const RUN: usize = 64;

/// The parameters of one LayerNorm.
#[derive(Clone, Copy)]
pub(super) struct RowNorm<'a> {
    /// The factor of each column, `[cols]`.
    pub gain: &'a [f32],
    /// The summand of each column, `[cols]`.
    pub bias: &'a [f32],
    /// The number that is added to the variance.
    pub eps: f32,
}

impl<'a> From<&'a crate::backend::Norm<F32Data>> for RowNorm<'a> {
    fn from(norm: &'a crate::backend::Norm<F32Data>) -> Self {
        Self {
            gain: &norm.gain,
            bias: &norm.bias,
            eps: norm.eps,
        }
    }
}

/// Computes `out = LayerNorm(x)`; both are `[rows, cols]`.
pub(super) fn layer_norm(cpu: &Cpu, x: &[f32], norm: RowNorm<'_>, out: &mut [f32]) {
    let cols = norm.gain.len();
    assert!(norm.bias.len() == cols && x.len() == out.len() && x.len().is_multiple_of(cols));
    cpu.install(|| {
        x.par_chunks(ROWS * cols)
            .zip(out.par_chunks_mut(ROWS * cols))
            .for_each(|(x, out)| {
                cpu.arch().dispatch(Rows { x, norm, out });
            })
    });
}

struct Rows<'a> {
    x: &'a [f32],
    norm: RowNorm<'a>,
    out: &'a mut [f32],
}

impl WithSimd for Rows<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let cols = self.norm.gain.len();
        for (x, out) in self
            .x
            .chunks_exact(cols)
            .zip(self.out.chunks_exact_mut(cols))
        {
            row(simd, x, self.norm, out);
        }
    }
}

#[inline(always)]
fn row<S: Simd>(simd: S, x: &[f32], norm: RowNorm<'_>, out: &mut [f32]) {
    let (body, tail) = S::as_simd_f32s(x);
    let rest = simd.partial_load_f32s(tail);
    let n = x.len() as f64;
    let mut sum = simd.reduce_sum_f32s(rest) as f64;
    for run in body.chunks(RUN) {
        let mut chains = [simd.splat_f32s(0.0); 4];
        for (i, v) in run.iter().enumerate() {
            chains[i % 4] = simd.add_f32s(chains[i % 4], *v);
        }
        sum += total(simd, chains);
    }
    // An error in the mean or in the scale affects the whole row, and no average over tokens
    // removes it. Both are therefore kept in two parts.
    let mean = Split::new(simd, sum / n);
    let centre = |v| simd.sub_f32s(simd.sub_f32s(v, mean.high), mean.low);
    let mut squares = 0.0;
    for run in body.chunks(RUN) {
        let mut chains = [simd.splat_f32s(0.0); 4];
        for (i, v) in run.iter().enumerate() {
            let d = centre(*v);
            chains[i % 4] = simd.mul_add_e_f32s(d, d, chains[i % 4]);
        }
        squares += total(simd, chains);
    }
    for v in tail {
        squares += (*v as f64 - sum / n).powi(2);
    }
    let scale = Split::new(simd, 1.0 / (squares / n + norm.eps as f64).sqrt());
    let (gain, gain_tail) = S::as_simd_f32s(norm.gain);
    let (bias, bias_tail) = S::as_simd_f32s(norm.bias);
    let (to, to_tail) = S::as_mut_simd_f32s(out);
    let finish = |x, gain, bias| {
        let d = centre(x);
        let z = simd.mul_add_e_f32s(d, scale.high, simd.mul_f32s(d, scale.low));
        simd.mul_add_e_f32s(z, gain, bias)
    };
    for i in 0..body.len() {
        to[i] = finish(body[i], gain[i], bias[i]);
    }
    if !tail.is_empty() {
        let y = finish(
            rest,
            simd.partial_load_f32s(gain_tail),
            simd.partial_load_f32s(bias_tail),
        );
        simd.partial_store_f32s(to_tail, y);
    }
}

/// A number as the sum of two f32 values, in every lane.
#[derive(Clone, Copy)]
struct Split<S: Simd> {
    high: S::f32s,
    low: S::f32s,
}

impl<S: Simd> Split<S> {
    #[inline(always)]
    fn new(simd: S, x: f64) -> Self {
        let high = x as f32;
        let low = (x - high as f64) as f32;
        Self {
            high: simd.splat_f32s(high),
            low: simd.splat_f32s(low),
        }
    }
}

/// Returns the sum of all lanes of all chains.
#[inline(always)]
fn total<S: Simd>(simd: S, chains: [S::f32s; 4]) -> f64 {
    chains.iter().map(|c| simd.reduce_sum_f32s(*c) as f64).sum()
}
