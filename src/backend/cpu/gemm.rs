//! Linear layers: x·Wᵀ by the `gemm` crate, cut into tiles that are finished (bias, residual,
//! GELU) while they are still in cache.
//!
//! **The same bits for a row whatever the other rows.** Each output element is one chain of fused
//! multiply-adds over a block of K, and a block's sum is added to what stands in the output. The
//! chain does not depend on where in a tile the element lies. What could change it is the choice
//! of the block, which the crate makes from the sizes, or a special kernel for few rows: so K is
//! cut here into blocks no larger than [`K_BLOCK`], which the crate never cuts further, and no
//! product has fewer than [`super::matrix::MIN_ROWS`] rows.

use super::Cpu;
use super::matrix::{Matrix, Tiles};
use super::simd;
use crate::backend::{Activation, LinearPart};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;
use std::cell::RefCell;

/// Longest chain over K that one call computes: the crate's own block is never shorter.
const K_BLOCK: usize = 512;
/// Most rows of a tile.
const ROW_BLOCK: usize = 1024;
/// Columns of a tile: whole micro-kernels (64 wide with AVX-512), and few enough that 1024 rows of
/// it (0.75 MiB) stay in a core's L2 until the epilogue has run.
const COL_BLOCK: usize = 192;

/// The weights of a linear layer, [outputs, inputs], in one or several parts along the outputs.
pub struct Linear {
    parts: Vec<LinearPart>,
    inputs: usize,
    outputs: usize,
}

impl Linear {
    pub(super) fn new(parts: Vec<LinearPart>, inputs: usize) -> Self {
        let outputs = parts.iter().map(|p| p.weight.len() / inputs).sum();
        Self { parts, inputs, outputs }
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

/// `dst[rows, cols] (+)= x[rows, k]·weight[cols, k]ᵀ`.
///
/// # Safety
/// `dst` must be valid for writes of `rows` rows of `cols` floats, `stride` apart, that nothing
/// else accesses meanwhile, and initialised.
unsafe fn product(
    x: &[f32],
    weight: &[f32],
    k: usize,
    (rows, cols): (usize, usize),
    dst: *mut f32,
    stride: usize,
    accumulate: bool,
) {
    assert!(x.len() >= rows * k && weight.len() >= cols * k);
    let mut add = accumulate;
    for (at, depth) in blocks(k, K_BLOCK, 16) {
        // SAFETY: reads stay inside `x` and `weight` by the assertion; writes as the caller
        // promises. The crate sees the transposed product, Wx in column-major order, so that
        // its vectors run along the outputs, which are contiguous.
        unsafe {
            gemm::gemm(
                cols,
                rows,
                depth,
                dst,
                stride as isize,
                1,
                add,
                weight.as_ptr().add(at),
                1,
                k as isize,
                x.as_ptr().add(at),
                k as isize,
                1,
                1.0,
                1.0,
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
        add = true;
    }
}

/// What is done to a finished row of a tile.
struct Epilogue<'a> {
    row: &'a mut [f32],
    /// The gate: `row = gelu(row) * up`.
    up: Option<&'a [f32]>,
}

impl WithSimd for Epilogue<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        simd::map::<S, simd::Gelu>(simd, self.row);
        if let Some(up) = self.up {
            for (x, u) in self.row.iter_mut().zip(up) {
                *x *= u;
            }
        }
    }
}

/// How a tile starts and ends.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Mode {
    /// Bias first, then the product, then the activation.
    Store(Activation),
    /// Onto what stands there.
    Add,
}

/// `out = act(x·Wᵀ + b)` or `out += x·Wᵀ + b`; `out` has its size already.
pub(super) fn linear(cpu: &Cpu, x: &Matrix, w: &Linear, mode: Mode, out: &mut Matrix) {
    assert_eq!(x.cols(), w.inputs);
    assert_eq!((out.rows(), out.cols()), (x.rows(), w.outputs));
    let k = w.inputs;
    let rows = x.padded_rows();
    let xs = x.padded();
    let dst = out.tiles();
    let work = tiles(w, rows);
    cpu.install(|| {
        work.par_iter().with_max_len(1).for_each(|tile| {
            let (first, count) = tile.rows;
            for r in first..first + count {
                // SAFETY: tiles are disjoint rectangles.
                let row = unsafe { dst.row(r, tile.col, tile.cols) };
                match (mode, tile.bias) {
                    (Mode::Store(_), Some(b)) => row.copy_from_slice(b),
                    (Mode::Store(_), None) => row.fill(0.0),
                    (Mode::Add, Some(b)) => row.iter_mut().zip(b).for_each(|(x, b)| *x += b),
                    (Mode::Add, None) => {}
                }
            }
            let at = dst.at(first, tile.col, count, tile.cols);
            // SAFETY: tiles are disjoint rectangles of an initialised matrix.
            unsafe {
                product(&xs[first * k..], tile.weight, k, (count, tile.cols), at, dst.stride(), true);
            }
            if mode == Mode::Store(Activation::Gelu) {
                for r in first..first + count {
                    // SAFETY: as above.
                    let row = unsafe { dst.row(r, tile.col, tile.cols) };
                    cpu.arch().dispatch(Epilogue { row, up: None });
                }
            }
        })
    });
}

thread_local! {
    /// The ungated half of a gated tile.
    static UP: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
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
        work.par_iter().with_max_len(1).for_each(|&((first, count), (col, cols))| {
            UP.with_borrow_mut(|scratch| {
                if scratch.len() < count * cols {
                    scratch.resize(count * cols, 0.0);
                }
                let weights = col * k..(col + cols) * k;
                let at = dst.at(first, col, count, cols);
                let x = &xs[first * k..];
                // SAFETY: tiles are disjoint rectangles, and the scratch is this thread's own.
                unsafe {
                    product(x, &gate[weights.clone()], k, (count, cols), at, dst.stride(), false);
                    product(x, &up[weights], k, (count, cols), scratch.as_mut_ptr(), cols, false);
                }
                for r in 0..count {
                    // SAFETY: as above.
                    let row = unsafe { dst.row(first + r, col, cols) };
                    let up = Some(&scratch[r * cols..(r + 1) * cols]);
                    cpu.arch().dispatch(Epilogue { row, up });
                }
            })
        })
    });
}
