//! Softmax attention within each sequence of a packed batch, without the score matrix.
//!
//! The online softmax of FlashAttention (Dao et al. 2022): keys are taken in blocks of
//! [`KEY_BLOCK`], and for [`QUERY_ROWS`] queries at a time only one block's scores stand in L1.
//! A task is one head of one sequence (of a run of queries, where the sequence is long). Keys are
//! packed transposed, so that vectors run along the keys in q·kᵀ; values as they are, so that
//! vectors run along the head in p·v. Blocks are counted from the sequence's first token, so a
//! sequence's bits do not depend on where in the batch it stands.

use super::Cpu;
use super::matrix::{Matrix, Tiles};
use super::simd::exp2_nonpositive;
use crate::backend::{AttentionSpec, Position};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;
use std::cell::RefCell;
use std::ops::Range;

/// Keys of one softmax block: with 12 queries the scores take 24 KiB of L1.
const KEY_BLOCK: usize = 512;
/// Distance of two rows of scores: an odd number of cache lines, since rows a multiple of 2 KiB
/// apart share cache sets, and a store to one delays loads from the others.
const SCORE_STRIDE: usize = KEY_BLOCK + 16;
/// Keys of one chain of sums in p·v; shorter chains round less, as in `gemm.rs`.
const SUM_BLOCK: usize = 128;
/// Queries that share a pass over the keys: two register tiles of 6, or one of 12.
const QUERY_ROWS: usize = 12;
/// Queries of a task: long sequences are cut, so that one keeps all cores busy, at the price of
/// packing the keys once more a task (a 1/QUERY_RUN share of the work).
const QUERY_RUN: usize = 1024;

/// cos and sin of position times frequency, transposed so that vectors run along the positions:
/// [head_dim / 2, stride] each, of which `positions` columns are in use.
#[derive(Default)]
pub(super) struct RotaryTable {
    inv_freq: Vec<f32>,
    positions: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl RotaryTable {
    /// Makes the table reach `positions`. Angles are taken in f64: in f32 the product alone would
    /// be off by 6e-5 at position 1000.
    fn prepare(&mut self, inv_freq: &[f32], positions: usize) {
        if self.inv_freq == inv_freq && self.positions >= positions {
            return;
        }
        // Whole panels, with room to grow.
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

/// One task's memory, kept by each worker.
#[derive(Default)]
struct Scratch {
    /// Queries, scaled and rotated, transposed: [head_dim, stride].
    q: Vec<f32>,
    /// Keys, rotated, transposed in panels: [panels][head_dim][panel].
    k: Vec<f32>,
    /// Values, padded to whole vectors: [keys, padded head_dim].
    v: Vec<f32>,
    /// [QUERY_ROWS, SCORE_STRIDE]
    scores: Vec<f32>,
    /// [QUERY_ROWS, padded head_dim]
    out: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// A head of a sequence, for a run of its queries.
struct Task {
    sequence: Range<usize>,
    queries: Range<usize>,
    head: usize,
}

/// `out[t, h] = softmax(q·kᵀ·scale + position)·v`; `out` has its size already.
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
    // Longest first: the short ones fill the gaps at the end.
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
        // 32 vector registers hold a tile of 6 x 4 vectors, 16 hold one of 6 x 2.
        if S::F32_LANES >= 16 {
            self.run::<S, 4>(simd)
        } else {
            self.run::<S, 2>(simd)
        }
    }
}

/// Grows a buffer; what it held is lost.
fn reserve(v: &mut Vec<f32>, len: usize) {
    if v.len() < len {
        *v = vec![0.0; len];
    }
}

impl Run<'_> {
    #[inline(always)]
    fn run<S: Simd, const NV: usize>(self, simd: S) {
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
        let panel = NV * S::F32_LANES;
        let padded_hd = hd.next_multiple_of(S::F32_LANES);
        let panels = keys.div_ceil(panel);
        // Whole panels and one block of queries more; an odd number of cache lines, so that the
        // rows of a block do not all fall into the same cache set.
        let stride = ((queries + QUERY_ROWS).next_multiple_of(panel) / 16 | 1) * 16;

        let Scratch {
            q,
            k,
            v,
            scores,
            out,
        } = scratch;
        reserve(q, stride * hd);
        reserve(k, panels * panel * hd);
        reserve(v, keys * padded_hd);
        reserve(scores, QUERY_ROWS * SCORE_STRIDE);
        reserve(out, QUERY_ROWS * padded_hd);

        // Rows of the sequence, from column `head` of q, k or v on.
        let rows = |t: usize, part: usize| {
            &qkv[((task.sequence.start + t) * 3 + part) * width + task.head * hd..]
        };
        let rotary = matches!(spec.position, Position::Rotary(_));
        let slope = match &spec.position {
            Position::Alibi(slopes) => Some(slopes[task.head]),
            Position::Rotary(_) => None,
        };

        // The scale comes before the rotation, as in both references.
        let scale = (hd as f64).powf(-0.5) as f32;
        for at in (0..queries).step_by(panel) {
            let count = panel.min(queries - at);
            transpose(
                rows(task.queries.start + at, 0),
                3 * width,
                count,
                hd,
                &mut q[at..],
                stride,
            );
            scale_rotate(
                simd,
                &mut q[at..],
                stride,
                hd,
                panel,
                scale,
                rotary.then_some((table, task.queries.start + at)),
            );
        }
        for p in 0..panels {
            let count = panel.min(keys - p * panel);
            let to = &mut k[p * panel * hd..(p + 1) * panel * hd];
            transpose(rows(p * panel, 1), 3 * width, count, hd, to, panel);
            if count < panel {
                for row in to.chunks_exact_mut(panel) {
                    row[count..].fill(0.0);
                }
            }
            if rotary {
                scale_rotate(simd, to, panel, hd, panel, 1.0, Some((table, p * panel)));
            }
        }
        for t in 0..keys {
            let (to, _) = S::as_mut_simd_f32s(&mut v[t * padded_hd..(t + 1) * padded_hd]);
            let (from, rest) = S::as_simd_f32s(&rows(t, 2)[..hd]);
            for (to, from) in to.iter_mut().zip(from) {
                *to = *from;
            }
            if !rest.is_empty() {
                to[from.len()] = simd.partial_load_f32s(rest);
            }
        }

        for first in (0..queries).step_by(QUERY_ROWS) {
            let out = &mut out[..QUERY_ROWS * padded_hd];
            out.fill(0.0);
            let mut highest = [f32::NEG_INFINITY; QUERY_ROWS];
            let mut sum = [0f32; QUERY_ROWS];
            for start in (0..keys).step_by(KEY_BLOCK) {
                let count = KEY_BLOCK.min(keys - start);
                for at in (0..count).step_by(panel) {
                    let from = (start + at) * hd;
                    let k = &k[from..from + panel * hd];
                    for half in [0, 6] {
                        let scores = &mut scores[half * SCORE_STRIDE + at..];
                        scores_tile::<S, 6, NV>(simd, &q[first + half..], stride, k, hd, scores);
                    }
                }
                for i in 0..QUERY_ROWS {
                    let whole = count.next_multiple_of(S::F32_LANES);
                    let row = &mut scores[i * SCORE_STRIDE..][..whole];
                    row[count..].fill(f32::NEG_INFINITY);
                    if let Some(slope) = slope {
                        let position = task.queries.start + first + i;
                        alibi(simd, row, slope, position as f32 - start as f32);
                    }
                    let top = max(simd, row);
                    if top > highest[i] {
                        if start > 0 {
                            let shrink = (highest[i] - top).exp();
                            sum[i] *= shrink;
                            for x in &mut out[i * padded_hd..(i + 1) * padded_hd] {
                                *x *= shrink;
                            }
                        }
                        highest[i] = top;
                    }
                    sum[i] += exp_sum(simd, row, highest[i]);
                }
                for at in (0..count).step_by(SUM_BLOCK) {
                    let v = &v[(start + at) * padded_hd..];
                    let keys = SUM_BLOCK.min(count - at);
                    weigh::<S, NV>(simd, &scores[at..], v, keys, padded_hd, out);
                }
            }
            for i in 0..QUERY_ROWS.min(queries - first) {
                let t = task.sequence.start + task.queries.start + first + i;
                // SAFETY: a row of a head belongs to one task alone.
                let to = unsafe { dst.row(t, task.head * hd, hd) };
                // An overflowed score must not pass as a number.
                let inverse = if highest[i].is_finite() {
                    1.0 / sum[i]
                } else {
                    f32::NAN
                };
                for (to, x) in to.iter_mut().zip(&out[i * padded_hd..]) {
                    *to = x * inverse;
                }
            }
        }
    }
}

/// `to[d, j] = from[j, d]` for `count` rows of `hd` values; the rows' strides are in floats.
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
                let mut column = [0f32; B];
                for r in 0..B {
                    column[r] = block[r][c];
                }
                to[at..at + B].copy_from_slice(&column);
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

/// Scales `panel` transposed tokens and rotates them, the first half of the head paired with the
/// second (rotate-half), as tokens from the given position on.
#[inline(always)]
fn scale_rotate<S: Simd>(
    simd: S,
    x: &mut [f32],
    stride: usize,
    hd: usize,
    panel: usize,
    scale: f32,
    rotary: Option<(&RotaryTable, usize)>,
) {
    let by = simd.splat_f32s(scale);
    let Some((table, position)) = rotary else {
        for d in 0..hd {
            let (body, _) = S::as_mut_simd_f32s(&mut x[d * stride..d * stride + panel]);
            for v in body {
                *v = simd.mul_f32s(*v, by);
            }
        }
        return;
    };
    let half = hd / 2;
    for i in 0..half {
        let (low, high) = x.split_at_mut((half + i) * stride);
        let (low, _) = S::as_mut_simd_f32s(&mut low[i * stride..i * stride + panel]);
        let (high, _) = S::as_mut_simd_f32s(&mut high[..panel]);
        let at = i * table.positions + position;
        let (cos, _) = S::as_simd_f32s(&table.cos[at..at + panel]);
        let (sin, _) = S::as_simd_f32s(&table.sin[at..at + panel]);
        for n in 0..low.len() {
            let (a, b) = (simd.mul_f32s(low[n], by), simd.mul_f32s(high[n], by));
            let minus_b = simd.neg_f32s(b);
            low[n] = simd.mul_add_e_f32s(a, cos[n], simd.mul_f32s(minus_b, sin[n]));
            high[n] = simd.mul_add_e_f32s(b, cos[n], simd.mul_f32s(a, sin[n]));
        }
    }
}

/// The vector that starts at `at`.
///
/// # Safety
/// `at` must be valid for reads of one vector.
#[inline(always)]
unsafe fn load<S: Simd>(at: *const f32) -> S::f32s {
    // SAFETY: the caller's promise; vectors are plain data and the read is unaligned.
    unsafe { at.cast::<S::f32s>().read_unaligned() }
}

/// scores[i, 0..panel] = q[.., i]·k, for M queries and a panel of NV vectors of keys, in registers.
/// Rows of `scores` are [`SCORE_STRIDE`] apart.
#[inline(always)]
fn scores_tile<S: Simd, const M: usize, const NV: usize>(
    simd: S,
    q: &[f32],
    q_stride: usize,
    k: &[f32],
    hd: usize,
    scores: &mut [f32],
) {
    let lanes = S::F32_LANES;
    assert!(hd > 0 && q.len() >= (hd - 1) * q_stride + M && k.len() >= NV * lanes * hd);
    assert!(scores.len() >= (M - 1) * SCORE_STRIDE + NV * lanes);
    let mut acc = [[simd.splat_f32s(0.0); NV]; M];
    for d in 0..hd {
        // SAFETY: d < hd, so all reads lie inside `q` and `k` by the assertions.
        unsafe {
            let at = k.as_ptr().add(d * NV * lanes);
            let mut keys = [simd.splat_f32s(0.0); NV];
            for (n, key) in keys.iter_mut().enumerate() {
                *key = load::<S>(at.add(n * lanes));
            }
            for (i, acc) in acc.iter_mut().enumerate() {
                let x = simd.splat_f32s(*q.get_unchecked(d * q_stride + i));
                for n in 0..NV {
                    acc[n] = simd.mul_add_e_f32s(x, keys[n], acc[n]);
                }
            }
        }
    }
    for (i, acc) in acc.iter().enumerate() {
        for (n, x) in acc.iter().enumerate() {
            // SAFETY: inside `scores` by the assertion.
            unsafe {
                let at = scores.as_mut_ptr().add(i * SCORE_STRIDE + n * lanes);
                at.cast::<S::f32s>().write_unaligned(*x);
            }
        }
    }
}

/// row[j] -= slope·|distance - j|; whole vectors.
#[inline(always)]
fn alibi<S: Simd>(simd: S, row: &mut [f32], slope: f32, distance: f32) {
    let slope = simd.splat_f32s(-slope);
    let mut iota = [0f32; 64];
    for (j, x) in iota.iter_mut().enumerate() {
        *x = j as f32;
    }
    // SAFETY: no vector has more than 64 lanes.
    let iota = unsafe { load::<S>(iota.as_ptr()) };
    let mut gap = simd.sub_f32s(iota, simd.splat_f32s(distance));
    let step = simd.splat_f32s(S::F32_LANES as f32);
    let (body, _) = S::as_mut_simd_f32s(row);
    for x in body {
        *x = simd.mul_add_e_f32s(slope, simd.abs_f32s(gap), *x);
        gap = simd.add_f32s(gap, step);
    }
}

/// The largest of a row of whole vectors. A NaN need not show here: it shows in the sum.
#[inline(always)]
fn max<S: Simd>(simd: S, row: &[f32]) -> f32 {
    let (body, _) = S::as_simd_f32s(row);
    // Four chains, since one would wait for each comparison's latency.
    let mut top = [simd.splat_f32s(f32::NEG_INFINITY); 4];
    let fours = body.chunks_exact(4);
    for x in fours.remainder() {
        top[0] = simd.max_f32s(top[0], *x);
    }
    for x in fours {
        for n in 0..4 {
            top[n] = simd.max_f32s(top[n], x[n]);
        }
    }
    let top = simd.max_f32s(simd.max_f32s(top[0], top[1]), simd.max_f32s(top[2], top[3]));
    simd.reduce_max_f32s(top)
}

/// row = e^(row - top), and its sum; whole vectors.
///
/// As 2^(row·log2 e - top·log2 e): one fused step, and the rounding of the second product is the
/// same for the whole row, so that it leaves with the normalisation.
#[inline(always)]
fn exp_sum<S: Simd>(simd: S, row: &mut [f32], top: f32) -> f32 {
    let log2e = simd.splat_f32s(std::f32::consts::LOG2_E);
    let minus_top = simd.splat_f32s(-top * std::f32::consts::LOG2_E);
    let mut sum = simd.splat_f32s(0.0);
    let (body, _) = S::as_mut_simd_f32s(row);
    for x in body {
        *x = exp2_nonpositive(simd, simd.mul_add_e_f32s(*x, log2e, minus_top));
        sum = simd.add_f32s(sum, *x);
    }
    simd.reduce_sum_f32s(sum)
}

/// out[i] += sum_j scores[i, j]·v[j], in register tiles as large as the head allows.
#[inline(always)]
fn weigh<S: Simd, const NV: usize>(
    simd: S,
    scores: &[f32],
    v: &[f32],
    keys: usize,
    padded_hd: usize,
    out: &mut [f32],
) {
    let lanes = S::F32_LANES;
    let vectors = padded_hd / lanes;
    let mut n = 0;
    while n < vectors {
        let at = n * lanes;
        if vectors - n >= NV {
            for half in 0..2 {
                weigh_tile::<S, 6, NV>(
                    simd,
                    &scores[half * 6 * SCORE_STRIDE..],
                    v,
                    keys,
                    padded_hd,
                    &mut out[half * 6 * padded_hd + at..],
                    at,
                );
            }
            n += NV;
        } else if vectors - n >= 2 {
            for half in 0..2 {
                weigh_tile::<S, 6, 2>(
                    simd,
                    &scores[half * 6 * SCORE_STRIDE..],
                    v,
                    keys,
                    padded_hd,
                    &mut out[half * 6 * padded_hd + at..],
                    at,
                );
            }
            n += 2;
        } else {
            weigh_tile::<S, 12, 1>(simd, scores, v, keys, padded_hd, &mut out[at..], at);
            n += 1;
        }
    }
}

/// M rows by NV vectors of `weigh`, starting at column `at` of the values.
#[inline(always)]
fn weigh_tile<S: Simd, const M: usize, const NV: usize>(
    simd: S,
    scores: &[f32],
    v: &[f32],
    keys: usize,
    padded_hd: usize,
    out: &mut [f32],
    at: usize,
) {
    let lanes = S::F32_LANES;
    assert!(keys <= KEY_BLOCK && scores.len() >= (M - 1) * SCORE_STRIDE + keys);
    assert!(v.len() >= keys * padded_hd && at + NV * lanes <= padded_hd);
    assert!(out.len() >= (M - 1) * padded_hd + NV * lanes);
    let mut acc = [[simd.splat_f32s(0.0); NV]; M];
    // SAFETY: all indices lie inside the slices by the assertions.
    unsafe {
        for j in 0..keys {
            let from = v.as_ptr().add(j * padded_hd + at);
            let mut values = [simd.splat_f32s(0.0); NV];
            for (n, value) in values.iter_mut().enumerate() {
                *value = load::<S>(from.add(n * lanes));
            }
            for (i, acc) in acc.iter_mut().enumerate() {
                let p = simd.splat_f32s(*scores.get_unchecked(i * SCORE_STRIDE + j));
                for n in 0..NV {
                    acc[n] = simd.mul_add_e_f32s(p, values[n], acc[n]);
                }
            }
        }
        for (i, acc) in acc.iter().enumerate() {
            for (n, acc) in acc.iter().enumerate() {
                let at = out.as_mut_ptr().add(i * padded_hd + n * lanes);
                let sum = simd.add_f32s(load::<S>(at), *acc);
                at.cast::<S::f32s>().write_unaligned(sum);
            }
        }
    }
}
