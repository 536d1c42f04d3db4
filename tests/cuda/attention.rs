//! The attention kernels compared with f64: every head width and awkward lengths; and a sequence
//! has the same bits alone and in every batch. `-- --nocapture` prints the errors.

use crate::cases::attention::{Attention, HEAD_DIMS, tolerance};
use crate::support::cuda;
use crate::support::cuda::gpu::{Gpu, gpu, seeds};
use crate::support::cuda::numbers::{
    DTYPES, Random, bytes, epsilon, error, rounded, same_on_the_whole, values,
};
use seqstream::backend::cuda::attention::{AttentionKernel, AttentionKernels, WorkList};
use seqstream::backend::cuda::params::{AttentionItem, AttentionParams, RotaryTableParams};
use seqstream::dtype::DType;
use std::ops::Range;

const HEADS: usize = 2;

/// A packed batch of one attention.
#[derive(Clone)]
struct Case {
    head_dim: usize,
    dtype: DType,
    rotary: bool,
    lengths: Vec<usize>,
    /// q, k and v, shape `[tokens, 3·heads·head_dim]`, rounded to `dtype`.
    qkv: Vec<f32>,
}

/// The implementation that computes.
#[derive(Debug, Clone, Copy)]
enum By {
    Reference,
    /// The kernels for a device of this compute capability.
    Kernels((u32, u32)),
}

/// Returns the kernels that this device can run for heads of this width: the kernels of sm_80, and
/// the device's own kernels if they differ.
fn kinds(gpu: &Gpu, head_dim: usize) -> Vec<By> {
    let (all, own) = ((8, 0), gpu.context.info().unwrap().capability);
    let kernels = |capability| AttentionKernels::new(head_dim, DType::F16, true, capability);
    if kernels(own) == kernels(all) {
        vec![By::Kernels(all)]
    } else {
        vec![By::Kernels(all), By::Kernels(own)]
    }
}

fn starts(lengths: &[usize]) -> Vec<usize> {
    Attention::new(HEADS, 64, DType::F16, true, lengths, 0).starts()
}

impl Case {
    /// Makes a case whose scores have a deviation of about 2, so that attention prefers some keys.
    fn new(head_dim: usize, dtype: DType, rotary: bool, lengths: &[usize], seed: u64) -> Self {
        Self::of_size(1.4, head_dim, dtype, rotary, lengths, seed)
    }

    /// Makes a case whose q, k and v have this deviation; the deviation of the scores is its
    /// square.
    fn of_size(
        size: f64,
        head_dim: usize,
        dtype: DType,
        rotary: bool,
        lengths: &[usize],
        seed: u64,
    ) -> Self {
        let tokens: usize = lengths.iter().sum();
        let qkv = Random(seed).normal(tokens * 3 * HEADS * head_dim, size);
        Self {
            head_dim,
            dtype,
            rotary,
            lengths: lengths.to_vec(),
            qkv: rounded(&qkv, dtype),
        }
    }

    fn width(&self) -> usize {
        HEADS * self.head_dim
    }

    /// Returns the batch of some of these sequences, in any order.
    fn of(&self, sequences: &[usize]) -> Self {
        let at = starts(&self.lengths);
        let row = 3 * self.width();
        let rows = |s: &usize| self.qkv[at[*s] * row..at[*s + 1] * row].to_vec();
        Self {
            lengths: sequences.iter().map(|s| self.lengths[*s]).collect(),
            qkv: sequences.iter().flat_map(rows).collect(),
            ..self.clone()
        }
    }

    /// Returns the bytes of `out`, sequence by sequence.
    fn run(&self, gpu: &Gpu, by: By) -> Vec<Vec<u8>> {
        self.run_some(gpu, by, |_| {})
    }

    /// Like `run`, with only a part of the kernels' work list; the rest of `out` is poison.
    fn run_some(&self, gpu: &Gpu, by: By, pick: impl Fn(&mut WorkList)) -> Vec<Vec<u8>> {
        let starts = starts(&self.lengths);
        let tokens = starts[self.lengths.len()];
        let qkv = gpu.upload(&bytes(&self.qkv, self.dtype));
        let out = gpu.poisoned(tokens * self.width() * self.dtype.size());
        let table = self.rotary.then(|| self.table(gpu));
        let slopes = gpu.upload(&bytes(&self.shape().slopes(), DType::F32));
        let mut params = AttentionParams {
            qkv: qkv.address(),
            out: out.address(),
            rotary: table.as_ref().map_or(0, |t| t.address()),
            slopes: if self.rotary { 0 } else { slopes.address() },
            heads: HEADS as u32,
            head_dim: self.head_dim as u32,
            scale: (self.head_dim as f64).powf(-0.5) as f32,
            ..AttentionParams::default()
        };
        let By::Kernels(capability) = by else {
            // Items are whole sequences, since the reference takes any number of rows.
            let item = |s: &usize| [starts[*s], self.lengths[*s], 0, self.lengths[*s]];
            let some: Vec<usize> = (0..self.lengths.len())
                .filter(|s| self.lengths[*s] > 0)
                .collect();
            let list: Vec<u8> = some
                .iter()
                .flat_map(item)
                .flat_map(|n| (n as u32).to_ne_bytes())
                .collect();
            let items = gpu.upload(&list);
            params.items = items.address();
            let name = format!("attention_{}_reference", self.dtype.name());
            let function = gpu.function("attention_reference", &name, 0);
            gpu.launch(&function, HEADS * some.len(), 128, 0, &params);
            gpu.stream.synchronize().unwrap();
            return self.sequences(&gpu.download(&out));
        };
        let kernels =
            AttentionKernels::new(self.head_dim, self.dtype, self.rotary, capability).unwrap();
        let mut work = kernels.work(&starts);
        pick(&mut work);
        let (items, slots) = (
            gpu.upload(&work.item_bytes()),
            gpu.upload(&work.slot_bytes()),
        );
        let lists = work.counts().lists(items.address(), slots.address());
        for (kernel, (address, count)) in kernels.launches().into_iter().zip(lists) {
            let Some(kernel) = kernel.filter(|_| count > 0) else {
                continue;
            };
            params.items = address;
            params.count = count;
            let function = gpu.function(&kernel.source, &kernel.name, kernel.shared);
            // The grid is for three multiprocessors, so that persistent blocks take several items.
            let blocks = kernel.blocks(params.heads, params.count, 3) as usize;
            let (threads, shared) = (kernel.threads, kernel.shared);
            if let Some(tile) = &kernel.tensor {
                let params =
                    AttentionKernel::tensor_params(tile, params, tokens, self.dtype).unwrap();
                gpu.launch(&function, blocks, threads, shared, &params);
            } else {
                gpu.launch(&function, blocks, threads, shared, &params);
            }
        }
        gpu.stream.synchronize().unwrap();
        self.sequences(&gpu.download(&out))
    }

    fn sequences(&self, all: &[u8]) -> Vec<Vec<u8>> {
        let row = self.width() * self.dtype.size();
        let sequence = |pair: &[usize]| all[pair[0] * row..pair[1] * row].to_vec();
        starts(&self.lengths).windows(2).map(sequence).collect()
    }

    fn table(&self, gpu: &Gpu) -> seqstream::gpu::driver::Region {
        let inv_freq = gpu.upload(&bytes(&self.shape().inv_freq(), DType::F32));
        let positions = self.lengths.iter().copied().max().unwrap_or(0).max(1);
        let table = gpu.poisoned(positions * self.head_dim / 2 * 8);
        let params = RotaryTableParams {
            inv_freq: inv_freq.address(),
            table: table.address(),
            positions: positions as u32,
            half: self.head_dim as u32 / 2,
        };
        let function = gpu.function("rotary_table", "rotary_table", 0);
        gpu.launch(&function, 3, 256, 0, &params);
        gpu.stream.synchronize().unwrap();
        table
    }

    /// Rounds a number to the dtype, as the kernels store rotated q and k. If a test is about the
    /// softmax alone, its f64 computation uses the same rounded numbers.
    fn held(&self, x: f64) -> f64 {
        f64::from(rounded(&[x as f32], self.dtype)[0])
    }

    /// Returns the largest score, without the position term.
    fn largest_score(&self) -> f64 {
        let (hd, row) = (self.head_dim, 3 * self.width());
        let starts = starts(&self.lengths);
        let mut largest = f64::NEG_INFINITY;
        for sequence in starts.windows(2) {
            for (i, j) in (sequence[0]..sequence[1])
                .flat_map(|i| (sequence[0]..sequence[1]).map(move |j| (i, j)))
            {
                for head in 0..HEADS {
                    let part = |t: usize, part: usize| {
                        &self.qkv[t * row + part * self.width() + head * hd..][..hd]
                    };
                    let products = part(i, 0).iter().zip(part(j, 1));
                    let dot: f64 = products.map(|(a, b)| f64::from(a * b)).sum();
                    largest = largest.max(dot / (hd as f64).sqrt());
                }
            }
        }
        largest
    }

    /// Returns the result for one sequence in f64, shape `[length, heads·head_dim]`.
    fn wanted(&self, s: usize) -> Vec<f64> {
        self.wanted_rows(s, 0..self.lengths[s], |x| x)
    }

    /// Like `wanted` for some queries; rotated q and k go through `held`.
    fn wanted_rows(&self, s: usize, rows: Range<usize>, held: impl Fn(f64) -> f64) -> Vec<f64> {
        self.shape().wanted_rows(&self.qkv, s, rows, held)
    }

    /// Returns the case that the benchmark shares.
    fn shape(&self) -> Attention {
        let Self {
            head_dim,
            dtype,
            rotary,
            lengths,
            ..
        } = self;
        Attention::new(HEADS, *head_dim, *dtype, *rotary, lengths, 0)
    }
}

/// The lengths of the test batches. On a real device they include longer sequences, as far as the
/// host's f64 computation allows.
fn batches(gpu: &Gpu, head_dim: usize) -> Vec<Vec<usize>> {
    let mut batches = vec![
        vec![1, 2, 15, 16, 17, 63, 64, 0, 33, 32, 16, 1],
        vec![65, 100, 3, 129],
    ];
    if gpu.real {
        batches.push(vec![350, 51, 170, 64, 200, 193]);
    }
    if gpu.real && matches!(head_dim, 24 | 64 | 128) {
        batches.push(vec![66, 127, 128, 576, 577, 1022]);
    }
    if gpu.real && head_dim == 64 {
        batches.push(vec![512, 2000]);
    }
    batches
}

#[test]
fn every_width_and_length_agrees_with_f64() {
    for seed in seeds() {
        let Some(gpu) = gpu(seed) else { return };
        for head_dim in HEAD_DIMS {
            for dtype in DTYPES {
                for rotary in [true, false] {
                    // The f64 result is the same for all schedules: the first schedule tests all
                    // shapes, the others some.
                    if seed > 0 && !matches!(head_dim, 24 | 64) {
                        continue;
                    }
                    let batches = batches(&gpu, head_dim);
                    let kinds = kinds(&gpu, head_dim);
                    let both = batches
                        .iter()
                        .flat_map(|b| kinds.iter().map(move |by| (b, *by)));
                    for (lengths, by) in both {
                        let case = Case::new(head_dim, dtype, rotary, lengths, 11 + seed);
                        let outs = case.run(&gpu, by);
                        assert_eq!(gpu.findings(), "", "{head_dim} {dtype:?}");
                        for (s, out) in outs.iter().enumerate() {
                            if out.is_empty() {
                                continue;
                            }
                            let off = error(&values(out, dtype), &case.wanted(s));
                            let position = if rotary { "rotary" } else { "alibi" };
                            let length = lengths[s];
                            println!(
                                "{:>4} head_dim {head_dim:>3} {position:>6} length {length:>4} {by:?}: {off:.1e}, {:.2} eps",
                                dtype.name(),
                                off / epsilon(dtype)
                            );
                            assert!(
                                off <= tolerance(dtype, length),
                                "{by:?} {dtype:?} head_dim {head_dim} {position} length {length}: {off:e}"
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn the_reference_agrees_with_f64() {
    let Some(gpu) = gpu(0) else { return };
    for dtype in DTYPES {
        for rotary in [true, false] {
            let case = Case::new(24, dtype, rotary, &[1, 17, 70], 5);
            for (s, out) in case.run(&gpu, By::Reference).iter().enumerate() {
                let off = error(&values(out, dtype), &case.wanted(s));
                // The table of angles is f32.
                assert!(off <= 2.0 * epsilon(dtype), "{dtype:?}: {off:e}");
            }
        }
    }
}

/// Each query meets all 35,000 keys, which tests the limits of positions and strides. A real device
/// computes the whole sequence, and the simulated device its first and last queries; both ends are
/// compared with f64.
#[test]
fn a_sequence_of_35000_tokens() {
    const LENGTH: usize = 35_000;
    const END: usize = 20; // number of queries
    let Some(gpu) = gpu(0) else { return };
    let cases = [
        (64, DType::F16, true),
        (64, DType::F16, false),
        (128, DType::F16, true),
        (24, DType::Bf16, true),
        (64, DType::F32, true),
    ];
    let ends = [0..END, LENGTH - END..LENGTH];
    for (head_dim, dtype, rotary) in cases {
        let case = Case::new(head_dim, dtype, rotary, &[LENGTH], 13);
        // Kernels store rotated numbers in the dtype. A query prefers a few of so many keys, and
        // this rounding changes their scores the most; so the f64 computation uses the same rounded
        // numbers, and the remaining error is the kernels' own.
        let wanted = ends
            .clone()
            .map(|rows| case.wanted_rows(0, rows, |x| case.held(x)));
        let row = case.width() * dtype.size();
        let kinds = match dtype {
            DType::F32 => vec![By::Kernels((8, 0))], // the kernels of all devices
            _ => kinds(&gpu, head_dim),
        };
        for by in kinds {
            let outs = case.run_some(&gpu, by, |work| {
                if !gpu.real {
                    let item = |row: &Range<usize>| AttentionItem {
                        first: 0,
                        length: LENGTH as u32,
                        row: row.start as u32,
                        rows: END as u32,
                    };
                    // All items are of one sequence, and so for the same kernel.
                    let far = work.far > 0;
                    work.items = ends.iter().map(item).collect();
                    work.far = if far { work.items.len() } else { 0 };
                }
            });
            assert_eq!(gpu.findings(), "", "{head_dim} {dtype:?}");
            for (rows, wanted) in ends.iter().zip(&wanted) {
                let got = values(&outs[0][rows.start * row..rows.end * row], dtype);
                let off = error(&got, wanted);
                println!(
                    "{by:?} {dtype:?} head_dim {head_dim} queries {rows:?}: {off:.1e}, {:.2} eps",
                    off / epsilon(dtype)
                );
                assert!(
                    off <= tolerance(dtype, LENGTH),
                    "{by:?} {dtype:?} head_dim {head_dim} queries {rows:?}: {off:e}"
                );
            }
        }
    }
}

/// Tests inputs for which exponentials in 16 bits would fail: without subtracting the largest
/// score, or with the largest score of another tile, weights exceed the range of f16.
#[test]
fn scores_of_twenty_are_as_exact_as_small_ones() {
    let Some(gpu) = gpu(0) else { return };
    for head_dim in HEAD_DIMS {
        for dtype in [DType::F16, DType::Bf16] {
            for rotary in [true, false] {
                let lengths = [32, 64, 129];
                let case = Case::of_size(2.4, head_dim, dtype, rotary, &lengths, 21);
                // Rotation changes the scores, but does not make them smaller.
                assert!(rotary || case.largest_score() > 20.0);
                let wanted =
                    [0, 1, 2].map(|s| case.wanted_rows(s, 0..lengths[s], |x| case.held(x)));
                for by in kinds(&gpu, head_dim) {
                    let outs = case.run(&gpu, by);
                    assert_eq!(gpu.findings(), "", "{head_dim} {dtype:?}");
                    for (out, wanted) in outs.iter().zip(&wanted) {
                        let off = error(&values(out, dtype), wanted);
                        let what = format!("{by:?} {dtype:?} head_dim {head_dim} rotary {rotary}");
                        println!("{what}: {:.2} eps", off / epsilon(dtype));
                        assert!(off <= epsilon(dtype), "{what}: {off:e}");
                    }
                }
            }
        }
    }
}

/// Runs each kernel for 16 bits: on short sequences, and on sequences of one and of several tiles
/// of keys.
#[test]
fn nothing_is_a_little_too_large_or_too_small_everywhere() {
    let Some(gpu) = gpu(0) else { return };
    for (head_dim, dtype) in [
        (64, DType::F16),
        (64, DType::Bf16),
        (24, DType::F16),
        (128, DType::F16),
        (40, DType::F16),
    ] {
        for rotary in [true, false] {
            for lengths in [vec![32; 12], vec![64; 6], vec![131, 257]] {
                let case = Case::new(head_dim, dtype, rotary, &lengths, 31);
                let wanted = (0..lengths.len())
                    .flat_map(|s| case.wanted_rows(s, 0..lengths[s], |x| case.held(x)));
                let wanted: Vec<f64> = wanted.collect();
                for by in kinds(&gpu, head_dim) {
                    let got = values(&case.run(&gpu, by).concat(), dtype);
                    let what = format!(
                        "{by:?} {dtype:?} head_dim {head_dim} rotary {rotary} lengths {}",
                        lengths[0]
                    );
                    same_on_the_whole(&what, &got, &wanted, dtype);
                }
            }
        }
    }
}

/// Tests several passes, with tiles that stay in shared memory and tiles that do not.
#[test]
fn long_sequences_go_round_the_ring() {
    let Some(gpu) = gpu(3) else { return };
    let cases = [
        (16, [257, 350]),
        (64, [192, 300]),
        (64, [897, 66]),
        (64, [640, 513]),
        (128, [97, 140]),
        // On Hopper: whole, just not whole and rotated before, in several items.
        (128, [384, 385]),
        (128, [640, 70]),
        (24, [1290, 66]),
        (64, [1153, 80]),
    ];
    for (head_dim, lengths) in cases {
        for rotary in [true, false] {
            let case = Case::new(head_dim, DType::F16, rotary, &lengths, 8);
            let wanted = [case.wanted(0), case.wanted(1)];
            for by in kinds(&gpu, head_dim) {
                for (s, out) in case.run(&gpu, by).iter().enumerate() {
                    let off = error(&values(out, DType::F16), &wanted[s]);
                    let length = lengths[s];
                    let within = off <= tolerance(DType::F16, length);
                    assert!(within, "{by:?} {head_dim} {length}: {off:e}");
                }
            }
        }
    }
}

#[test]
fn the_bits_of_a_sequence_are_its_own() {
    let lengths = [40, 1, 16, 130, 17, 64, 31, 100, 9, 65];
    let orders: [&[usize]; 4] = [
        &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
        &[9, 8, 7, 6, 5, 4, 3, 2, 1, 0],
        &[2, 2, 2, 2, 1, 3, 0, 8, 8],
        &[6, 4, 1, 7, 9, 9, 5],
    ];
    for seed in seeds() {
        let Some(gpu) = gpu(seed) else { return };
        for (head_dim, dtype, rotary) in [
            (64, DType::F16, true),
            (64, DType::Bf16, false),
            (24, DType::F16, true),
            (8, DType::Bf16, true),
            (16, DType::F32, false),
            (32, DType::F16, true),
            (96, DType::Bf16, false),
            (128, DType::F16, true),
        ] {
            if head_dim > 64 && seed > 0 {
                continue; // like the others, but slow
            }
            let case = Case::new(head_dim, dtype, rotary, &lengths, 3);
            for by in kinds(&gpu, head_dim) {
                let alone: Vec<Vec<u8>> = (0..lengths.len())
                    .map(|s| case.of(&[s]).run(&gpu, by).remove(0))
                    .collect();
                for order in orders {
                    for (out, s) in case.of(order).run(&gpu, by).iter().zip(order) {
                        let length = lengths[*s];
                        assert!(
                            *out == alone[*s],
                            "{by:?}, head_dim {head_dim}, length {length} in {order:?}"
                        );
                    }
                }
            }
        }
    }
}

/// A number that is not finite affects its own sequence and no other.
#[test]
fn what_is_not_finite_stays_with_its_sequence_and_is_seen() {
    let Some(gpu) = gpu(0) else { return };
    for dtype in DTYPES {
        let kinds = kinds(&gpu, 64);
        let cases = [[20, 20, 20], [70, 80, 90]].map(|l| kinds.iter().map(move |by| (l, *by)));
        for (lengths, by) in cases.into_iter().flatten() {
            let clean = Case::new(64, dtype, true, &lengths, 4);
            let before = clean.run(&gpu, by);
            for value in [f32::NAN, f32::INFINITY] {
                // The number is in a key, and in a value, of the middle sequence.
                for part in [1, 2] {
                    let mut case = clean.clone();
                    let width = case.width();
                    case.qkv[((lengths[0] + 3) * 3 + part) * width + 5] = value;
                    let after = case.run(&gpu, by);
                    assert!(before[0] == after[0] && before[2] == after[2]);
                    let out = values(&after[1], dtype);
                    let bad = |t: usize| out[t * width..][..64].iter().any(|x| !x.is_finite());
                    let rows = (0..lengths[1]).filter(|t| bad(*t)).count();
                    // An infinite key scores minus infinity with half the queries, and has no
                    // weight there.
                    let least = if part == 1 && value.is_infinite() {
                        1
                    } else {
                        lengths[1]
                    };
                    assert!(
                        rows >= least,
                        "{dtype:?} {value} in part {part}: {rows} rows"
                    );
                }
            }
        }
    }
}

#[test]
fn on_a_real_gpu() {
    cuda::real::again(module_path!());
}
