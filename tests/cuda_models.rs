//! Whole models on CUDA against the golden files, and against themselves: the same bits whatever stands beside a
//! sequence, however it is batched, streamed or divided over devices. The bodies are the CPU's (`bodies`), on the
//! simulated driver, or with SEQSTREAM_TEST_GPU=1 on a real one.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)] // the helpers of tests are tests

mod bodies;
mod cuda_support;
mod golden_support;

use cuda_support::model::{Devices, build, options};
use cuda_support::products::counter;
use cuda_support::real::{not_run, wants_real};
use golden_support::{checkpoint, golden_files, read};
use seqstream::backend::cuda::{Cuda, CudaOptions};
use seqstream::batch::PackedBatch;
use seqstream::model::config::ModelConfig;
use seqstream::model::{Embedder, Fleet, Model, Pool, Request};
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
    let bar = |peer: f64| match dtype {
        DType::F32 => (F32_FACTOR * peer).min(F32_CEILING),
        DType::F16 => F16_CEILING,
        DType::Bf16 => BF16_CEILING,
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
        let mut model = build(&devices, &checkpoint, options).model;
        let of = (&golden, references.as_slice());
        let over = bodies::faithful(dtype.name(), &path, &mut model, of, bar);
        failures.extend(over);
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

/// Sequences of lengths around every boundary: slots of 16, short kernels up to 64 and to 32, tiles of keys and queries; and
/// on a real device, which has the time, such that go round the ring.
fn sequences() -> Vec<Vec<u32>> {
    let mut lengths = vec![3, 15, 16, 17, 32, 33, 48, 63, 64, 65, 100, 127, 129, 200];
    if wants_real() {
        lengths.extend([350, 513, 700, 1100, 1999]);
    }
    let one = |(i, n): (usize, &usize)| {
        let inside = (0..n - 2).map(|j| 4 + ((i * 31 + j * j * 7 + j) % 20) as u32);
        std::iter::once(0).chain(inside).chain([2]).collect()
    };
    lengths.iter().enumerate().map(one).collect()
}

/// Room for all sequences at once, and everything that `bodies` ask for.
fn wide(dtype: DType) -> CudaOptions {
    CudaOptions {
        tokens: Some(8192),
        representations: 2,
        states: true,
        ..options(dtype)
    }
}

/// The model on two simulated devices under this schedule, or the real ones, while `look` looks at it.
fn on_devices<T>(
    seed: u64,
    checkpoint: &Checkpoint,
    options: CudaOptions,
    look: impl FnOnce(&mut Fleet<Model<Cuda>>) -> T,
) -> Option<T> {
    let devices = Devices::take(2, seed)?;
    let mut model = build(&devices, checkpoint, options).model;
    if let Some(tokens) = options.tokens {
        assert!(model.members().all(|m| m.limits().tokens == tokens));
    }
    Some(look(&mut model))
}

/// Under the simulated driver in these dtypes, each with one more stream or less, less room or another schedule if
/// `thorough`; on a real device in all of them.
fn bits_depend_on_the_sequence_alone(config: ModelConfig, dtypes: &[DType], thorough: bool) {
    let sequences = sequences();
    let checkpoint = cuda_support::model::random_of(config);
    let dtypes = match wants_real() {
        true => &[DType::F16, DType::Bf16, DType::F32],
        false => dtypes,
    };
    for &dtype in dtypes {
        let alone = on_devices(1, &checkpoint, wide(dtype), |model| {
            let alone = bodies::alone(model, &sequences);
            bodies::same_among_others(dtype.name(), model, (&sequences, &alone), 6, 4);
            alone
        });
        let Some(alone) = alone else { return };
        if !thorough {
            continue;
        }
        // The batch is divided. And one stream for everything; other schedules.
        let longest = sequences.iter().map(Vec::len).max().unwrap();
        let narrow = CudaOptions {
            tokens: Some(longest + 30),
            ..wide(dtype)
        };
        let off = CudaOptions {
            overlap: false,
            ..narrow
        };
        let all: Vec<_> = sequences.iter().collect();
        for (seed, options) in [(1, narrow), (1, off), (2, narrow), (3, narrow)] {
            let look = |model: &mut Fleet<_>| bodies::bits(model, &all);
            let found = on_devices(seed, &checkpoint, options, look).unwrap();
            assert!(found == alone, "{dtype}, seed {seed}, {options:?}");
        }
    }
}

#[test]
fn bits_of_esm2_head_16() {
    bits_depend_on_the_sequence_alone(bodies::ESM2_HEAD_16, &[DType::F16, DType::F32], true);
}

#[test]
fn bits_of_esm2_head_24() {
    bits_depend_on_the_sequence_alone(bodies::ESM2_HEAD_24, &[DType::Bf16], false);
}

#[test]
fn bits_of_esm2_head_64() {
    bits_depend_on_the_sequence_alone(bodies::ESM2_HEAD_64, &[DType::F16], wants_real());
}

#[test]
fn bits_of_dnabert_head_64() {
    bits_depend_on_the_sequence_alone(bodies::DNABERT_TWO_HEADS, &[DType::Bf16], false);
}

#[test]
fn bits_of_dnabert_head_32() {
    bits_depend_on_the_sequence_alone(bodies::DNABERT_THREE_HEADS, &[DType::F16], false);
}

/// Rounded on the host, cast on the device or copied: values that every format holds arrive as they are.
#[test]
fn whatever_format_a_file_has_its_values_arrive() {
    const FORMATS: [DType; 3] = [DType::F32, DType::F16, DType::Bf16];
    let sequences = sequences();
    let all: Vec<_> = sequences.iter().collect();
    for dtype in FORMATS {
        let mut found = Vec::new();
        for stored in FORMATS {
            let checkpoint = cuda_support::model::stored_in(stored);
            let look = |model: &mut Fleet<_>| bodies::bits(model, &all);
            match on_devices(4, &checkpoint, wide(dtype), look) {
                Some(bits) => found.push(bits),
                None => return,
            }
        }
        for (stored, bits) in FORMATS.iter().zip(&found) {
            assert_eq!(found[0], *bits, "{stored} computed in {dtype}");
        }
    }
}

/// Submitting a batch is putting its work in order, and no more: the host waits where it collects, once.
#[test]
fn the_host_waits_for_a_batch_once_and_only_where_it_collects() {
    let Some(devices) = Devices::take(1, 0) else {
        return;
    };
    let Some(simulator) = &devices.simulator else {
        return not_run("this test counts calls of the simulated driver");
    };
    let waits = || {
        let kinds = [
            "stream_synchronizes",
            "event_synchronizes",
            "context_synchronizes",
            "implicit_synchronizes",
            "pageable_copies",
        ];
        kinds.iter().map(|k| counter(simulator, k)).sum::<u64>()
    };
    let (checkpoint, sequences) = (cuda_support::model::random(2, 48, 3, 96), sequences());
    for options in [options(DType::F16), options(DType::F32)] {
        let mut model = build(&devices, &checkpoint, options).model;
        let request = Request {
            layers: vec![2],
            pool: Some(Pool::Mean),
            per_token: false,
        };
        let mut batch = PackedBatch::new();
        // f32 has a pass of its own for sequences of fewer than 16 tokens: none of those.
        sequences[2..].iter().for_each(|s| batch.push(s));
        model.embed(&batch, &request).unwrap(); // the weights have come
        let before = waits();
        let launches = counter(simulator, "launches");
        model.submit(&batch, &request).unwrap();
        model.submit(&batch, &request).unwrap();
        assert!(counter(simulator, "launches") > launches + 20);
        assert_eq!(waits(), before, "{options:?}");
        for batch in 1..=2 {
            assert!(model.collect().unwrap().is_some());
            assert_eq!(waits(), before + batch, "{options:?}");
        }
    }
}

/// Where newer attention kernels give other bits than those before them, a job must not be gone on with.
#[test]
fn the_fingerprint_names_newer_attention_kernels() {
    for (hidden, heads, dtype, newer) in [
        (32, 2, DType::F16, true),   // heads of 16
        (128, 1, DType::Bf16, true), // of 128
        (64, 1, DType::F16, false),  // of 64
        (32, 2, DType::F32, false),
    ] {
        let Some(devices) = Devices::take(1, 0) else {
            return;
        };
        let checkpoint = cuda_support::model::random(1, hidden, heads, 64);
        let built = build(&devices, &checkpoint, options(dtype));
        for model in built.model.members() {
            let cuda = model.backend();
            let newer = newer && cuda.device().capability == (9, 0);
            let fingerprint = cuda.fingerprint();
            let named = fingerprint.ends_with(", attention90");
            assert_eq!(named, newer, "{hidden} {dtype:?}: {fingerprint}");
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
        pool: Some(Pool::Mean),
        per_token: true,
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
