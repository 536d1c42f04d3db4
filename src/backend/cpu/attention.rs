//! Computes softmax attention within each sequence of a packed batch, without the score matrix.
//!
//! The algorithm is the online softmax of FlashAttention (Dao et al. 2022). A task is one head of
//! one sequence, or of a run of queries where the sequence is long. The lanes of a vector are
//! queries: a block of queries, two vectors wide, is combined with one key after the other. Maxima,
//! exponentials and sums are therefore computed per lane, and nothing is ever reduced across lanes
//! or masked. Queries and keys are packed transposed, and rotated in that form. Blocks are counted
//! from the first token of the sequence, so the bits of a sequence do not depend on its position in
//! the batch.

use super::Cpu;
use super::matrix::{Matrix, Tiles};
use super::simd::exp2_nonpositive;
use crate::backend::{AttentionSpec, Position};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;
use std::cell::RefCell;
use std::ops::Range;

/// Keys per softmax block. The scores of a block take 16 KiB of L1.
const KEY_BLOCK: usize = 128;
/// Keys per chain of sums, which bounds the chain's rounding error as in `gemm.rs`.
const CHAIN: usize = 64;
/// Values are padded to a multiple of this many head columns, which is a multiple of the width of
/// every register tile in p·v.
const HEAD_TILE: usize = 8;
/// Number of keys that are packed together, which is a multiple of every key tile.
const PANEL: usize = 64;
/// Queries per task. Long sequences are cut, so that one sequence keeps all cores busy. Every task
/// packs the keys anew, which is a 1/QUERY_RUN share of the work.
const QUERY_RUN: usize = 1024;

/// The cosines and sines of position times frequency, transposed so that vectors run along the
/// positions. Each array is `[head_dim / 2, positions]`.
#[derive(Default)]
pub(super) struct RotaryTable {
    inv_freq: Vec<f32>,
    positions: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl RotaryTable {
    /// Extends the table to `positions` positions if it is shorter. Angles are computed in f64,
    /// because in f32 the product alone would be off by 6e-5 at position 1000.
    fn prepare(&mut self, inv_freq: &[f32], positions: usize) {
        if self.inv_freq == inv_freq && self.positions >= positions {
            return;
        }
        // The table holds whole panels, with capacity for longer sequences.
        let positions = positions.next_power_of_two().max(2 * 64);
        let angles = || {
            inv_freq
                .iter()
                .flat_map(|f| (0..positions).map(|p| p as f64 * *f as f64))
        };
        self.cos = angles().map(|a| a.cos() as f32).collect();
        self.sin = angles().map(|a| a.sin() as f32).collect();
        self.inv_freq = inv_freq.to_vec();
        self.positions = positions;
    }
}

/// The memory of one task, which each worker keeps.
#[derive(Default)]
struct Scratch {
    /// The queries, scaled, rotated and transposed: `[head_dim, stride]`.
    q: Vec<f32>,
    /// The keys, rotated and transposed in panels: `[panels][head_dim][PANEL]`.
    k: Vec<f32>,
    /// The values: `[keys, padded head_dim]`.
    v: Vec<f32>,
    /// The scores: `[KEY_BLOCK, block of queries]`.
    scores: Vec<f32>,
    /// The weighted sums of values: `[padded head_dim, block of queries]`.
    out: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// One head of a sequence, for a run of its queries.
struct Task {
    sequence: Range<usize>,
    queries: Range<usize>,
    head: usize,
}

/// Computes `out[t, h] = softmax(q·kᵀ·scale + position)·v`. `out` has its size already.
pub(super) fn attention(
    cpu: &Cpu,
    table: &mut RotaryTable,
    qkv: &Matrix,
    starts: &[usize],
    spec: &AttentionSpec,
    out: &mut Matrix,
) {
    let width = spec.heads * spec.head_dim;
    assert_eq!(qkv.cols(), 3 * width);
    assert_eq!((out.rows(), out.cols()), (qkv.rows(), width));
    if let Position::Rotary(inv_freq) = &spec.position {
        assert_eq!(inv_freq.len() * 2, spec.head_dim);
        let longest = starts.windows(2).map(|w| w[1] - w[0]).max().unwrap_or(0);
        table.prepare(inv_freq, longest);
    }
    let mut tasks = Vec::new();
    for w in starts.windows(2) {
        let len = w[1] - w[0];
        for head in 0..spec.heads {
            for first in (0..len).step_by(QUERY_RUN) {
                let queries = first..(first + QUERY_RUN).min(len);
                tasks.push(Task {
                    sequence: w[0]..w[1],
                    queries,
                    head,
                });
            }
        }
    }
    // The longest tasks come first, and the short ones fill the gaps at the end.
    tasks.sort_by_key(|t| std::cmp::Reverse(t.queries.len() * t.sequence.len()));
    let dst = out.tiles();
    let table = &*table;
    cpu.install(|| {
        tasks.par_iter().with_max_len(1).for_each(|task| {
            SCRATCH.with_borrow_mut(|scratch| {
                cpu.arch().dispatch(Run {
                    task,
                    qkv: qkv.values(),
                    spec,
                    table,
                    dst,
                    scratch,
                });
            })
        })
    });
}

struct Run<'a> {
    task: &'a Task,
    qkv: &'a [f32],
    spec: &'a AttentionSpec,
    table: &'a RotaryTable,
    dst: Tiles<'a>,
    scratch: &'a mut Scratch,
}

impl WithSimd for Run<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // With 32 vector registers, a tile of 8 keys (or head columns) by 2 vectors of queries
        // fits; with 16 registers, a tile of 4.
        if S::F32_LANES >= 16 {
            self.run::<S, 8>(simd)
        } else {
            self.run::<S, 4>(simd)
        }
    }
}

/// Grows a buffer; its old contents are lost.
fn reserve(v: &mut Vec<f32>, len: usize) {
    if v.len() < len {
        *v = vec![0.0; len];
    }
}

impl Run<'_> {
    #[inline(always)]
    fn run<S: Simd, const TILE: usize>(self, simd: S) {
        let Run {
            task,
            qkv,
            spec,
            table,
            dst,
            scratch,
        } = self;
        let hd = spec.head_dim;
        let width = spec.heads * hd;
        let keys = task.sequence.len();
        let queries = task.queries.len();
        let block = 2 * S::F32_LANES;
        let padded_hd = hd.next_multiple_of(HEAD_TILE);
        let panels = keys.div_ceil(PANEL);
        // The stride is an odd number of cache lines, so that the rows of a block do not all fall
        // into the same cache set.
        let stride = ((queries.next_multiple_of(PANEL) / 16) | 1) * 16;

        let Scratch {
            q,
            k,
            v,
            scores,
            out,
        } = scratch;
        reserve(q, stride * hd);
        reserve(k, panels * PANEL * hd);
        reserve(v, keys * padded_hd);
        reserve(scores, KEY_BLOCK * block);
        reserve(out, padded_hd * block);
        let (scores, out) = (
            &mut scores[..KEY_BLOCK * block],
            &mut out[..padded_hd * block],
        );

        // Returns row `t` of the sequence, from this head's column of q, k or v on.
        let rows = |t: usize, part: usize| {
            &qkv[((task.sequence.start + t) * 3 + part) * width + task.head * hd..]
        };
        let (rotary, slope) = match &spec.position {
            Position::Rotary(_) => (true, None),
            Position::Alibi(slopes) => (false, Some(slopes[task.head])),
        };

        // The scale is applied before the rotation, as in both reference implementations.
        let scale = (hd as f64).powf(-0.5) as f32;
        for at in (0..queries).step_by(PANEL) {
            let count = PANEL.min(queries - at);
            let position = task.queries.start + at;
            transpose(
                rows(position, 0),
                3 * width,
                count,
                hd,
                &mut q[at..],
                stride,
            );
            let angles = rotary.then_some((table, position));
            scale_rotate(simd, &mut q[at..], stride, hd, scale, angles);
        }
        for p in 0..panels {
            let count = PANEL.min(keys - p * PANEL);
            let to = &mut k[p * PANEL * hd..(p + 1) * PANEL * hd];
            transpose(rows(p * PANEL, 1), 3 * width, count, hd, to, PANEL);
            if rotary {
                scale_rotate(simd, to, PANEL, hd, 1.0, Some((table, p * PANEL)));
            }
        }
        for t in 0..keys {
            let (to, pad) = v[t * padded_hd..(t + 1) * padded_hd].split_at_mut(hd);
            to.copy_from_slice(&rows(t, 2)[..hd]);
            pad.fill(0.0);
        }

        let log2e = simd.splat_f32s(std::f32::consts::LOG2_E);
        for first in (0..queries).step_by(block) {
            out.fill(0.0);
            let mut top = [simd.splat_f32s(f32::NEG_INFINITY); 2];
            let mut sum = [simd.splat_f32s(0.0); 2];
            let bias = slope.map(|slope| Bias::<S>::new(simd, slope, task.queries.start + first));
            for start in (0..keys).step_by(KEY_BLOCK) {
                let count = KEY_BLOCK.min(keys - start);
                let mut new = top;
                for at in (0..count).step_by(TILE) {
                    let key = start + at;
                    let k = &k[key / PANEL * PANEL * hd + key % PANEL..];
                    let scores = &mut scores[at * block..];
                    let valid = TILE.min(count - at);
                    let tile = ScoreTile {
                        q: &q[first..],
                        stride,
                        k,
                        hd,
                        valid,
                        bias,
                        key,
                    };
                    tile.compute::<TILE>(simd, scores, &mut new);
                }
                let mut minus_top = [simd.splat_f32s(0.0); 2];
                for n in 0..2 {
                    minus_top[n] = simd.neg_f32s(simd.mul_f32s(new[n], log2e));
                    if start > 0 {
                        let gap = simd.mul_f32s(simd.sub_f32s(top[n], new[n]), log2e);
                        let shrink = exp2_nonpositive(simd, gap);
                        sum[n] = simd.mul_f32s(sum[n], shrink);
                        let (out, _) = S::as_mut_simd_f32s(out);
                        for d in 0..padded_hd {
                            out[2 * d + n] = simd.mul_f32s(out[2 * d + n], shrink);
                        }
                    }
                }
                top = new;
                // e^(x - top) is computed as 2^(x·log2 e - top·log2 e), with one fused operation.
                // The rounding error of top·log2 e is the same for all keys, so the division by the
                // sum removes it.
                for run in (0..count).step_by(CHAIN) {
                    let keys = CHAIN.min(count - run);
                    let scores = &mut scores[run * block..(run + keys) * block];
                    let (ps, _) = S::as_mut_simd_f32s(&mut *scores);
                    let mut part = [simd.splat_f32s(0.0); 2];
                    for ps in ps.chunks_exact_mut(2) {
                        for n in 0..2 {
                            let x = simd.mul_add_e_f32s(ps[n], log2e, minus_top[n]);
                            ps[n] = exp2_nonpositive(simd, x);
                            part[n] = simd.add_f32s(part[n], ps[n]);
                        }
                    }
                    for n in 0..2 {
                        sum[n] = simd.add_f32s(sum[n], part[n]);
                    }
                    for at in (0..padded_hd).step_by(TILE) {
                        let v = &v[(start + run) * padded_hd + at..];
                        let out = &mut out[at * block..];
                        weigh_tile::<S, TILE>(simd, scores, v, keys, padded_hd, out);
                    }
                }
            }
            for n in 0..2 {
                // An overflowed score must not pass as a number: inf - inf is NaN.
                sum[n] = simd.add_f32s(sum[n], simd.sub_f32s(top[n], top[n]));
            }
            let (vectors, _) = S::as_mut_simd_f32s(out);
            for x in vectors.chunks_exact_mut(2) {
                x[0] = simd.div_f32s(x[0], sum[0]);
                x[1] = simd.div_f32s(x[1], sum[1]);
            }
            for i in 0..block.min(queries - first) {
                let t = task.sequence.start + task.queries.start + first + i;
                // SAFETY: the columns of one head in a row belong to one task alone.
                let to = unsafe { dst.row(t, task.head * hd, hd) };
                for (d, to) in to.iter_mut().enumerate() {
                    *to = out[d * block + i];
                }
            }
        }
    }
}

/// Computes `to[d, j] = from[j, d]` for `count` rows of `hd` values. Strides are in floats.
#[inline(always)]
fn transpose(
    from: &[f32],
    from_stride: usize,
    count: usize,
    hd: usize,
    to: &mut [f32],
    to_stride: usize,
) {
    const B: usize = 8;
    let mut j = 0;
    while j + B <= count && hd.is_multiple_of(B) {
        for d in (0..hd).step_by(B) {
            let mut block = [[0f32; B]; B];
            for (r, block) in block.iter_mut().enumerate() {
                let at = (j + r) * from_stride + d;
                block.copy_from_slice(&from[at..at + B]);
            }
            for c in 0..B {
                let at = (d + c) * to_stride + j;
                to[at..at + B].copy_from_slice(&block.map(|row| row[c]));
            }
        }
        j += B;
    }
    for j in j..count {
        for d in 0..hd {
            to[d * to_stride + j] = from[j * from_stride + d];
        }
    }
}

/// Scales [`PANEL`] transposed tokens, and rotates them as the tokens from the given position on.
/// The first half of the head is paired with the second half (rotate-half).
#[inline(always)]
fn scale_rotate<S: Simd>(
    simd: S,
    x: &mut [f32],
    stride: usize,
    hd: usize,
    scale: f32,
    rotary: Option<(&RotaryTable, usize)>,
) {
    let by = simd.splat_f32s(scale);
    let Some((table, position)) = rotary else {
        for d in 0..hd {
            let (body, _) = S::as_mut_simd_f32s(&mut x[d * stride..d * stride + PANEL]);
            for v in body {
                *v = simd.mul_f32s(*v, by);
            }
        }
        return;
    };
    let half = hd / 2;
    for i in 0..half {
        let (low, high) = x.split_at_mut((half + i) * stride);
        let (low, _) = S::as_mut_simd_f32s(&mut low[i * stride..i * stride + PANEL]);
        let (high, _) = S::as_mut_simd_f32s(&mut high[..PANEL]);
        let at = i * table.positions + position;
        let (cos, _) = S::as_simd_f32s(&table.cos[at..at + PANEL]);
        let (sin, _) = S::as_simd_f32s(&table.sin[at..at + PANEL]);
        for n in 0..low.len() {
            let (a, b) = (simd.mul_f32s(low[n], by), simd.mul_f32s(high[n], by));
            let minus_b = simd.neg_f32s(b);
            low[n] = simd.mul_add_e_f32s(a, cos[n], simd.mul_f32s(minus_b, sin[n]));
            high[n] = simd.mul_add_e_f32s(b, cos[n], simd.mul_f32s(a, sin[n]));
        }
    }
}

/// Loads the vector that starts at `at`.
///
/// # Safety
/// `at` must be valid for reads of one vector.
#[inline(always)]
unsafe fn load<S: Simd>(at: *const f32) -> S::f32s {
    // SAFETY: the caller promises that the read is valid. Vectors are plain data, and the read may
    // be unaligned.
    unsafe { at.cast::<S::f32s>().read_unaligned() }
}

/// The ALiBi term for a block of queries: `-slope·|query - key|`.
#[derive(Clone, Copy)]
struct Bias<S: Simd> {
    minus_slope: S::f32s,
    /// The positions of the queries.
    positions: [S::f32s; 2],
}

impl<S: Simd> Bias<S> {
    #[inline(always)]
    fn new(simd: S, slope: f32, first: usize) -> Self {
        let positions: [f32; 128] = std::array::from_fn(|i| (first + i) as f32);
        let (vectors, _) = S::as_simd_f32s(&positions);
        Self {
            minus_slope: simd.splat_f32s(-slope),
            positions: [vectors[0], vectors[1]],
        }
    }

    #[inline(always)]
    fn add(&self, simd: S, x: S::f32s, n: usize, key: usize) -> S::f32s {
        let gap = simd.sub_f32s(self.positions[n], simd.splat_f32s(key as f32));
        simd.mul_add_e_f32s(self.minus_slope, simd.abs_f32s(gap), x)
    }
}

/// A block of queries and a tile of NK keys.
struct ScoreTile<'a, S: Simd> {
    /// The transposed queries from the block's first query on, with rows `stride` floats apart.
    q: &'a [f32],
    stride: usize,
    /// The transposed keys from the tile's first key on, with rows [`PANEL`] floats apart.
    k: &'a [f32],
    hd: usize,
    /// The number of keys of the tile that exist.
    valid: usize,
    bias: Option<Bias<S>>,
    /// The position of the tile's first key.
    key: usize,
}

impl<S: Simd> ScoreTile<'_, S> {
    /// Writes `scores[j, 0..block] = q·k[j] + bias` for the valid keys, and includes them in the
    /// maxima in `top`.
    #[inline(always)]
    fn compute<const NK: usize>(&self, simd: S, scores: &mut [f32], top: &mut [S::f32s; 2]) {
        let lanes = S::F32_LANES;
        let &Self {
            q,
            stride,
            k,
            hd,
            valid,
            bias,
            key,
        } = self;
        assert!(
            hd > 0 && q.len() >= (hd - 1) * stride + 2 * lanes && k.len() >= (hd - 1) * PANEL + NK
        );
        let mut acc = [[simd.splat_f32s(0.0); 2]; NK];
        for d in 0..hd {
            // SAFETY: d < hd, so all reads lie inside `q` and `k` by the assertion.
            unsafe {
                let at = q.as_ptr().add(d * stride);
                let (q0, q1) = (load::<S>(at), load::<S>(at.add(lanes)));
                for (j, acc) in acc.iter_mut().enumerate() {
                    let x = simd.splat_f32s(*k.get_unchecked(d * PANEL + j));
                    acc[0] = simd.mul_add_e_f32s(x, q0, acc[0]);
                    acc[1] = simd.mul_add_e_f32s(x, q1, acc[1]);
                }
            }
        }
        let (scores, _) = S::as_mut_simd_f32s(scores);
        for (j, acc) in acc.iter().enumerate() {
            if j < valid {
                for n in 0..2 {
                    let x = match &bias {
                        Some(bias) => bias.add(simd, acc[n], n, key + j),
                        None => acc[n],
                    };
                    top[n] = simd.max_f32s(top[n], x);
                    scores[2 * j + n] = x;
                }
            }
        }
    }
}

/// Adds `out[d, ..] += sum_j v[j, d]·p[j, ..]` for ND columns of the head. `p` is `[keys, block]`;
/// `v` starts at the tile's first column and has rows of `stride` floats.
#[inline(always)]
fn weigh_tile<S: Simd, const ND: usize>(
    simd: S,
    p: &[f32],
    v: &[f32],
    keys: usize,
    stride: usize,
    out: &mut [f32],
) {
    let lanes = S::F32_LANES;
    assert!(keys > 0 && p.len() >= keys * 2 * lanes);
    assert!(v.len() >= (keys - 1) * stride + ND && out.len() >= ND * 2 * lanes);
    let mut acc = [[simd.splat_f32s(0.0); 2]; ND];
    for j in 0..keys {
        // SAFETY: j < keys, so all reads lie inside `p` and `v` by the assertions.
        unsafe {
            let at = p.as_ptr().add(j * 2 * lanes);
            let (p0, p1) = (load::<S>(at), load::<S>(at.add(lanes)));
            for (d, acc) in acc.iter_mut().enumerate() {
                let x = simd.splat_f32s(*v.get_unchecked(j * stride + d));
                acc[0] = simd.mul_add_e_f32s(x, p0, acc[0]);
                acc[1] = simd.mul_add_e_f32s(x, p1, acc[1]);
            }
        }
    }
    let (out, _) = S::as_mut_simd_f32s(out);
    for (d, acc) in acc.iter().enumerate() {
        for n in 0..2 {
            out[2 * d + n] = simd.add_f32s(out[2 * d + n], acc[n]);
        }
    }
}
