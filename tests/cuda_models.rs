//! Whole models on CUDA against the golden files, and against themselves: the same bits whatever stands beside a
//! sequence, however it is batched, streamed or divided over devices. On the simulated driver, or with
//! SEQSTREAM_TEST_GPU=1 on a real one.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)] // the helpers of tests are tests

mod cuda_support;
mod golden_support;

use cuda_support::model::{Built, Devices, build, options};
use golden_support::{checkpoint, errors, golden_files, read};
use seqstream::backend::cuda::CudaOptions;
use seqstream::batch::PackedBatch;
use seqstream::model::{Embedder, LayerOutput, Pool, Request};
use seqstream::weights::{Checkpoint, DType};

/// Of PyTorch's own f32 run on a CPU, as on our CPU backend (`golden_states.rs`).
const F32_FACTOR: f64 = 1.5;
/// Small in itself.
const F32_CEILING: f64 = 1e-5;
/// Activations are rounded some eight times a layer, to 2^-11 in f16 and 2^-8 in bf16; roundings add up as
/// their root: sqrt(8 · 6 layers) · 2^-11 / sqrt(3) = 2e-3, and eight times that in bf16.
const F16_CEILING: f64 = 2e-3;
const BF16_CEILING: f64 = 1.5e-2;

/// Every golden file in this dtype: the largest error, printed, and all that is over its bar.
fn golden(dtype: DType) {
    let Some(devices) = Devices::take(1, 0) else {
        return;
    };
    let mut failures = Vec::new();
    for path in golden_files() {
        let (golden, references) = read(&path);
        let checkpoint = checkpoint(&golden);
        let options = CudaOptions {
            representations: golden.layers.len(),
            states: true,
            ..options(dtype)
        };
        let mut model = build(&devices, &checkpoint, options);
        let mut worst = (0.0f64, 0.0f64);
        for (r, errors) in references
            .iter()
            .zip(errors(&mut model.model, &golden, &references))
        {
            for ((what, ours), peer) in errors.iter().zip(&r.peer_error) {
                let bar = match dtype {
                    DType::F32 => (F32_FACTOR * peer).min(F32_CEILING),
                    DType::F16 => F16_CEILING,
                    DType::Bf16 => BF16_CEILING,
                };
                worst = (worst.0.max(*ours), worst.1.max(ours / peer));
                if ours.is_nan() || *ours > bar {
                    failures.push(format!(
                        "{dtype} {} {}: {what} is off by {ours:.2e}, the bar is {bar:.2e}",
                        path.file_stem().unwrap().display(),
                        r.name
                    ));
                }
            }
        }
        println!(
            "{dtype} {}: at most {:.2e}, {:.2} of PyTorch's f32",
            path.file_stem().unwrap().display(),
            worst.0,
            worst.1
        );
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn golden_states_in_f32() {
    golden(DType::F32);
}

#[test]
fn golden_states_in_f16() {
    golden(DType::F16);
}

#[test]
fn golden_states_in_bf16() {
    golden(DType::Bf16);
}

/// Sequences of lengths around every boundary: slots of 16, short kernels up to 64, tiles of keys and queries.
fn sequences() -> Vec<Vec<u32>> {
    let lengths = [3, 15, 16, 17, 33, 48, 63, 64, 65, 100, 127, 129, 200];
    let one = |(i, n): (usize, &usize)| {
        let inside = (0..n - 2).map(|j| 4 + ((i * 31 + j * j * 7 + j) % 20) as u32);
        std::iter::once(0).chain(inside).chain([2]).collect()
    };
    lengths.iter().enumerate().map(one).collect()
}

fn request() -> Request {
    Request {
        layers: vec![0, 2],
        pool: Some(Pool::Mean),
        per_token: true,
    }
}

/// The bits of each sequence: means and states of both layers.
fn bits(outputs: &[LayerOutput], batch: &PackedBatch, d: usize) -> Vec<Vec<u32>> {
    let of = |i: usize| {
        let range = batch.range(i);
        let values = outputs.iter().flat_map(|o| {
            let mean = &o.pooled[i * d..(i + 1) * d];
            mean.iter().chain(&o.states[range.start * d..range.end * d])
        });
        values.map(|x| x.to_bits()).collect()
    };
    (0..batch.len()).map(of).collect()
}

/// All sequences in one batch, by their place in `order`.
fn together(built: &mut Built, all: &[Vec<u32>], order: &[usize]) -> Vec<Vec<u32>> {
    let mut batch = PackedBatch::new();
    order.iter().for_each(|i| batch.push(&all[*i]));
    let outputs = built.model.embed(&batch, &request()).unwrap();
    let d = built.model.config().hidden;
    let mut found = vec![Vec::new(); all.len()];
    for (bits, i) in bits(&outputs, &batch, d).into_iter().zip(order) {
        found[*i] = bits;
    }
    found
}

/// All sequences in the batch's order, on two devices, in batches of one model that is dropped again.
fn bits_of(
    seed: u64,
    checkpoint: &Checkpoint,
    options: CudaOptions,
    orders: &[Vec<usize>],
) -> Option<Vec<Vec<Vec<u32>>>> {
    let devices = Devices::take(2, seed)?;
    let mut built = build(&devices, checkpoint, options);
    if let Some(tokens) = options.tokens {
        assert!(built.model.members().all(|m| m.limits().tokens == tokens));
    }
    let all = sequences();
    let found = orders.iter().map(|o| together(&mut built, &all, o));
    Some(found.collect())
}

#[test]
fn bits_depend_on_the_sequence_alone() {
    let forwards: Vec<usize> = (0..sequences().len()).collect();
    let backwards: Vec<usize> = forwards.iter().rev().copied().collect();
    let alone = forwards.iter().map(|i| vec![*i]);
    let orders: Vec<Vec<usize>> = [forwards.clone(), backwards]
        .into_iter()
        .chain(alone)
        .collect();
    for dtype in [DType::F16, DType::F32] {
        let checkpoint = cuda_support::model::random(2, 48, 3, 96);
        let wide = CudaOptions {
            representations: 2,
            states: true,
            ..options(dtype)
        };
        let Some(found) = bits_of(1, &checkpoint, wide, &orders) else {
            return;
        };
        let want = &found[0];
        assert_eq!(*want, found[1], "{dtype}, in another order");
        for (i, found) in found[2..].iter().enumerate() {
            assert_eq!(want[i], found[i], "{dtype}, sequence {i} alone");
        }
        // Passes of at most 230 tokens: the batch is divided. And one stream for everything; other schedules.
        let narrow = CudaOptions {
            tokens: Some(230),
            ..wide
        };
        let off = CudaOptions {
            overlap: false,
            ..narrow
        };
        for (seed, options) in [(1, narrow), (1, off), (2, narrow), (3, narrow)] {
            let found = bits_of(seed, &checkpoint, options, &orders[..1]).unwrap();
            assert_eq!(*want, found[0], "{dtype}, seed {seed}, {options:?}");
        }
    }
}

/// Rounded on the host, cast on the device or copied: values that every format holds arrive as they are.
#[test]
fn whatever_format_a_file_has_its_values_arrive() {
    const FORMATS: [DType; 3] = [DType::F32, DType::F16, DType::Bf16];
    let order: Vec<usize> = (0..sequences().len()).collect();
    for dtype in FORMATS {
        let wide = CudaOptions {
            representations: 2,
            states: true,
            ..options(dtype)
        };
        let mut found = Vec::new();
        for stored in FORMATS {
            let checkpoint = cuda_support::model::stored_in(stored);
            match bits_of(4, &checkpoint, wide, std::slice::from_ref(&order)) {
                Some(bits) => found.push(bits),
                None => return,
            }
        }
        for (stored, bits) in FORMATS.iter().zip(&found) {
            assert_eq!(found[0], *bits, "{stored} computed in {dtype}");
        }
    }
}

#[test]
fn a_sequence_that_fits_nowhere_is_an_error_that_says_what_helps() {
    let Some(devices) = Devices::take(1, 0) else {
        return;
    };
    let checkpoint = cuda_support::model::random(1, 32, 2, 64);
    let small = CudaOptions {
        tokens: Some(128),
        ..options(DType::F16)
    };
    let mut built = build(&devices, &checkpoint, small);
    let mut batch = PackedBatch::new();
    batch.push(&[5; 129]);
    let request = Request {
        layers: vec![1],
        ..request()
    };
    let error = built.model.submit(&batch, &request).unwrap_err();
    assert!(
        error.to_string().contains("129 tokens does not fit"),
        "{error}"
    );
    assert!(error.hint().unwrap().contains("--long window"));
    assert!(built.model.collect().unwrap().is_none());
}

/// In f16 a value past 65504 is infinite; it must not come out as a number.
#[test]
fn an_overflow_never_leaves_in_silence() {
    let Some(devices) = Devices::take(1, 0) else {
        return;
    };
    let checkpoint = cuda_support::model::overflowing();
    let request = Request {
        layers: vec![2],
        pool: Some(Pool::Mean),
        per_token: false,
    };
    let mut batch = PackedBatch::new();
    batch.push(&sequences()[9]);
    for (dtype, finite) in [(DType::F16, false), (DType::F32, true), (DType::Bf16, true)] {
        let mut built = build(&devices, &checkpoint, options(dtype));
        let outputs = built.model.embed(&batch, &request).unwrap();
        let all = outputs[0].pooled.iter().all(|v| v.is_finite());
        assert_eq!(all, finite, "{dtype}: {:?}", &outputs[0].pooled[..4]);
    }
}

#[test]
fn on_a_real_gpu() {
    cuda_support::real::again();
}
