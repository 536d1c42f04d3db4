//! Whole models on CUDA compared with the golden files and with themselves: a sequence has the same
//! bits whatever is beside it, and however it is batched, streamed or divided over devices. The
//! test bodies are shared with the CPU (`bodies`); they run on the simulated driver, or with
//! SEQSTREAM_TEST_GPU=1 on a real one.

use crate::support::bodies;
use crate::support::cuda;
use crate::support::cuda::model::{Devices, build, build_on_streams, builder, options};
use crate::support::cuda::products::counter;
use crate::support::cuda::real::{not_run, wants_real};
use crate::support::golden::{checkpoint, golden_files, read};
use seqstream::architecture::{ModelConfig, ModelKind};
use seqstream::backend::cuda::{Cuda, CudaOptions};
use seqstream::backend::{Backend, Builder, OutputKinds, Pass, Role};
use seqstream::batch::PackedBatch;
use seqstream::dtype::DType;
use seqstream::engine::Fleet;
use seqstream::gpu::driver::StreamName;
use seqstream::model::{Embedder, Model, Pool, Request};
use seqstream::weights::{Checkpoint, F32Data, Weight};

/// The bound in f32 as a multiple of the error of PyTorch's own f32 run on a CPU, as for our CPU
/// backend (`tests/models/golden_states.rs`).
const F32_FACTOR: f64 = 1.5;
/// The absolute bound in f32.
const F32_CEILING: f64 = 1e-5;
/// The bound in f16. Activations are rounded about eight times per layer, to 2^-11 in f16 and 2^-8
/// in bf16; rounding errors add up as their root: sqrt(8 · 6 layers) · 2^-11 / sqrt(3) = 2e-3, and
/// eight times that in bf16.
const F16_CEILING: f64 = 2e-3;
const BF16_CEILING: f64 = 1.5e-2;

/// Tests every golden file in this dtype: prints the largest error, and fails with every error over
/// its bound.
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

/// Returns sequences with lengths around every boundary: slots of 16, short kernels up to 64 and up
/// to 32, tiles of keys and queries. On a real device, which is fast enough, some are long enough
/// to go round the ring.
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

/// Options with capacity for all sequences at once, and for everything that `bodies` request.
fn wide(dtype: DType) -> CudaOptions {
    CudaOptions {
        tokens: Some(8192),
        representations: 2,
        states: true,
        ..options(dtype)
    }
}

/// Puts the model on two simulated devices under this schedule, or on the real ones, and passes it
/// to `look`.
fn on_devices<T>(
    seed: u64,
    checkpoint: &Checkpoint,
    options: CudaOptions,
    look: impl FnOnce(&mut Fleet<Model<Cuda>>) -> T,
) -> Option<T> {
    on_streams(true, seed, checkpoint, options, look)
}

/// Does the same as [`on_devices`], on streams that overlap, or on one stream per device.
fn on_streams<T>(
    overlap: bool,
    seed: u64,
    checkpoint: &Checkpoint,
    options: CudaOptions,
    look: impl FnOnce(&mut Fleet<Model<Cuda>>) -> T,
) -> Option<T> {
    let devices = Devices::take(2, seed)?;
    let mut model = build_on_streams(overlap, &devices, checkpoint, options).model;
    if let Some(tokens) = options.tokens {
        assert!(model.members().all(|m| m.limits().tokens == tokens));
    }
    Some(look(&mut model))
}

/// Tests the simulated driver in these dtypes, and if `thorough` also with one stream more or less,
/// less capacity or another schedule; tests a real device in all dtypes.
fn bits_depend_on_the_sequence_alone(config: ModelConfig, dtypes: &[DType], thorough: bool) {
    let sequences = sequences();
    let checkpoint = cuda::model::random_of(config);
    let dtypes = match wants_real() {
        true => &[DType::F16, DType::Bf16, DType::F32],
        false => dtypes,
    };
    for &dtype in dtypes {
        let alone = on_devices(1, &checkpoint, wide(dtype), |model| {
            let alone = bodies::alone(model, &sequences);
            bodies::same_among_others(dtype.name(), model, (&sequences, &alone), 6, 4);
            bodies::same_whatever_is_asked_for(dtype.name(), model, &sequences[..6]);
            alone
        });
        let Some(alone) = alone else { return };
        if !thorough {
            continue;
        }
        // The batch is divided. Also with one stream for everything, and with other schedules.
        let longest = sequences.iter().map(Vec::len).max().unwrap();
        let narrow = CudaOptions {
            tokens: Some(longest + 30),
            ..wide(dtype)
        };
        let all: Vec<_> = sequences.iter().collect();
        for (seed, overlap) in [(1, true), (1, false), (2, true), (3, true)] {
            let look = |model: &mut Fleet<_>| bodies::bits(model, &all);
            let found = on_streams(overlap, seed, &checkpoint, narrow, look).unwrap();
            assert!(found == alone, "{dtype}, seed {seed}, overlap {overlap}");
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

/// Weights are rounded on the host, cast on the device or copied, in one chunk or in several:
/// values that every format can hold arrive unchanged.
#[test]
fn whatever_format_a_file_has_its_values_arrive() {
    const FORMATS: [DType; 3] = [DType::F32, DType::F16, DType::Bf16];
    let sequences = sequences();
    // A few sequences are enough: this test is about weights.
    let some: Vec<_> = sequences[..6].iter().collect();
    for dtype in FORMATS {
        let bits = |stored, upload_slot| {
            let options = CudaOptions {
                upload_slot,
                ..wide(dtype)
            };
            let look = |model: &mut Fleet<_>| bodies::bits(model, &some);
            on_devices(4, &cuda::model::stored_in(stored), options, look)
        };
        let Some(whole) = bits(dtype, None) else {
            return;
        };
        // The matrices have 2304 values and more: longer than a chunk in every format.
        for stored in FORMATS {
            let chunked = bits(stored, Some(4 << 10)).unwrap();
            assert!(whole == chunked, "{stored} computed in {dtype}");
        }
    }
}

/// Submitting a batch only queues its work: the host waits once, where it collects.
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
    let (checkpoint, sequences) = (cuda::model::random(2, 48, 3, 96), sequences());
    for options in [options(DType::F16), options(DType::F32)] {
        let mut model = build(&devices, &checkpoint, options).model;
        let request = Request {
            layers: vec![2],
            pool: Some(Pool::Mean),
            per_token: false,
        };
        let mut batch = PackedBatch::new();
        // In f32, sequences of fewer than 16 tokens have a separate pass: this batch has no such
        // sequence.
        sequences[2..].iter().for_each(|s| batch.push(s));
        model.embed(&batch, &request).unwrap(); // now the weights are loaded
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
fn newer_attention_kernels_are_named_in_the_identity() {
    let (newer, sums) = (Some("attention90"), Some("attention80 sums"));
    // On Hopper, and elsewhere.
    for (hidden, heads, dtype, hopper, other) in [
        (32, 2, DType::F16, newer, sums),   // heads of 16
        (128, 1, DType::Bf16, newer, sums), // of 128
        (64, 1, DType::F16, None, sums),    // of 64
        (40, 1, DType::F16, sums, sums),    // of 40
        (32, 2, DType::F32, None, None),
    ] {
        let Some(devices) = Devices::take(1, 0) else {
            return;
        };
        let checkpoint = cuda::model::random(1, hidden, heads, 64);
        let built = build(&devices, &checkpoint, options(dtype));
        for model in built.model.members() {
            let cuda = model.backend();
            let (major, minor) = cuda.device().capability;
            let named = if (major, minor) == (9, 0) {
                hopper
            } else {
                other
            };
            assert_eq!(cuda.attention_bits(), named, "{hidden} {dtype:?}");
            let end = named.map_or(format!("sm_{major}{minor}"), |name| format!(", {name}"));
            assert!(seqstream::engine::chip(cuda).ends_with(&end), "{end}");
        }
    }
}

#[test]
fn a_sequence_that_fits_nowhere_is_an_error_that_says_what_helps() {
    let Some(devices) = Devices::take(1, 0) else {
        return;
    };
    let checkpoint = cuda::model::random(1, 32, 2, 64);
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
    assert!(error.remedy().unwrap().to_string().contains("in windows"));
    assert!(built.model.collect().unwrap().is_none());
}

/// In f16 a value past 65504 is infinite; it must not become a finite number.
#[test]
fn an_overflow_never_leaves_in_silence() {
    let Some(devices) = Devices::take(1, 0) else {
        return;
    };
    let checkpoint = cuda::model::overflowing();
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

/// A pass that is full to the last row, the last sequence and the last byte of its results has the
/// same bits as a pass with spare capacity: a region that is too small would overlap another one.
#[test]
fn a_full_pass_holds_all_of_it() {
    const TOKENS: usize = 256;
    const SEQUENCES: usize = 64; // the capacity for sequences, if this is more than a 16th of the tokens
    let sequence = |n: usize, seed: usize| {
        let token = |i| 5 + (i * i + seed) as u32 % 19;
        (0..n).map(token).collect::<Vec<u32>>()
    };
    let one = vec![sequence(TOKENS, 0)];
    let many: Vec<_> = (0..SEQUENCES).map(|i| sequence(4, i)).collect();
    let over: Vec<_> = (0..85).map(|i| sequence(3, i)).collect();
    // Rows have at least 256 bytes, also in the table of rotations: otherwise the rounding up of
    // regions could hide a missing row.
    let esm2 = ModelConfig {
        hidden: 128,
        heads: 2,
        ..bodies::ESM2_HEAD_16
    };
    for (config, dtype, architecture) in [
        (esm2, DType::F32, 90),
        (bodies::DNABERT_TWO_HEADS, DType::F16, 90),
        (bodies::DNABERT_TWO_HEADS, DType::F16, 80),
    ] {
        let checkpoint = cuda::model::random_of(config);
        let bits = |tokens| {
            let devices = Devices::take(1, 1)?;
            devices.set_architecture(architecture);
            let options = CudaOptions {
                tokens: Some(tokens),
                ..wide(dtype)
            };
            let mut model = build(&devices, &checkpoint, options).model;
            devices.set_architecture(90);
            let limits = model.members().next().unwrap().limits();
            assert!(tokens > TOKENS || limits.sequences == SEQUENCES);
            let of = |sequences: &Vec<Vec<u32>>| {
                bodies::bits(&mut model, &sequences.iter().collect::<Vec<_>>())
            };
            Some([&one, &many, &over].map(of))
        };
        let Some(full) = bits(TOKENS) else { return };
        let wide = bits(8192).unwrap();
        for (n, what) in ["one sequence", "the most sequences", "more than these"]
            .into_iter()
            .enumerate()
        {
            let same = full[n] == wide[n];
            assert!(same, "{what} of a full pass, {dtype} on sm_{architecture}");
        }
    }
}

/// Before a kernel reads a parameter, the compute stream has waited for the layer of this
/// parameter; the log of operations of a model's first pass shows it.
#[test]
fn a_pass_waits_for_the_weights_of_each_layer_before_it_reads_them() {
    const LAYERS: usize = 3;
    for config in [
        ModelConfig::esm2(LAYERS, 64, 2),
        ModelConfig::dnabert(LAYERS, 64, 2),
    ] {
        let esm = config.kind == ModelKind::Esm2;
        let checkpoint = cuda::model::random_of(config);
        let Some(devices) = Devices::take(1, 0) else {
            return;
        };
        let mut built = build(&devices, &checkpoint, options(DType::F16));
        let request = Request {
            layers: vec![LAYERS],
            pool: Some(Pool::Mean),
            per_token: false,
        };
        let mut batch = PackedBatch::new();
        batch.push(&[0, 5, 6, 7, 2]);
        for _ in 0..2 {
            built.model.embed(&batch, &request).unwrap();
        }
        let log = built.manager.log().unwrap().entries();
        let of_compute = log
            .iter()
            .filter(|e| matches!(e.stream, Some((StreamName::Compute, _))));
        // For each kernel: the number of layers that have been waited for before it.
        let (mut layers, mut kernels) = (0, Vec::new());
        for entry in of_compute {
            if let Some(layer) = entry.what.strip_prefix("wait for layer ") {
                assert_eq!(layer, layers.to_string(), "each once, and in order");
                layers += 1;
            } else if let Some(kernel) = entry.what.strip_prefix("kernel ") {
                kernels.push((layers, kernel.to_owned()));
            }
        }
        assert_eq!(layers, 1 + LAYERS + usize::from(esm), "{kernels:?}");
        let at = |name: &str| -> Vec<usize> {
            let of_name = kernels
                .iter()
                .filter(|(_, kernel)| kernel.starts_with(name));
            of_name.map(|(layers, _)| *layers).collect()
        };
        // The second pass begins when all of them have been waited for.
        assert_eq!(at("rotary_table"), if esm { vec![1] } else { vec![] });
        assert_eq!(at("embed"), [1, layers]);
        assert_eq!(at("attention"), [2, 3, 4, layers, layers, layers]);
        assert_eq!(at("represent_means"), [layers, layers]);
    }
}

/// Results are fetched pass by pass, and a pass takes no more of them than its slot holds. Neither
/// error ends the job.
#[test]
fn results_out_of_order_and_too_many_of_them_are_errors() {
    const WIDTH: usize = 16;
    let Some(devices) = Devices::take(1, 0) else {
        return;
    };
    let mut builder = builder(&devices, options(DType::F32));
    let mut x = builder.matrix(Role::Residual, WIDTH).unwrap();
    let table = Weight::F32(F32Data::Owned((0..33 * WIDTH).map(|i| i as f32).collect()));
    let table = builder.vector(table).unwrap();
    let mut cuda = builder.build().unwrap();
    let mut batch = PackedBatch::new();
    batch.push(&[0, 5, 2]);
    let pooled = std::slice::from_ref(&(1..2));
    let wanted = OutputKinds {
        pooled: true,
        states: false,
    };
    let mut taken = Vec::new();
    for _ in 0..2 {
        let mut pass = cuda.begin(0, &batch, pooled).unwrap();
        pass.wait_for_weights(0).unwrap();
        pass.embed(&[1.0; 3], &table, None, &mut x).unwrap();
        taken.push(pass.represent(&x, None, wanted).unwrap());
        pass.end().unwrap();
    }
    let [older, newer] = <[_; 2]>::try_from(taken).unwrap();
    let error = cuda.fetch(newer).unwrap_err().to_string();
    assert_eq!(
        error,
        "the results of pass 1 were fetched before those of pass 0"
    );
    let row: Vec<f32> = (5 * WIDTH..6 * WIDTH).map(|i| i as f32).collect();
    assert_eq!(cuda.fetch(older).unwrap().pooled, row);

    let mut pass = cuda.begin(0, &batch, pooled).unwrap();
    pass.embed(&[1.0; 3], &table, None, &mut x).unwrap();
    let refused = (0..1000).find_map(|_| pass.represent(&x, None, wanted).err());
    let error = refused.unwrap().to_string();
    assert!(
        error.contains("more representations than were announced"),
        "{error}"
    );
}

#[test]
fn on_a_real_gpu() {
    cuda::real::again(module_path!());
}
