//! LayerNorm over the columns of each row: mean and variance in two passes, in f32 vectors.

use super::Cpu;
use crate::weights::F32Data;
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

/// Rows of a task.
const ROWS: usize = 32;

/// The parameters of one LayerNorm.
#[derive(Clone, Copy)]
pub(super) struct Norm<'a> {
    pub gain: &'a [f32],
    pub bias: &'a [f32],
    pub eps: f32,
}

impl<'a> From<&'a crate::backend::Norm<F32Data>> for Norm<'a> {
    fn from(norm: &'a crate::backend::Norm<F32Data>) -> Self {
        Self {
            gain: &norm.gain,
            bias: &norm.bias,
            eps: norm.eps,
        }
    }
}

/// `out = LayerNorm(x)`, both [rows, cols].
pub(super) fn layer_norm(cpu: &Cpu, x: &[f32], norm: Norm<'_>, out: &mut [f32]) {
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
    norm: Norm<'a>,
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
fn row<S: Simd>(simd: S, x: &[f32], norm: Norm<'_>, out: &mut [f32]) {
    let (body, tail) = S::as_simd_f32s(x);
    let rest = simd.partial_load_f32s(tail);
    // Four chains: shorter ones round less, and do not wait for each other.
    let mut sum = [simd.splat_f32s(0.0); 4];
    sum[0] = rest;
    for (i, v) in body.iter().enumerate() {
        sum[i % 4] = simd.add_f32s(sum[i % 4], *v);
    }
    let mean = (total(simd, sum) / x.len() as f64) as f32;
    let at = simd.splat_f32s(mean);
    let mut squares = [simd.splat_f32s(0.0); 4];
    for (i, v) in body.iter().enumerate() {
        let d = simd.sub_f32s(*v, at);
        squares[i % 4] = simd.mul_add_e_f32s(d, d, squares[i % 4]);
    }
    let mut squares = total(simd, squares);
    for v in tail {
        squares += ((v - mean) as f64).powi(2);
    }
    // In f64, since an error here is one of the whole row.
    let scale = 1.0 / (squares / x.len() as f64 + norm.eps as f64).sqrt();
    let scale = simd.splat_f32s(scale as f32);
    let (gain, gain_tail) = S::as_simd_f32s(norm.gain);
    let (bias, bias_tail) = S::as_simd_f32s(norm.bias);
    let (to, to_tail) = S::as_mut_simd_f32s(out);
    let finish =
        |x, gain, bias| simd.mul_add_e_f32s(simd.mul_f32s(simd.sub_f32s(x, at), scale), gain, bias);
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

/// The sum of all lanes.
#[inline(always)]
fn total<S: Simd>(simd: S, chains: [S::f32s; 4]) -> f64 {
    chains.iter().map(|c| simd.reduce_sum_f32s(*c) as f64).sum()
}
