//! Layers that are streamed through a ring of slots on the device: results have the bits of those
//! with all layers on the device, whatever passes follow each other, and nothing hangs or leaks when
//! a job ends in the middle of it.

use crate::support::bodies;
use crate::support::cuda;
use crate::support::cuda::model::{Devices, build_on_streams, builder, options};
use crate::support::cuda::products::counter;
use crate::support::cuda::real::{not_run, wants_real};
use crate::support::stream::watchdog;
use seqstream::architecture::ModelConfig;
use seqstream::backend::cuda::{CudaError, CudaOptions, DevicePlan, WeightMode};
use seqstream::backend::{Backend, Pass};
use seqstream::batch::PackedBatch;
use seqstream::dtype::DType;
use seqstream::gpu::driver::{Context, StreamName};
use seqstream::model::{Embedder, LayerOutput, Pool, Request, name_parts};
use seqstream::weights::Checkpoint;

const LAYERS: usize = 48;

fn streamed(slots: usize) -> WeightMode {
    WeightMode::Streamed { slots: Some(slots) }
}

fn request(layers: &[usize], pool: Option<Pool>, per_token: bool) -> Request {
    Request {
        layers: layers.to_vec(),
        pools: pool.into_iter().collect(),
        per_token,
    }
}

/// Returns batches of different lengths and numbers of sequences, more than there may be passes in
/// flight, each with what is wanted of it.
fn work(layers: usize) -> Vec<(PackedBatch, Request)> {
    let mean = Some(Pool::Mean);
    let requests = [
        request(&[layers], mean, false),
        request(&[0, layers / 2, layers], Some(Pool::Cls), true),
        // This pass ends in the middle of the layers.
        request(&[layers / 4], mean, true),
        request(&[layers], None, true),
        request(&[0], mean, false),
        request(&[layers - 1, layers], mean, false),
    ];
    let lengths: [&[usize]; 6] = [&[40, 3], &[17], &[3, 9, 5], &[70], &[12], &[20, 33]];
    let batch = |lengths: &&[usize]| {
        let mut batch = PackedBatch::new();
        for (i, n) in lengths.iter().enumerate() {
            let token = |j| 5 + ((j * j + 3 * i + n) % 19) as u32;
            batch.push(&(0..*n).map(token).collect::<Vec<_>>());
        }
        batch
    };
    lengths.iter().map(batch).zip(requests).collect()
}

/// The bits of a layer's vectors and states.
type Bits = (usize, Vec<u32>, Vec<u32>);

fn bits(outputs: Vec<LayerOutput>) -> Vec<Bits> {
    let of = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect();
    let one = |o: LayerOutput| (o.layer, of(&o.pooled), of(o.states.f32s()));
    outputs.into_iter().map(one).collect()
}

/// Embeds all the work, with as many batches in flight as there may be.
fn embed(model: &mut dyn Embedder, work: &[(PackedBatch, Request)]) -> Vec<Vec<Bits>> {
    let mut found = Vec::new();
    for (batch, request) in work {
        while model.free_slots() == 0 {
            found.push(bits(model.collect().unwrap().unwrap()));
        }
        model.submit(batch, request).unwrap();
    }
    while let Some(outputs) = model.collect().unwrap() {
        found.push(bits(outputs));
    }
    found
}

/// Options with capacity for everything that [`work`] asks for.
fn wide(dtype: DType, weights: WeightMode) -> CudaOptions {
    CudaOptions {
        tokens: Some(256),
        representations: 3,
        states: true,
        weights,
        ..options(dtype)
    }
}

/// How a model runs: the number of devices, the schedule, and whether streams overlap.
#[derive(Debug, Clone, Copy)]
struct How(u32, u64, bool);

/// Puts the model on fresh devices, and embeds the work; `None` if there are no devices.
fn run(
    How(devices, seed, overlap): How,
    checkpoint: &Checkpoint,
    options: CudaOptions,
    work: &[(PackedBatch, Request)],
) -> Option<(Vec<Vec<Bits>>, DevicePlan)> {
    let devices = Devices::take(devices, seed)?;
    let mut built = build_on_streams(overlap, &devices, checkpoint, options);
    let found = embed(&mut built.model, work);
    let plan = built
        .model
        .members()
        .next()
        .unwrap()
        .backend()
        .plan()
        .clone();
    drop(built);
    if let Some(simulator) = &devices.simulator {
        assert_eq!(simulator.findings(), "");
    }
    Some((found, plan))
}

/// Compares streamed layers with resident ones.
fn same_bits(config: ModelConfig, dtype: DType, slots: &[usize], hows: &[How]) {
    let watchdog = watchdog("streamed layers");
    let (checkpoint, layers) = (cuda::model::random_of(config.clone()), config.layers);
    let work = work(layers);
    let resident = wide(dtype, WeightMode::Resident);
    let Some((want, plan)) = run(How(1, 0, true), &checkpoint, resident, &work) else {
        return;
    };
    assert!(!plan.streamed && plan.slots == layers, "{plan}");
    for slots in slots {
        for how in hows {
            watchdog.alive();
            let options = wide(dtype, streamed(*slots));
            let (found, plan) = run(*how, &checkpoint, options, &work).unwrap();
            assert!(plan.streamed && plan.slots == *slots, "{plan}");
            for (i, (found, want)) in found.iter().zip(&want).enumerate() {
                assert!(found == want, "{slots} slots, {how:?}: batch {i}");
            }
            assert_eq!(found.len(), want.len());
        }
    }
}

#[test]
fn layers_of_an_esm2_through_slots_have_the_bits_of_resident_ones() {
    let hows = [How(1, 1, true), How(2, 2, true)];
    same_bits(
        ModelConfig::esm2(LAYERS, 32, 2),
        DType::F16,
        &[2, 3, 4],
        &hows,
    );
}

#[test]
fn layers_of_a_dnabert_through_slots_have_the_bits_of_resident_ones() {
    // Sequences of fewer than 16 tokens have passes of their own in f32.
    let hows = [How(1, 3, true), How(2, 4, true), How(1, 5, false)];
    same_bits(ModelConfig::dnabert(7, 32, 2), DType::F32, &[2, 3], &hows);
}

/// Values are cast on the device while other layers are computed.
#[test]
fn layers_that_are_converted_on_their_way_have_the_bits_of_resident_ones() {
    let sequences = [vec![0, 5, 9, 7, 2], vec![0; 40]];
    let all: Vec<_> = sequences.iter().collect();
    let checkpoint = cuda::model::stored_in(DType::Bf16);
    let bits = |weights, upload_slot| {
        let devices = Devices::take(1, 6)?;
        let options = CudaOptions {
            upload_slot,
            ..wide(DType::F16, weights)
        };
        let mut built = build_on_streams(true, &devices, &checkpoint, options);
        // Twice, so that each layer is loaded more often than there are slots.
        let first = bodies::bits(&mut built.model, &all);
        assert!(first == bodies::bits(&mut built.model, &all));
        Some(first)
    };
    // The model has two layers. It is streamed where it has more layers than slots, so this also
    // tests that as many slots as layers are no ring.
    let Some(resident) = bits(WeightMode::Resident, None) else {
        return;
    };
    assert!(bits(streamed(2), Some(4 << 10)).unwrap() == resident);
}

/// Layers that no wanted representation depends on are neither loaded nor given memory.
#[test]
fn only_the_layers_that_are_reached_are_loaded() {
    let checkpoint = cuda::model::random_of(ModelConfig::esm2(LAYERS, 32, 2));
    let mean = Some(Pool::Mean);
    let middle = [(work(LAYERS).remove(0).0, request(&[6], mean, false))];
    let all = wide(DType::F16, WeightMode::Resident);
    let Some((want, whole)) = run(How(1, 0, true), &checkpoint, all, &middle) else {
        return;
    };
    for weights in [WeightMode::Resident, streamed(2), streamed(6)] {
        let options = CudaOptions {
            deepest: Some(6),
            ..wide(DType::F16, weights)
        };
        let devices = Devices::take(1, 1).unwrap();
        let mut built = build_on_streams(true, &devices, &checkpoint, options);
        let found = embed(&mut built.model, &middle);
        assert!(found == want, "{weights:?}");
        let plan = built
            .model
            .members()
            .next()
            .unwrap()
            .backend()
            .plan()
            .clone();
        assert_eq!(plan.layers, 6, "{plan}");
        assert_eq!(plan.streamed, weights == streamed(2), "{plan}");
        assert!(plan.weight_bytes < whole.weight_bytes / 6, "{plan}");
        // A deeper layer than was announced is an error, and no wrong result.
        let deeper = request(&[7], mean, false);
        let error = built.model.submit(&middle[0].0, &deeper).unwrap_err();
        assert!(
            error.to_string().contains("the weights of layer 7"),
            "{error}"
        );
    }
}

/// Each layer is waited for before its kernels, and the load stream waits for the last use of a slot
/// before it writes the slot again; the loader goes on with the next pass before it begins.
#[test]
fn slots_are_waited_for_in_both_directions() {
    const SLOTS: usize = 2;
    let checkpoint = cuda::model::random_of(ModelConfig::dnabert(5, 32, 2));
    let Some(devices) = Devices::take(1, 1) else {
        return;
    };
    let options = wide(DType::F16, streamed(SLOTS));
    let mut built = build_on_streams(true, &devices, &checkpoint, options);
    let (batch, request) = work(5).remove(0);
    for _ in 0..2 {
        built.model.embed(&batch, &request).unwrap();
    }
    let cuda = built.model.members().next().unwrap().backend();
    // The embedding is on the device, and two passes have used five layers each.
    assert_eq!(cuda.layer_bytes().len(), 6);
    let log = built.manager.log().unwrap().entries();
    let of = |kind: StreamName| {
        let entries = log
            .iter()
            .filter(move |e| e.stream.is_some_and(|(name, _)| name == kind));
        entries.map(|e| e.what.clone()).collect::<Vec<_>>()
    };
    let count =
        |entries: &[String], start: &str| entries.iter().filter(|e| e.starts_with(start)).count();
    let (compute, load) = (of(StreamName::Compute), of(StreamName::Load));
    assert_eq!(count(&compute, "wait for layer"), 1 + 10);
    assert_eq!(count(&compute, "record used"), 10);
    // The loader may not have come to the next pass yet, but it comes no further than this.
    let (waits, records) = (count(&load, "wait for used"), count(&load, "record layer"));
    assert!((8..=10).contains(&waits), "{waits}: {load:?}");
    assert!((11..=13).contains(&records), "{records}");
    // In the compute stream, the layers' waits and records alternate.
    let order: Vec<&str> = compute
        .iter()
        .filter(|e| e.contains("layer ") || e.contains("used "))
        .map(|e| if e.contains("layer ") { "wait" } else { "used" })
        .collect();
    assert_eq!(order[1..], ["wait", "used"].repeat(10)[..]);
}

/// A running job takes no memory, and no call waits for a stream.
#[test]
fn streaming_allocates_nothing_and_synchronizes_nothing() {
    let checkpoint = cuda::model::random_of(ModelConfig::esm2(5, 32, 2));
    let Some(devices) = Devices::take(1, 2) else {
        return;
    };
    let Some(simulator) = &devices.simulator else {
        return not_run("this test counts calls of the simulated driver");
    };
    let options = wide(DType::F16, streamed(2));
    let mut built = build_on_streams(true, &devices, &checkpoint, options);
    let work = work(5);
    embed(&mut built.model, &work);
    let kinds = [
        "allocations",
        "host_allocations",
        "stream_synchronizes",
        "context_synchronizes",
        "implicit_synchronizes",
        "pageable_copies",
        "null_stream_operations",
    ];
    let before = kinds.map(|kind| counter(simulator, kind));
    let events = counter(simulator, "live_events");
    embed(&mut built.model, &work);
    assert_eq!(kinds.map(|kind| counter(simulator, kind)), before);
    assert_eq!(counter(simulator, "live_events"), events);
}

/// Wherever a job ends, its loader ends too: before the first pass, in the middle of a pass, with
/// passes in flight, and when the loader has loaded all it can.
#[test]
fn a_job_that_ends_anywhere_ends_its_loader() {
    let watchdog = watchdog("the end of streaming");
    let checkpoint = cuda::model::random_of(ModelConfig::esm2(5, 32, 2));
    let work = work(5);
    for at in ["the start", "the middle", "in flight", "idle", "failed"] {
        for seed in 0..2 {
            watchdog.alive();
            let Some(devices) = Devices::take(1, seed) else {
                return;
            };
            let builder = builder(&devices, wide(DType::F16, streamed(2)));
            let config = checkpoint.config();
            let mut model = seqstream::model::Model::load(builder, config, &checkpoint).unwrap();
            match at {
                "the start" => {}
                "the middle" => {
                    let ranges = [1..2, 1..2];
                    let cuda = model.backend_mut();
                    let mut pass = cuda.begin(0, &work[0].0, &ranges).unwrap();
                    pass.wait_for_weights(0).unwrap();
                    pass.wait_for_weights(3).unwrap();
                }
                "in flight" => {
                    for (batch, request) in &work[..3] {
                        model.submit(batch, request).unwrap();
                    }
                }
                "idle" => {
                    model.embed(&work[0].0, &work[0].1).unwrap();
                    model.backend_mut().settle().unwrap();
                }
                _ => {
                    let Some(simulator) = &devices.simulator else {
                        return;
                    };
                    model.embed(&work[0].0, &work[0].1).unwrap();
                    simulator.fault("cuLaunchKernel#1:719");
                    assert!(model.embed(&work[0].0, &work[0].1).is_err());
                }
            }
            drop(model);
            let Devices {
                contexts,
                simulator,
            } = devices;
            drop(contexts);
            if let Some(simulator) = simulator {
                simulator.assert_nothing_held(at);
            }
        }
    }
}

/// Whichever call fails, also of the loader's thread, the job ends with one error that has the code,
/// or it had not needed the call; nothing hangs and nothing is left.
#[test]
fn a_fault_while_layers_are_streamed_is_one_clean_error() {
    if wants_real() {
        return not_run("it is of the simulated driver");
    }
    let watchdog = watchdog("faults while layers are streamed");
    let checkpoint = cuda::model::random_of(ModelConfig::esm2(4, 32, 2));
    let work = &work(4)[..4];
    let options = wide(DType::F16, streamed(2));
    let Some((right, _)) = run(How(1, 0, true), &checkpoint, options, work) else {
        return;
    };
    let (mut errors, mut of_loads) = (0, 0);
    let mut texts = Vec::new();
    for function in [
        "cuMemcpyHtoDAsync_v2",
        "cuStreamWaitEvent",
        "cuEventRecord",
        "cuEventSynchronize",
        "cuLaunchKernel",
    ] {
        for (i, n) in (1..).step_by(23).enumerate() {
            watchdog.alive();
            let Some(devices) = Devices::take(1, n % 5) else {
                return;
            };
            let builder = builder(&devices, options);
            let config = checkpoint.config();
            let mut model = seqstream::model::Model::load(builder, config, &checkpoint).unwrap();
            let code = [2, 700, 719, 999][i % 4];
            let simulator = devices.simulator.as_ref().unwrap();
            simulator.fault(&format!("{function}#{n}:{code}"));
            let mut found = Vec::new();
            let mut all = || {
                for (batch, request) in work {
                    found.push(bits(model.embed(batch, request)?));
                }
                Ok::<(), seqstream::model::ModelError>(())
            };
            let result = all().map_err(|error| error.to_string());
            let what = format!("{function}#{n}:{code}: {result:?}");
            assert!(found[..] == right[..found.len()], "{what}");
            if let Err(text) = &result {
                assert!(text.contains(&format!("failed with {code} (")), "{what}");
                assert!(model.submit(&work[0].0, &work[0].1).is_err(), "{what}");
                errors += 1;
                texts.push(text.clone());
                of_loads += usize::from(text.contains("stream load 1"));
            }
            drop(model);
            let Devices {
                contexts,
                simulator,
            } = devices;
            drop(contexts);
            let simulator = simulator.unwrap();
            simulator.assert_nothing_held(&what);
            if simulator.counter("faults") == 0 {
                assert_eq!(result, Ok(()), "{what}");
                break;
            }
        }
    }
    assert!(
        errors > 6 && of_loads > 0,
        "{errors}, {of_loads} of loads: {texts:?}"
    );
}

/// Plans passes of 256 tokens on a simulated device of so many bytes; `None` if there is no such
/// device.
fn small_plan(
    checkpoint: &Checkpoint,
    memory: usize,
    weights: WeightMode,
) -> Option<Result<DevicePlan, CudaError>> {
    let mut devices = Devices::take(1, 0)?;
    let simulator = devices.simulator.as_ref()?;
    devices.contexts.clear();
    simulator.call::<extern "C" fn(usize)>("seqstream_sim_set_memory")(memory);
    simulator.call::<extern "C" fn(u32, u64) -> i32>("seqstream_sim_reset")(1, 0);
    devices.contexts.push(Context::new(0).unwrap());
    let mut builder = builder(&devices, wide(DType::F16, weights));
    name_parts(&mut builder, checkpoint.config(), checkpoint).unwrap();
    Some(builder.plan())
}

/// Where the model does not fit beside a useful pass, layers are streamed unless all are to stay;
/// where not even two layers fit, the error says what would help.
#[test]
fn a_card_that_is_too_small_for_all_layers_streams_them() {
    let config = ModelConfig::esm2(LAYERS, 64, 2);
    let checkpoint = cuda::model::random_of(config);
    if wants_real() {
        return not_run("this test sets the memory of the simulated device");
    }
    let Some(found) = small_plan(&checkpoint, 4 << 30, WeightMode::Auto) else {
        return;
    };
    let plan = |memory, weights| small_plan(&checkpoint, memory, weights).unwrap();
    let resident = found.unwrap();
    assert!(!resident.streamed && resident.automatic, "{resident}");
    let used = resident.weight_bytes + resident.pass_bytes + resident.reserved_bytes;

    // A smaller pass beside all layers is estimated to be faster than streaming with few tokens.
    let smaller = plan(used - 1, WeightMode::Auto).unwrap();
    assert!(
        !smaller.streamed && smaller.tokens_per_pass == 128,
        "{smaller}"
    );

    // Not even the smallest pass fits beside all layers, but a whole pass beside three slots.
    let little = used - 20 * resident.layer_bytes;
    let small = plan(little, WeightMode::Auto).unwrap();
    assert!(small.streamed && small.automatic, "{small}");
    assert_eq!((small.slots, small.tokens_per_pass), (3, 256), "{small}");
    assert!(small.notice().unwrap().contains("streamed through 3 slots"));
    let more = small.one_more_slot.unwrap();
    assert_eq!((more.bytes, more.tokens_per_pass), (small.layer_bytes, 256));
    assert_eq!(plan(little, streamed(4)).unwrap().slots, 4);

    // Two layers, and no third.
    let two = plan(used, streamed(2)).unwrap();
    let least = two.weight_bytes + two.pass_bytes + two.reserved_bytes;
    let chosen = plan(least, WeightMode::Auto).unwrap();
    assert_eq!((chosen.slots, chosen.tokens_per_pass), (2, 256), "{chosen}");
    assert_eq!(chosen.one_more_slot.unwrap().tokens_per_pass, 128);
    let error = plan(least, WeightMode::Resident).unwrap_err();
    assert!(error.to_string().contains("and the model needs"), "{error}");
    let remedy = error.remedy().unwrap().to_string();
    assert!(
        remedy.starts_with("stream the weights to the device"),
        "{remedy}"
    );
    let error = plan(least, streamed(40)).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("40 slots for layers of "), "{text}");
    let remedy = error.remedy().unwrap().to_string();
    assert!(
        remedy.starts_with("stream the weights through 2 slots"),
        "{remedy}"
    );

    // Not even two layers.
    let none = two.reserved_bytes + two.layer_bytes;
    for weights in [WeightMode::Auto, streamed(2)] {
        let error = plan(none, weights).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("even if its layers are streamed"), "{text}");
        assert!(text.contains("2 slots for layers of "), "{text}");
        let remedy = error.remedy().unwrap().to_string();
        assert!(remedy.starts_with("use a device with "), "{remedy}");
    }
    for slots in [0, 1, 5000] {
        let error = plan(used, streamed(slots)).unwrap_err().to_string();
        assert!(error.contains("is not among 2 to 1024"), "{error}");
    }
}

#[test]
fn on_a_real_gpu() {
    cuda::real::again(module_path!());
}
