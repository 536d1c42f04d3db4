//! The CPU: f32 throughout, whatever the weights are stored in; one pool of worker threads; SIMD
//! chosen at run time.

mod attention;
mod gemm;
pub mod matrix;
mod norm;
pub mod simd;

pub use gemm::Linear;
pub use matrix::Matrix;

use super::{Activation, AttentionSpec, Backend, BackendError, LinearPart};
use crate::weights::F32Data;
use rayon::prelude::*;
use std::ops::Range;

/// The CPU backend. One thread drives it; its pool does the work.
pub struct Cpu {
    pool: rayon::ThreadPool,
    arch: pulp::Arch,
    rotary: attention::RotaryTable,
    /// What the products of the current pass sum in.
    sums: gemm::Sums,
}

impl Cpu {
    /// Starts `threads` workers.
    pub fn new(threads: usize) -> Result<Self, BackendError> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("compute-{i}"))
            .build()
            .map_err(|source| BackendError::Threads { threads, source })?;
        Ok(Self {
            pool,
            arch: pulp::Arch::new(),
            rotary: Default::default(),
            sums: gemm::Sums::F32,
        })
    }

    fn arch(&self) -> pulp::Arch {
        self.arch
    }

    /// Runs `work` on the pool.
    fn install<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.pool.install(work)
    }
}

impl Backend for Cpu {
    type Matrix = Matrix;
    type Vector = F32Data;
    type Linear = Linear;

    fn class(&self, tokens: usize) -> usize {
        usize::from(tokens < gemm::SHORT_TOKENS)
    }

    fn begin(&mut self, class: usize) {
        self.sums = if class == 0 {
            gemm::Sums::F32
        } else {
            gemm::Sums::F64
        };
    }

    fn matrix(&self) -> Matrix {
        Matrix::default()
    }

    fn vector(&self, data: F32Data) -> Result<F32Data, BackendError> {
        Ok(data)
    }

    fn linear_weights(
        &self,
        parts: Vec<LinearPart>,
        inputs: usize,
    ) -> Result<Linear, BackendError> {
        Ok(Linear::new(parts, inputs))
    }

    fn embed(
        &mut self,
        tokens: &[u32],
        scale: &[f32],
        table: &F32Data,
        shift: Option<&F32Data>,
        width: usize,
        out: &mut Matrix,
    ) -> Result<(), BackendError> {
        out.resize(tokens.len(), width);
        for ((to, token), scale) in out
            .values_mut()
            .chunks_exact_mut(width)
            .zip(tokens)
            .zip(scale)
        {
            let from = &table[*token as usize * width..(*token as usize + 1) * width];
            match shift {
                Some(shift) => {
                    for ((to, x), s) in to.iter_mut().zip(from).zip(shift.iter()) {
                        *to = (x + s) * scale;
                    }
                }
                None => {
                    for (to, x) in to.iter_mut().zip(from) {
                        *to = x * scale;
                    }
                }
            }
        }
        Ok(())
    }

    fn layer_norm(
        &mut self,
        x: &Matrix,
        gain: &F32Data,
        bias: &F32Data,
        eps: f32,
        out: &mut Matrix,
    ) -> Result<(), BackendError> {
        out.resize(x.rows(), x.cols());
        norm::layer_norm(
            self,
            x.values(),
            norm::Norm { gain, bias, eps },
            out.values_mut(),
        );
        Ok(())
    }

    fn linear(
        &mut self,
        x: &Matrix,
        w: &Linear,
        act: Activation,
        out: &mut Matrix,
    ) -> Result<(), BackendError> {
        out.resize(x.rows(), w.outputs());
        gemm::linear(self, x, w, gemm::Mode::Store(act), out);
        Ok(())
    }

    fn linear_add(
        &mut self,
        x: &Matrix,
        w: &Linear,
        onto: &mut Matrix,
    ) -> Result<(), BackendError> {
        gemm::linear(self, x, w, gemm::Mode::Add, onto);
        Ok(())
    }

    fn linear_gated(
        &mut self,
        x: &Matrix,
        w: &Linear,
        out: &mut Matrix,
    ) -> Result<(), BackendError> {
        out.resize(x.rows(), w.outputs() / 2);
        gemm::gated(self, x, w, out);
        Ok(())
    }

    fn attention(
        &mut self,
        qkv: &Matrix,
        starts: &[usize],
        spec: &AttentionSpec,
        out: &mut Matrix,
    ) -> Result<(), BackendError> {
        out.resize(qkv.rows(), spec.heads * spec.head_dim);
        // The table is lent out so that the pool can be borrowed beside it.
        let mut rotary = std::mem::take(&mut self.rotary);
        attention::attention(self, &mut rotary, qkv, starts, spec, out);
        self.rotary = rotary;
        Ok(())
    }

    fn mean(&mut self, x: &Matrix, ranges: &[Range<usize>]) -> Result<Vec<f32>, BackendError> {
        let cols = x.cols();
        let mut out = vec![0f32; ranges.len() * cols];
        self.install(|| {
            out.par_chunks_mut(cols.max(1))
                .zip(ranges)
                .for_each(|(out, range)| {
                    // f64, so that 35 000 rows add no error of their own.
                    let mut sum = vec![0f64; cols];
                    for row in x.values()[range.start * cols..range.end * cols].chunks_exact(cols) {
                        for (sum, x) in sum.iter_mut().zip(row) {
                            *sum += *x as f64;
                        }
                    }
                    for (out, sum) in out.iter_mut().zip(sum) {
                        *out = (sum / range.len() as f64) as f32;
                    }
                })
        });
        Ok(out)
    }

    fn download(&mut self, x: &Matrix) -> Result<Vec<f32>, BackendError> {
        Ok(x.values().to_vec())
    }
}

#[cfg(test)]
mod tests;
