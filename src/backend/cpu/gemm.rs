//! Computes linear layers: x·Wᵀ by the `gemm` crate, cut into tiles. Each tile is finished (bias,
//! residual, GELU) while it is still in cache.
//!
//! **A row has the same bits whatever the other rows are.** Each output element is a chain of fused
//! multiply-adds over a block of K, and the sum of each block is added to the value that the output
//! already holds. The chain does not depend on the position of the element in its tile. It could
//! only change with the size of the block, which the crate chooses from the sizes of the GEMM, or
//! in a special kernel for few rows. K is therefore cut here into blocks of at most [`K_BLOCK`],
//! which the crate never cuts further, and no GEMM has fewer than [`super::matrix::MIN_ROWS`] rows.

use super::Cpu;
use super::matrix::{Matrix, Tiles};
use super::simd;
use crate::backend::{Activation, LinearPart};
use crate::weights::F32Data;
use pulp::{Simd, WithSimd};
use rayon::prelude::*;
use std::cell::RefCell;

/// The longest chain over K that one call of the crate computes; the crate's own block is never
/// shorter.
///
/// The rounding error of a chain grows with its length, and the error must stay within 1.5 times
/// PyTorch's error on every sequence. On some sequences PyTorch's error happens to be three times
/// smaller than on others. The ratio of this program's error to PyTorch's error, over the 290 cases
/// of the committed golden files, has a geometric mean of 0.74 and a maximum of 1.27 with blocks of
/// 512, 0.67 and 1.51 with blocks of 160, 0.62 and 1.53 with blocks of 96, and 0.59 and 1.18 with
/// blocks of 64.
pub(super) const K_BLOCK: usize = 64;
/// Sequences of fewer tokens than this are computed with sums in f64 ([`Sums::F64`]).
///
/// With fewer than 16 rows PyTorch's GEMM (MKL) sums in several short chains. It is then two to
/// three times as exact as with more rows: its relative error at K = 320 is 1.0e-7 instead of
/// 3.2e-7. One f32 chain is not exact enough to stay within 1.5 times that error. Sums in f64 halve
/// the speed, but only of passes in which PyTorch is bound by reading the weights.
pub(super) const SHORT_TOKENS: usize = 16;

/// The precision in which GEMMs sum.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Sums {
    /// Sums are f32, in chains of at most [`K_BLOCK`].
    F32,
    /// Sums are f64, rounded once at the end.
    F64,
}

/// The most rows per tile.
const ROW_BLOCK: usize = 1024;
/// Columns per tile: whole micro-kernels (64 columns wide with AVX-512), and few enough that 1024
/// rows (0.75 MiB) stay in a core's L2 until the epilogue has run.
const COL_BLOCK: usize = 192;

/// The weights of a linear layer, `[outputs, inputs]`, in one or several parts along the outputs.
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
    /// Converts the parts to f32; the weight of every part has `inputs` columns.
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

    /// Returns the width of the layer's input.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Returns the width of the layer's output.
    pub fn outputs(&self) -> usize {
        self.outputs
    }
}

/// A tile of the output, and the weights that it is computed from.
struct Tile<'a> {
    /// The first row, and the number of rows.
    rows: (usize, usize),
    /// The first column of the output.
    col: usize,
    /// The weights of the tile's columns, `[cols, inputs]`.
    weight: &'a [f32],
    bias: Option<&'a [f32]>,
    cols: usize,
}

/// Cuts `total` into near-equal blocks (start, length) of about `most` or fewer: no block is much
/// shorter than the others, and all blocks but the last are multiples of `multiple`.
fn blocks(total: usize, most: usize, multiple: usize) -> impl Iterator<Item = (usize, usize)> {
    let units = total.div_ceil(multiple);
    let count = total.div_ceil(most).max(1);
    (0..count).filter_map(move |i| {
        let start = i * units / count * multiple;
        let end = ((i + 1) * units / count * multiple).min(total);
        (end > start).then_some((start, end - start))
    })
}

/// Cuts rows into blocks. No block is shorter than half of [`ROW_BLOCK`] unless it is the only one,
/// so no block has fewer rows than [`super::matrix::MIN_ROWS`], which a matrix always has.
fn row_blocks(rows: usize) -> impl Iterator<Item = (usize, usize)> {
    blocks(rows, ROW_BLOCK, 1)
}

/// Returns the tiles of one GEMM, with columns outermost, so that a worker keeps a block of weights
/// in cache.
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

/// Computes `dst[rows, cols] = x[rows, k]·weight[cols, k]ᵀ`.
///
/// # Safety
/// `dst` must be initialised and valid for writes of `rows` rows of `cols` floats, `stride` floats
/// apart. Nothing else may access them at the same time.
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
        // SAFETY: the caller keeps the contract in this function's `# Safety` section.
        return unsafe { product_f64(x, weight, k, (rows, cols), dst, stride) };
    }
    for (at, depth) in blocks(k, K_BLOCK, 16) {
        // SAFETY: reads stay inside `x` and `weight` by the assertion, and the caller promises that
        // the writes are valid.
        unsafe {
            let (weight, x) = (weight.as_ptr().add(at), x.as_ptr().add(at));
            call((rows, cols, depth), dst, stride, at > 0, weight, k, x, k);
        }
    }
}

/// Computes the same as [`product`] with sums in f64, which are rounded once.
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
            // SAFETY: the element is inside the rectangle that the caller promises.
            unsafe { *dst.add(r * stride + c) = *sum as f32 };
        }
    }
}

/// Calls the crate once: `dst[rows, cols] (+)= x[rows, depth]·weight[cols, depth]ᵀ`, where each
/// matrix has its own row stride. The crate sees the transposed GEMM, weight·xᵀ in column-major
/// order, so that its vectors run along the outputs, which are contiguous.
///
/// # Safety
/// `x` and `weight` must be valid for reads of these rectangles, and `dst` for writes. `dst` must
/// not be aliased, and must be initialised if `add`.
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
    // SAFETY: the caller keeps the contract in this function's `# Safety` section.
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
    /// The factor 1, which the crate takes by value.
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

/// The operation that finishes a tile of the output.
#[derive(Clone, Copy)]
enum Finish<'a> {
    /// Computes `out = act(out + bias)`.
    Store {
        bias: Option<&'a [f32]>,
        act: Activation,
    },
    /// Computes `out += sum + bias`; `sum` is `[rows, cols]`. The sum is complete before it is
    /// added to the residual stream, whose values are much larger and would round every block of
    /// the sum.
    Add {
        bias: Option<&'a [f32]>,
        sum: &'a [f32],
    },
    /// Computes `out = gelu(out) * up`; `up` is `[rows, cols]`.
    Gate { up: &'a [f32] },
}

/// A rectangle of the output that one task owns.
struct FinishTile<'a> {
    dst: Tiles<'a>,
    /// The first row, and the number of rows.
    rows: (usize, usize),
    /// The first column, and the number of columns.
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
            // SAFETY: tasks own disjoint rectangles, and this rectangle belongs to this task.
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
    /// The worker's buffer for a tile that is not part of the output itself.
    static TILE: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Lends this worker's tile buffer to `work`, cut to `len` floats.
fn with_tile(len: usize, work: impl FnOnce(&mut [f32])) {
    TILE.with_borrow_mut(|tile| {
        if tile.len() < len {
            tile.resize(len, 0.0);
        }
        work(&mut tile[..len]);
    })
}

/// How the tiles of a linear layer are finished.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Mode {
    /// Computes `out = act(x·Wᵀ + b)`.
    Store(Activation),
    /// Computes `out += x·Wᵀ + b`.
    Add,
}

/// Computes a linear layer. `out` has its size already.
pub(super) fn linear(cpu: &Cpu, sums: Sums, x: &Matrix, w: &Linear, mode: Mode, out: &mut Matrix) {
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
                    unsafe { product(sums, x, weight, k, size, at, dst.stride()) };
                    let how = Finish::Store { bias, act };
                    cpu.arch().dispatch(FinishTile {
                        dst,
                        rows,
                        cols: cols_at,
                        how,
                    });
                }
                Mode::Add => with_tile(count * cols, |sum| {
                    // SAFETY: the buffer belongs to this thread alone, and is initialised.
                    unsafe { product(sums, x, weight, k, size, sum.as_mut_ptr(), cols) };
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

/// Computes `out = gelu(x·Gᵀ) * (x·Uᵀ)`, where the single part of `w` is G on top of U.
pub(super) fn gated(cpu: &Cpu, sums: Sums, x: &Matrix, w: &Linear, out: &mut Matrix) {
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
                    // SAFETY: tiles are disjoint rectangles of an initialised matrix, and `up_tile`
                    // belongs to this thread alone.
                    unsafe {
                        product(sums, x, gate, k, size, at, dst.stride());
                        product(sums, x, up, k, size, up_tile.as_mut_ptr(), cols);
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
