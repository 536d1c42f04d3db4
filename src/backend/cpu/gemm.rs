//! Linear layers: x·Wᵀ by the `gemm` crate, cut into tiles that are finished (bias, residual,
//! GELU) while they are still in cache.
//!
//! **The same bits for a row whatever the other rows.** Each output element is one chain of fused
//! multiply-adds over a block of K, and a block's sum is added to what stands in the output. The
//! chain does not depend on where in a tile the element lies. What could change it is the choice
//! of the block, which the crate makes from the sizes, or a special kernel for few rows: so K is
//! cut here into blocks of at most [`K_BLOCK`], which the crate never cuts further, and no
//! product has fewer than [`super::matrix::MIN_ROWS`] rows.

use super::Cpu;
use super::matrix::{Matrix, Tiles};
use super::simd;
use crate::backend::{Activation, LinearPart};
use crate::weights::F32Data;
use pulp::{Simd, WithSimd};
use rayon::prelude::*;
use std::cell::RefCell;

/// Longest chain over K that one call computes: the crate's own block is never shorter.
///
/// A chain's rounding grows with its length, and our bar is 1.5 times PyTorch's error on every
/// sequence, which on some is by luck three times smaller than on others. Over the 290 cases of the
/// committed golden files the geometric mean of error to PyTorch's error, and the largest one, are
/// 0.74 and 1.27 with blocks of 512, 0.67 and 1.51 with 160, 0.62 and 1.53 with 96, 0.59 and 1.18
/// with 64.
pub(super) const K_BLOCK: usize = 64;
/// Tokens below which a sequence is computed with sums in f64 ([`Sums::F64`]).
///
/// With fewer than 16 rows PyTorch's GEMM (MKL) sums in several short chains and is two to three
/// times as exact as with more (1.0e-7 against 3.2e-7 at K = 320, relative error of the product),
/// so that only better sums than one f32 chain stay within 1.5 times its error. They halve the
/// speed, of passes whose peer is bound by reading the weights.
pub(super) const SHORT_TOKENS: usize = 16;

/// What products sum in.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Sums {
    /// f32, in chains of at most [`K_BLOCK`].
    F32,
    /// f64, rounded once at the end.
    F64,
}

/// Most rows of a tile.
const ROW_BLOCK: usize = 1024;
/// Columns of a tile: whole micro-kernels (64 wide with AVX-512), and few enough that 1024 rows of
/// it (0.75 MiB) stay in a core's L2 until the epilogue has run.
const COL_BLOCK: usize = 192;

/// The weights of a linear layer, [outputs, inputs], in one or several parts along the outputs.
pub struct Linear {
    parts: Vec<Part>,
    inputs: usize,
    outputs: usize,
}

/// A [`LinearPart`] in f32.
struct Part {
    weight: F32Data,
    bias: Option<F32Data>,
}

impl Linear {
    pub(super) fn new(parts: Vec<LinearPart>, inputs: usize) -> Self {
        let parts: Vec<Part> = parts
            .into_iter()
            .map(|p| Part {
                weight: p.weight.to_f32(),
                bias: p.bias.map(|b| b.to_f32()),
            })
            .collect();
        let outputs = parts.iter().map(|p| p.weight.len() / inputs).sum();
        Self {
            parts,
            inputs,
            outputs,
        }
    }

    /// Width of the layer's output.
    pub fn outputs(&self) -> usize {
        self.outputs
    }
}

/// A tile of the output, and the weights that make it.
struct Tile<'a> {
    /// First row, and how many.
    rows: (usize, usize),
    /// First column of the output.
    col: usize,
    /// [cols, inputs].
    weight: &'a [f32],
    bias: Option<&'a [f32]>,
    cols: usize,
}

/// Cuts `total` into near-equal blocks (start, length) of at most about `most`: none is much
/// shorter than the others, all but the last are multiples of `multiple`.
fn blocks(total: usize, most: usize, multiple: usize) -> impl Iterator<Item = (usize, usize)> {
    let units = total.div_ceil(multiple);
    let count = total.div_ceil(most).max(1);
    (0..count).filter_map(move |i| {
        let start = i * units / count * multiple;
        let end = ((i + 1) * units / count * multiple).min(total);
        (end > start).then_some((start, end - start))
    })
}

/// Blocks of rows: none shorter than half of [`ROW_BLOCK`] unless it is the only one, so none
/// has fewer than the [`super::matrix::MIN_ROWS`] there always are.
fn row_blocks(rows: usize) -> impl Iterator<Item = (usize, usize)> {
    blocks(rows, ROW_BLOCK, 1)
}

/// The tiles of one product: columns outermost, so that a worker keeps a weight block in cache.
fn tiles(w: &Linear, rows: usize) -> Vec<Tile<'_>> {
    let mut out = Vec::new();
    let mut first_col = 0;
    for part in &w.parts {
        let n = part.weight.len() / w.inputs;
        for (at, cols) in blocks(n, COL_BLOCK, 64) {
            for rows in row_blocks(rows) {
                out.push(Tile {
                    rows,
                    col: first_col + at,
                    weight: &part.weight[at * w.inputs..(at + cols) * w.inputs],
                    bias: part.bias.as_ref().map(|b| &b[at..at + cols]),
                    cols,
                });
            }
        }
        first_col += n;
    }
    out
}

/// `dst[rows, cols] = x[rows, k]·weight[cols, k]ᵀ`.
///
/// # Safety
/// `dst` must be valid for writes of `rows` rows of `cols` floats, `stride` apart, that nothing
/// else accesses meanwhile, and initialised.
unsafe fn product(
    sums: Sums,
    x: &[f32],
    weight: &[f32],
    k: usize,
    (rows, cols): (usize, usize),
    dst: *mut f32,
    stride: usize,
) {
    assert!(x.len() >= rows * k && weight.len() >= cols * k);
    if sums == Sums::F64 {
        // SAFETY: the caller's promise.
        return unsafe { product_f64(x, weight, k, (rows, cols), dst, stride) };
    }
    for (at, depth) in blocks(k, K_BLOCK, 16) {
        // SAFETY: reads stay inside `x` and `weight` by the assertion; writes as the caller
        // promises.
        unsafe {
            let (weight, x) = (weight.as_ptr().add(at), x.as_ptr().add(at));
            call((rows, cols, depth), dst, stride, at > 0, weight, k, x, k);
        }
    }
}

/// [`product`] with sums in f64, rounded once.
///
/// # Safety
/// As for [`product`].
unsafe fn product_f64(
    x: &[f32],
    weight: &[f32],
    k: usize,
    (rows, cols): (usize, usize),
    dst: *mut f32,
    stride: usize,
) {
    let widen = |from: &[f32], at: usize, depth: usize| -> Vec<f64> {
        let rows = from.chunks_exact(k).flat_map(|row| &row[at..at + depth]);
        rows.map(|x| *x as f64).collect()
    };
    let mut sum = vec![0f64; rows * cols];
    for (at, depth) in blocks(k, K_BLOCK, 16) {
        let weight = widen(&weight[..cols * k], at, depth);
        let x = widen(&x[..rows * k], at, depth);
        // SAFETY: all three are buffers of exactly these sizes.
        unsafe {
            let size = (rows, cols, depth);
            call(
                size,
                sum.as_mut_ptr(),
                cols,
                at > 0,
                weight.as_ptr(),
                depth,
                x.as_ptr(),
                depth,
            );
        }
    }
    for (r, sum) in sum.chunks_exact(cols).enumerate() {
        for (c, sum) in sum.iter().enumerate() {
            // SAFETY: inside the rectangle that the caller promises.
            unsafe { *dst.add(r * stride + c) = *sum as f32 };
        }
    }
}

/// One call of the crate: `dst[rows, cols] (+)= x[rows, depth]·weight[cols, depth]ᵀ`, each with
/// its row stride. The crate sees the transposed product, weight·xᵀ in column-major order, so that
/// its vectors run along the outputs, which are contiguous.
///
/// # Safety
/// `x` and `weight` must be valid for reads and `dst` for writes of these rectangles, `dst`
/// unaliased, and initialised if `add`.
#[allow(clippy::too_many_arguments)]
unsafe fn call<T: num::One + 'static>(
    (rows, cols, depth): (usize, usize, usize),
    dst: *mut T,
    dst_stride: usize,
    add: bool,
    weight: *const T,
    weight_stride: usize,
    x: *const T,
    x_stride: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        gemm::gemm(
            cols,
            rows,
            depth,
            dst,
            dst_stride as isize,
            1,
            add,
            weight,
            1,
            weight_stride as isize,
            x,
            x_stride as isize,
            1,
            T::ONE,
            T::ONE,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

mod num {
    /// The crate takes its factors by value.
    pub trait One {
        const ONE: Self;
    }
    impl One for f32 {
        const ONE: Self = 1.0;
    }
    impl One for f64 {
        const ONE: Self = 1.0;
    }
}

/// What is done to a finished tile of the output.
#[derive(Clone, Copy)]
enum Finish<'a> {
    /// `out = act(out + bias)`
    Store {
        bias: Option<&'a [f32]>,
        act: Activation,
    },
    /// `out += sum + bias`: the sum is whole before it meets the residual stream, which is much
    /// larger than it and would round every block of it. `sum` is [rows, cols].
    Add {
        bias: Option<&'a [f32]>,
        sum: &'a [f32],
    },
    /// `out = gelu(out) * up`; `up` is [rows, cols].
    Gate { up: &'a [f32] },
}

/// A rectangle of the output that one task owns.
struct FinishTile<'a> {
    dst: Tiles<'a>,
    /// First row, and how many.
    rows: (usize, usize),
    /// First column, and how many.
    cols: (usize, usize),
    how: Finish<'a>,
}

impl WithSimd for FinishTile<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            dst,
            rows: (first, count),
            cols: (col, cols),
            how,
        } = self;
        for r in 0..count {
            // SAFETY: tasks own disjoint rectangles, and this one is this task's.
            let row = unsafe { dst.row(first + r, col, cols) };
            match how {
                Finish::Store { bias, act } => {
                    if let Some(bias) = bias {
                        add(row, bias);
                    }
                    if act == Activation::Gelu {
                        simd::map::<S, simd::Gelu>(simd, row);
                    }
                }
                Finish::Add { bias, sum } => {
                    let sum = &sum[r * cols..(r + 1) * cols];
                    match bias {
                        Some(bias) => {
                            for ((x, s), b) in row.iter_mut().zip(sum).zip(bias) {
                                *x += s + b;
                            }
                        }
                        None => add(row, sum),
                    }
                }
                Finish::Gate { up } => {
                    simd::map::<S, simd::Gelu>(simd, row);
                    for (x, u) in row.iter_mut().zip(&up[r * cols..(r + 1) * cols]) {
                        *x *= u;
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn add(to: &mut [f32], from: &[f32]) {
    for (to, x) in to.iter_mut().zip(from) {
        *to += x;
    }
}

thread_local! {
    /// A tile that is not the output itself.
    static TILE: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Lends this worker's tile, at least `len` long.
fn with_tile(len: usize, work: impl FnOnce(&mut [f32])) {
    TILE.with_borrow_mut(|tile| {
        if tile.len() < len {
            tile.resize(len, 0.0);
        }
        work(&mut tile[..len]);
    })
}

/// How a tile is finished.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Mode {
    /// `out = act(x·Wᵀ + b)`
    Store(Activation),
    /// `out += x·Wᵀ + b`
    Add,
}

/// A linear layer; `out` has its size already.
pub(super) fn linear(cpu: &Cpu, x: &Matrix, w: &Linear, mode: Mode, out: &mut Matrix) {
    assert_eq!(x.cols(), w.inputs);
    assert_eq!((out.rows(), out.cols()), (x.rows(), w.outputs));
    let k = w.inputs;
    let xs = x.padded();
    let dst = out.tiles();
    let work = tiles(w, x.padded_rows());
    cpu.install(|| {
        work.par_iter().with_max_len(1).for_each(|tile| {
            let &Tile {
                rows,
                col,
                weight,
                bias,
                cols,
            } = tile;
            let (first, count) = rows;
            let x = &xs[first * k..];
            let size = (count, cols);
            let cols_at = (col, cols);
            match mode {
                Mode::Store(act) => {
                    let at = dst.at(first, col, count, cols);
                    // SAFETY: tiles are disjoint rectangles of an initialised matrix.
                    unsafe { product(cpu.sums, x, weight, k, size, at, dst.stride()) };
                    let how = Finish::Store { bias, act };
                    cpu.arch().dispatch(FinishTile {
                        dst,
                        rows,
                        cols: cols_at,
                        how,
                    });
                }
                Mode::Add => with_tile(count * cols, |sum| {
                    // SAFETY: the tile is this thread's own, and initialised.
                    unsafe { product(cpu.sums, x, weight, k, size, sum.as_mut_ptr(), cols) };
                    let how = Finish::Add { bias, sum };
                    cpu.arch().dispatch(FinishTile {
                        dst,
                        rows,
                        cols: cols_at,
                        how,
                    });
                }),
            }
        })
    });
}

/// `out = gelu(x·Gᵀ) * (x·Uᵀ)`, the single part of `w` being G over U.
pub(super) fn gated(cpu: &Cpu, x: &Matrix, w: &Linear, out: &mut Matrix) {
    assert_eq!(x.cols(), w.inputs);
    assert_eq!(w.parts.len(), 1);
    let (k, width) = (w.inputs, w.outputs / 2);
    assert_eq!((out.rows(), out.cols()), (x.rows(), width));
    let (gate, up) = w.parts[0].weight.split_at(width * k);
    let rows = x.padded_rows();
    let xs = x.padded();
    let dst: Tiles<'_> = out.tiles();
    let work: Vec<_> = blocks(width, COL_BLOCK, 64)
        .flat_map(|c| row_blocks(rows).map(move |r| (r, c)))
        .collect();
    cpu.install(|| {
        work.par_iter()
            .with_max_len(1)
            .for_each(|&(rows, (col, cols))| {
                let (first, count) = rows;
                with_tile(count * cols, |up_tile| {
                    let weights = col * k..(col + cols) * k;
                    let at = dst.at(first, col, count, cols);
                    let (x, size) = (&xs[first * k..], (count, cols));
                    let (gate, up) = (&gate[weights.clone()], &up[weights]);
                    // SAFETY: tiles are disjoint rectangles, and `up_tile` is this thread's own.
                    unsafe {
                        product(cpu.sums, x, gate, k, size, at, dst.stride());
                        product(cpu.sums, x, up, k, size, up_tile.as_mut_ptr(), cols);
                    }
                    let how = Finish::Gate { up: up_tile };
                    cpu.arch().dispatch(FinishTile {
                        dst,
                        rows,
                        cols: (col, cols),
                        how,
                    });
                })
            })
    });
}
