//! The CPU backend. It computes in f32 whatever dtype the weights are stored in, on one pool of
//! worker threads, with SIMD instructions chosen at run time.

mod attention;
mod gemm;
pub mod matrix;
mod norm;
pub mod simd;

pub use gemm::Linear;
pub use matrix::Matrix;

use super::{
    Activation, AttentionSpec, Backend, BackendError, Builder, Limits, LinearKind, LinearPart,
    Norm, Output, OutputKinds, Pass, Pooling, Role, Work,
};
use crate::batch::{Budget, PackedBatch};
use crate::dtype::States;
use crate::trace::{Category, Span, Trace, host};
use crate::weights::{F32Data, Weight};
use rayon::prelude::*;
use std::ops::Range;

/// The CPU backend. One thread drives it, and its pool does the work.
pub struct Cpu {
    pool: rayon::ThreadPool,
    arch: pulp::Arch,
    rotary: attention::RotaryTable,
    budget: Budget,
    /// The output of a representation's own LayerNorm.
    normed: Matrix,
    trace: Trace,
}

impl Cpu {
    /// Starts `threads` workers, which compute with the best SIMD level that this machine has.
    ///
    /// # Errors
    /// Returns [`BackendError::Threads`] if the workers cannot be started.
    pub fn new(threads: usize) -> Result<Self, BackendError> {
        Self::with_arch(threads, pulp::Arch::new())
    }

    /// Starts `threads` workers on one of [`simd::levels`]. The `gemm` crate chooses a level for
    /// GEMMs itself, whatever this level is.
    ///
    /// # Errors
    /// Returns [`BackendError::Threads`] if the workers cannot be started.
    pub fn with_arch(threads: usize, arch: pulp::Arch) -> Result<Self, BackendError> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("compute-{i}"))
            .build()
            .map_err(|source| BackendError::Threads { threads, source })?;
        Ok(Self {
            pool,
            arch,
            rotary: Default::default(),
            budget: Budget::even(default_tokens(threads)),
            normed: Matrix::default(),
            trace: Trace::off(),
        })
    }

    /// Sets the tokens per batch to `wanted`, if the user set a number, and to at most `capacity`.
    pub fn with_budget(mut self, wanted: Option<usize>, capacity: usize) -> Self {
        let wanted = wanted.map_or(self.budget, Budget::even);
        self.budget = wanted.within(capacity.max(1));
        self
    }

    /// Records every operation in a trace.
    pub fn traced(mut self, trace: Trace) -> Self {
        self.trace = trace;
        self
    }

    fn arch(&self) -> pulp::Arch {
        self.arch
    }

    /// Runs `work` on the pool.
    fn install<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.pool.install(work)
    }
}

/// The CPU needs no preparation: it computes straight from the mapped file, and its matrices grow.
impl Builder for Cpu {
    type Backend = Self;

    fn matrix(&mut self, _: Role, width: usize) -> Result<Matrix, BackendError> {
        let mut matrix = Matrix::default();
        matrix.resize(0, width);
        Ok(matrix)
    }

    fn vector(&mut self, data: Weight) -> Result<F32Data, BackendError> {
        Ok(data.to_f32())
    }

    fn linear_weights(
        &mut self,
        parts: Vec<LinearPart>,
        inputs: usize,
        _: LinearKind,
    ) -> Result<Linear, BackendError> {
        Ok(Linear::new(parts, inputs))
    }

    fn attention_weights(&mut self, spec: AttentionSpec) -> Result<AttentionSpec, BackendError> {
        Ok(spec)
    }

    fn build(self) -> Result<Self, BackendError> {
        Ok(self)
    }
}

impl Backend for Cpu {
    type Matrix = Matrix;
    type Vector = F32Data;
    type Linear = Linear;
    type Attention = AttentionSpec;
    type Pending = Output;
    type Pass<'a> = CpuPass<'a>;

    fn class(&self, tokens: usize) -> usize {
        usize::from(tokens < gemm::SHORT_TOKENS)
    }

    fn limits(&self) -> Limits {
        // Everything is computed when it is asked for, in memory that grows.
        Limits {
            tokens: usize::MAX,
            sequences: usize::MAX,
            passes: 1,
        }
    }

    fn budget(&self) -> Budget {
        self.budget
    }

    fn begin<'a>(
        &'a mut self,
        class: usize,
        batch: &'a PackedBatch,
        pooled: &'a [Range<usize>],
    ) -> Result<CpuPass<'a>, BackendError> {
        Ok(CpuPass {
            sums: match class {
                0 => gemm::Sums::F32,
                _ => gemm::Sums::F64,
            },
            cpu: self,
            batch,
            pooled,
            layer: 0,
        })
    }

    fn fetch(&mut self, made: Output) -> Result<Output, BackendError> {
        Ok(made)
    }
}

/// A pass on the CPU, which computes every operation at once.
pub struct CpuPass<'a> {
    cpu: &'a mut Cpu,
    /// The precision in which the GEMMs sum.
    sums: gemm::Sums,
    batch: &'a PackedBatch,
    /// The pooled rows of each sequence.
    pooled: &'a [Range<usize>],
    /// The layer that is computed, for a trace.
    layer: usize,
}

impl CpuPass<'_> {
    /// Opens the interval of an operation in the trace.
    fn operation(&self, name: &'static str, work: Work) -> Span {
        let thread = (host::COMPUTING, 0);
        let mut span = self.cpu.trace.span(thread, name, Category::Operation);
        span.note(|args| {
            args.layer = Some(self.layer as u64);
            args.sequences = Some(self.batch.len() as u64);
            args.tokens = Some(self.batch.total() as u64);
            work.note(args);
        });
        span
    }

    /// Returns the work of a linear layer. `stored` bytes are moved for each column of the output.
    fn product(&self, w: &Linear, stored: usize) -> Work {
        let shape = (w.outputs(), w.inputs());
        Work::product(self.batch.total(), shape, 4, shape.0 * stored)
    }
}

impl Pass<Cpu> for CpuPass<'_> {
    fn wait_for_weights(&mut self, layer: usize) -> Result<(), BackendError> {
        self.layer = layer;
        Ok(())
    }

    fn embed(
        &mut self,
        scale: &[f64],
        table: &F32Data,
        shift: Option<&F32Data>,
        out: &mut Matrix,
    ) -> Result<(), BackendError> {
        let rows = self.batch.total();
        let _span = self.operation("embed", Work::rows(rows, 8 * out.cols()));
        let width = out.cols();
        out.resize(self.batch.total(), width);
        for ((to, token), scale) in out
            .values_mut()
            .chunks_exact_mut(width)
            .zip(self.batch.tokens())
            .zip(scale)
        {
            let from = &table[*token as usize * width..(*token as usize + 1) * width];
            match shift {
                Some(shift) => {
                    for ((to, x), s) in to.iter_mut().zip(from).zip(shift.iter()) {
                        *to = ((x + s) as f64 * scale) as f32;
                    }
                }
                None => {
                    for (to, x) in to.iter_mut().zip(from) {
                        *to = (*x as f64 * scale) as f32;
                    }
                }
            }
        }
        Ok(())
    }

    fn layer_norm(
        &mut self,
        x: &Matrix,
        norm: &Norm<F32Data>,
        out: &mut Matrix,
    ) -> Result<(), BackendError> {
        let work = Work::rows(x.rows(), 8 * x.cols());
        let _span = self.operation("layer_norm", work);
        out.resize(x.rows(), x.cols());
        let norm = norm::RowNorm::from(norm);
        norm::layer_norm(self.cpu, x.values(), norm, out.values_mut());
        Ok(())
    }

    fn linear(
        &mut self,
        x: &Matrix,
        w: &Linear,
        act: Activation,
        out: &mut Matrix,
    ) -> Result<(), BackendError> {
        let name = match act {
            Activation::None => "product",
            Activation::Gelu => "product_gelu",
        };
        let _span = self.operation(name, self.product(w, 4));
        out.resize(x.rows(), w.outputs());
        gemm::linear(self.cpu, self.sums, x, w, gemm::Mode::Store(act), out);
        Ok(())
    }

    fn linear_add(
        &mut self,
        x: &Matrix,
        w: &Linear,
        onto: &mut Matrix,
    ) -> Result<(), BackendError> {
        let _span = self.operation("product", self.product(w, 8));
        gemm::linear(self.cpu, self.sums, x, w, gemm::Mode::Add, onto);
        Ok(())
    }

    fn linear_gated(
        &mut self,
        x: &Matrix,
        w: &Linear,
        out: &mut Matrix,
    ) -> Result<(), BackendError> {
        let _span = self.operation("product_gated_gelu", self.product(w, 2));
        out.resize(x.rows(), w.outputs() / 2);
        gemm::gated(self.cpu, self.sums, x, w, out);
        Ok(())
    }

    fn attention(
        &mut self,
        qkv: &Matrix,
        spec: &AttentionSpec,
        out: &mut Matrix,
    ) -> Result<(), BackendError> {
        let width = spec.heads * spec.head_dim;
        let work = Work::attention(self.batch.starts(), width, 4);
        let _span = self.operation("attention", work);
        out.resize(qkv.rows(), spec.heads * spec.head_dim);
        // The table is moved out for the call, so that the pool can be borrowed beside it.
        let mut rotary = std::mem::take(&mut self.cpu.rotary);
        attention::attention(self.cpu, &mut rotary, qkv, self.batch.starts(), spec, out);
        self.cpu.rotary = rotary;
        Ok(())
    }

    fn represent(
        &mut self,
        x: &Matrix,
        norm: Option<&Norm<F32Data>>,
        wanted: OutputKinds,
    ) -> Result<Output, BackendError> {
        let work = Work::rows(x.rows(), 4 * x.cols());
        let _span = self.operation("represent", work);
        let mut normed = std::mem::take(&mut self.cpu.normed);
        let x = match norm {
            Some(norm) => {
                self.layer_norm(x, norm, &mut normed)?;
                &normed
            }
            None => x,
        };
        let made = Output {
            pooled: match wanted.pooled {
                Some(Pooling::Mean) => self.cpu.pool(x, self.pooled, mean),
                Some(Pooling::Max) => self.cpu.pool(x, self.pooled, greatest),
                Some(Pooling::First) => {
                    let first = |i| self.batch.range(i).start..self.batch.range(i).start + 1;
                    let first: Vec<_> = (0..self.batch.len()).map(first).collect();
                    self.cpu.pool(x, &first, mean)
                }
                None => Vec::new(),
            },
            states: match wanted.states {
                true => x.values().to_vec().into(),
                false => States::default(),
            },
        };
        self.cpu.normed = normed;
        Ok(made)
    }

    fn end(self) -> Result<(), BackendError> {
        Ok(())
    }
}

/// The default number of tokens per batch: enough rows to give every thread whole tiles of a GEMM,
/// and no more activations than these rows need.
fn default_tokens(threads: usize) -> usize {
    (threads * 512).clamp(4096, 32768)
}

impl Cpu {
    /// Returns the row that `reduce` makes of each range of rows, `[ranges, cols]`.
    fn pool(
        &self,
        x: &Matrix,
        ranges: &[Range<usize>],
        reduce: fn(&[f32], &mut [f32]),
    ) -> Vec<f32> {
        let cols = x.cols();
        let mut out = vec![0f32; ranges.len() * cols];
        self.install(|| {
            out.par_chunks_mut(cols.max(1))
                .zip(ranges)
                .for_each(|(out, range)| {
                    reduce(&x.values()[range.start * cols..range.end * cols], out);
                })
        });
        out
    }
}

/// Writes the mean of the rows to `out`, which is as wide as a row.
fn mean(rows: &[f32], out: &mut [f32]) {
    // The sum is f64, so that 35 000 rows add no error of their own.
    let mut sum = vec![0f64; out.len()];
    for row in rows.chunks_exact(out.len()) {
        for (sum, x) in sum.iter_mut().zip(row) {
            *sum += *x as f64;
        }
    }
    let count = (rows.len() / out.len()) as f64;
    for (out, sum) in out.iter_mut().zip(sum) {
        *out = (sum / count) as f32;
    }
}

/// Writes the greatest value of each column to `out`, which is as wide as a row. A column with a
/// value that is not finite gives NaN, and so does a column without values.
fn greatest(rows: &[f32], out: &mut [f32]) {
    out.fill(match rows.is_empty() {
        true => f32::NAN,
        false => f32::NEG_INFINITY,
    });
    for row in rows.chunks_exact(out.len()) {
        for (most, x) in out.iter_mut().zip(row) {
            // A comparison with NaN is false, so NaN stays.
            *most = match x.is_finite() {
                true if *x > *most => *x,
                true => *most,
                false => f32::NAN,
            };
        }
    }
}

#[cfg(test)]
mod tests;
