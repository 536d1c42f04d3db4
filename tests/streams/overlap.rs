//! Streams, slots and fences: right under every schedule, one wait per batch, clean after any
//! fault.

use crate::support::cuda::simulator;
use crate::support::stream::{Plan, Reports, job, noise, right, run, units, watchdog};
use seqstream::gpu::driver::{Arena, Busy, Context, DriverError, StreamName};
use seqstream::stream::{
    LOG_VARIABLE, ProcessorOptions, StreamError, StreamManager, StreamOptions, StreamProcessor,
};

#[test]
fn results_are_right_and_in_order_under_every_schedule() {
    let watchdog = watchdog("schedules");
    for devices in [1, 4] {
        for seed in 0..60 {
            watchdog.alive();
            let simulator = simulator(devices, seed);
            let plan = Plan {
                devices,
                slots: 1 + (seed % 4) as usize,
                batches: 9,
                ..Plan::default()
            };
            let reports = Reports::default();
            let (outcomes, result) = job(plan, reports.options());
            assert_eq!(result, Ok(()), "seed {seed}");
            assert_eq!(outcomes.len() as u64, plan.batches * u64::from(devices));
            for device in 0..devices {
                let mine = outcomes.iter().filter(|(d, ..)| *d == device);
                let order: Vec<u64> = mine.map(|(_, batch, _)| *batch).collect();
                assert_eq!(order, (0..plan.batches).collect::<Vec<_>>());
            }
            for outcome in &outcomes {
                let (device, batch, _) = outcome;
                assert!(
                    right(plan, outcome),
                    "{devices} devices, seed {seed}: batch {batch} of device {device}"
                );
            }
            simulator.assert_nothing_left(&format!("seed {seed}"));
            assert_eq!(simulator.findings(), "");
            assert_eq!(reports.text(), "");
        }
    }
}

#[test]
fn with_the_streams_off_the_bits_are_the_same() {
    let _watchdog = watchdog("streams off");
    for seed in [0, 3, 8] {
        let mut all = Vec::new();
        for overlap in [true, false] {
            let simulator = simulator(2, seed);
            let plan = Plan {
                devices: 2,
                overlap,
                ..Plan::default()
            };
            let (outcomes, result) = job(plan, Reports::default().options());
            result.unwrap();
            assert!(outcomes.iter().all(|outcome| right(plan, outcome)));
            simulator.assert_nothing_left("streams off");
            all.push(outcomes);
        }
        assert!(
            all.iter().all(|outcomes| *outcomes == all[0]),
            "seed {seed}"
        );
    }
}

#[test]
fn the_host_waits_once_a_batch_and_a_running_job_allocates_nothing() {
    const WAITS: [&str; 7] = [
        "stream_synchronizes",
        "context_synchronizes",
        "implicit_synchronizes",
        "queries",
        "pageable_copies",
        "allocations",
        "host_allocations",
    ];
    const HELD: [&str; 3] = ["live_streams", "live_events", "null_stream_operations"];
    for devices in [1, 4] {
        let simulator = simulator(devices, 5);
        let plan = Plan {
            devices,
            slots: 3,
            batches: 11,
            ..Plan::default()
        };
        let (_manager, mut units) = units(plan, Reports::default().options()).unwrap();
        for unit in &mut units {
            unit.start(plan).unwrap();
        }
        let read = |names: &[&str]| {
            names
                .iter()
                .map(|n| simulator.counter(n))
                .collect::<Vec<_>>()
        };
        let (waits, held) = (read(&WAITS), read(&HELD));
        let (loads, events) = (
            simulator.counter("copies_to_device"),
            simulator.counter("event_synchronizes"),
        );
        let mut outcomes = Vec::new();
        for batch in 0..plan.batches {
            for unit in &mut units {
                if unit.ring.free_slots() == 0 {
                    unit.collect(&mut outcomes).unwrap();
                }
                unit.submit(batch).unwrap();
            }
        }
        for unit in &mut units {
            while unit.ring.free_slots() < plan.slots {
                unit.collect(&mut outcomes).unwrap();
            }
        }
        let batches = plan.batches * u64::from(devices);
        assert_eq!(outcomes.len() as u64, batches);
        assert_eq!(simulator.counter("event_synchronizes") - events, batches);
        // Inputs are staged in two parts each; the first part of a single byte is empty.
        let ones = 3 * u64::from(devices);
        assert_eq!(
            simulator.counter("copies_to_device") - loads,
            2 * batches - ones
        );
        assert_eq!(read(&WAITS), waits);
        assert_eq!(read(&HELD), held);
        // Streams, fences and memory all exist before the job, and so do the chunks for weights.
        assert_eq!(simulator.counter("null_stream_operations"), 0);
        assert_eq!(simulator.counter("pageable_copies"), 0);
    }
}

#[test]
fn an_upload_waits_only_for_a_slot_that_it_writes_again() {
    for seed in 0..20 {
        let simulator = simulator(1, seed);
        let plan = Plan {
            weights: 512 * 9 + 7,
            batches: 40,
            ..Plan::default()
        };
        let (_manager, mut units) = units(plan, Reports::default().options()).unwrap();
        units[0].start(plan).unwrap();
        assert_eq!(simulator.counter("copies_to_device"), 10, "chunks");
        assert_eq!(simulator.counter("event_synchronizes"), 10);
        assert_eq!(simulator.counter("stream_synchronizes"), 0);
        let mut outcomes = Vec::new();
        for batch in 0..plan.batches {
            units[0].submit(batch).unwrap();
            units[0].collect(&mut outcomes).unwrap();
        }
        assert!(outcomes.iter().all(|outcome| right(plan, outcome)));
    }
}

#[test]
fn a_ring_refuses_what_it_cannot_do() {
    let simulator = simulator(1, 0);
    let (_manager, mut units) = units(Plan::default(), Reports::default().options()).unwrap();
    let ring = &mut units[0].ring;
    assert_eq!(ring.free_slots(), 2);
    for result in [
        ring.async_load(1),
        ring.finish(1).map(|_| ()),
        ring.staging().map(|_| ()),
        ring.input().map(|_| ()),
        ring.collect().map(|_| ()),
        ring.results().map(|_| ()),
    ] {
        assert!(
            matches!(result, Err(StreamError::OutOfOrder { .. })),
            "{result:?}"
        );
    }
    assert_eq!(ring.stage(0).unwrap().len(), 1000);
    assert!(matches!(ring.stage(1), Err(StreamError::OutOfOrder { .. })));
    ring.async_load(990).unwrap();
    assert_eq!(ring.staging().unwrap().len(), 10);
    let error = ring.async_load(11).unwrap_err();
    let (what, bytes, capacity) = ("the inputs of a batch", 11, 10);
    assert_eq!(
        error,
        StreamError::TooLarge {
            what,
            bytes,
            capacity
        }
    );
    assert!(matches!(
        ring.finish(9999),
        Err(StreamError::TooLarge { .. })
    ));
    ring.finish(10).unwrap();
    assert!(
        matches!(ring.results(), Err(StreamError::OutOfOrder { .. })),
        "not waited for"
    );
    ring.stage(1).unwrap();
    assert_eq!(ring.free_slots(), 0);
    ring.finish(0).unwrap();
    let error = ring.stage(2).err().unwrap();
    assert_eq!(error, StreamError::Full { slots: 2 });
    assert!(error.remedy().is_some());
    // A batch is waited for once and read as often as needed, until it is released.
    assert_eq!(ring.wait().unwrap(), ring.wait().unwrap());
    assert_eq!(ring.results().unwrap().len(), 10);
    ring.release();
    ring.release();
    assert_eq!(ring.free_slots(), 1);
    assert_eq!(ring.collect().unwrap().len(), 0);
    // None of these errors ended the job.
    ring.stage(3).unwrap();
    ring.async_load(5).unwrap();
    assert!(simulator.counter("pending_operations") > 0);
    ring.abandon().unwrap();
    assert_eq!(simulator.counter("pending_operations"), 0);
    assert_eq!(ring.free_slots(), 2);
}

#[test]
fn streams_are_found_by_device_and_kind_and_say_whether_they_work() {
    let _simulator = simulator(3, 0);
    let options = StreamOptions {
        compute: 2,
        ..Reports::default().options()
    };
    let mut manager = StreamManager::new(options.clone()).unwrap();
    let contexts = [0, 2].map(|device| Context::new(device).unwrap());
    manager.create_streams(&contexts).unwrap();
    let before = manager.status().unwrap();
    manager.create_streams(&contexts).unwrap();
    assert_eq!(manager.status().unwrap(), before, "made once");
    assert_eq!(before.len(), 2 * (2 + 2 + 1));
    assert!(before.iter().all(|s| s.busy == Busy::Idle));
    let stream = manager.get_stream_at(2, StreamName::Compute, 1).unwrap();
    assert_eq!((stream.name(), stream.number()), (StreamName::Compute, 1));
    assert_eq!(stream.context().ordinal(), 2);
    let error = manager.get_stream_at(1, StreamName::Load, 0).unwrap_err();
    assert_eq!(error.to_string(), "device 1 has no load stream 0");
    assert!(manager.get_stream_at(0, StreamName::Store, 1).is_err());

    let region = Arena::new(&contexts[1], 64)
        .unwrap()
        .take("filled", 64)
        .unwrap();
    // This is more than a query lets happen.
    for value in 0..20 {
        // SAFETY: nothing else accesses the region.
        unsafe { stream.fill(&region, value).unwrap() };
    }
    let busy: Vec<_> = manager.status().unwrap();
    let busy: Vec<_> = busy.iter().filter(|s| s.busy == Busy::Active).collect();
    assert_eq!(busy.len(), 1);
    assert_eq!(
        (busy[0].device, busy[0].kind, busy[0].index),
        (2, StreamName::Compute, 1)
    );
    manager.synchronize(Some(0)).unwrap();
    assert_eq!(
        manager
            .status()
            .unwrap()
            .iter()
            .filter(|s| s.busy == Busy::Active)
            .count(),
        1
    );
    manager.synchronize(None).unwrap();
    assert_eq!(manager.status().unwrap(), before);

    // With streams off, one stream serves all.
    let options = StreamOptions {
        overlap: false,
        ..options
    };
    let mut manager = StreamManager::new(options).unwrap();
    manager.create_streams(&contexts).unwrap();
    assert_eq!(manager.status().unwrap().len(), 2);
    let load = manager.get_stream_at(0, StreamName::Load, 1).unwrap();
    let store = manager.get_stream_at(0, StreamName::Store, 0).unwrap();
    assert!(std::sync::Arc::ptr_eq(load, store));
    assert!(
        StreamManager::new(StreamOptions {
            load: 0,
            ..StreamOptions::default()
        })
        .is_err()
    );
}

#[derive(Debug, PartialEq)]
enum Why {
    Stream(StreamError),
    Item(u64),
}

impl From<StreamError> for Why {
    fn from(error: StreamError) -> Self {
        Why::Stream(error)
    }
}

#[test]
fn the_loop_prepares_ahead_hands_out_in_order_and_stops_cleanly() {
    let _watchdog = watchdog("loop");
    for seed in 0..20 {
        let simulator = simulator(1, seed);
        let reports = Reports::default();
        let mut manager = StreamManager::new(StreamOptions {
            overlap: seed % 2 == 0,
            ..reports.options()
        })
        .unwrap();
        let context = Context::new(0).unwrap();
        manager
            .create_streams(std::slice::from_ref(&context))
            .unwrap();
        let options = ProcessorOptions {
            slots: 3,
            input_bytes: 600,
            output_bytes: 600,
        };
        let mut arena = Arena::new(&context, options.device_bytes()).unwrap();
        let streams = manager.streams(0, 0).unwrap();
        let mut ring = StreamProcessor::new(&streams, &mut arena, options).unwrap();
        let prepared = std::cell::Cell::new(0);
        let ahead = std::cell::Cell::new(0);
        let mut pass = |bad_input: u64, bad_output: u64, launch_fails: bool| {
            prepared.set(0);
            let mut consumed = 0;
            let result = ring.process_with_overlap(
                0..10u64,
                |item, staging| {
                    prepared.set(prepared.get() + 1);
                    if item == bad_input {
                        return Err(Why::Item(item));
                    }
                    let bytes = noise(item + 1, 60 * item as usize + 1);
                    staging[..bytes.len()].copy_from_slice(&bytes);
                    Ok(bytes.len())
                },
                |batch| {
                    if launch_fails && batch.batch == 4 {
                        batch.compute.synchronize()?;
                    }
                    // SAFETY: these are the slot's regions, while its batch is open.
                    unsafe { batch.compute.copy(&batch.input, batch.output)? };
                    Ok(batch.input.bytes())
                },
                |batch, results| {
                    assert_eq!(batch, consumed);
                    if batch == bad_output {
                        return Err(Why::Item(batch));
                    }
                    assert!(
                        results == noise(batch + 1, 60 * batch as usize + 1),
                        "seed {seed}"
                    );
                    consumed += 1;
                    ahead.set(ahead.get().max(prepared.get() - batch));
                    Ok(())
                },
            );
            (result, consumed)
        };
        assert_eq!(pass(99, 99, false), (Ok(10), 10));
        assert_eq!(ahead.get(), 3, "as many in flight as there are slots");
        // After the host's own errors the ring is as new.
        assert_eq!(pass(5, 99, false), (Err(Why::Item(5)), 3));
        assert_eq!(pass(99, 6, false), (Err(Why::Item(6)), 6));
        assert_eq!(pass(99, 99, false), (Ok(10), 10));
        simulator.fault("cuStreamSynchronize#1:999");
        let (result, consumed) = pass(99, 99, true);
        let Err(Why::Stream(StreamError::Driver(error))) = result else {
            panic!("{result:?}");
        };
        assert_eq!((error.code, error.at.batch, consumed), (999, Some(4), 2));
        assert!(reports.text().contains("batch 4"));
        assert!(matches!(pass(99, 99, false), (Err(Why::Stream(_)), 0)));
        drop((ring, arena, streams, manager, context));
        simulator.assert_nothing_left("loop");
    }
}

#[test]
fn the_log_has_what_each_stream_was_given() {
    let _simulator = simulator(1, 0);
    let plan = Plan {
        batches: 3,
        ..Plan::default()
    };
    let options = StreamOptions {
        log: Some(18),
        ..Reports::default().options()
    };
    let (manager, mut units) = units(plan, options).unwrap();
    run(plan, &mut units, &mut Vec::new()).unwrap();
    let entries = manager.log().unwrap().entries();
    assert_eq!(entries.len(), 18, "bounded");
    let lines: Vec<String> = entries
        .iter()
        .filter(|entry| entry.batch == Some(2))
        .map(|entry| {
            let stream = entry
                .stream
                .map_or("host".to_owned(), |(n, i)| format!("{n} {i}"));
            format!("{stream}: {}", entry.what)
        })
        .collect();
    let wanted = [
        "load 0: load 12 bytes",
        "load 0: record loaded 0",
        "compute 0: wait for loaded 0",
        "load 0: load 25 bytes",
        "load 0: record loaded 0",
        "compute 0: wait for loaded 0",
        "compute 0: copy 19 bytes",
        "compute 0: copy 18 bytes",
        "compute 0: copy 48 bytes",
        "compute 0: fill 16 bytes",
        "compute 0: record computed 0",
        "store 0: wait for computed 0",
        "store 0: store 101 bytes",
        "store 0: record stored 0",
        "host: wait for stored 0",
    ];
    assert_eq!(lines, wanted);
}

/// This runs in its own process, since the environment belongs to the process.
#[test]
fn the_environment_asks_for_the_log_in_a_file() {
    if std::env::var_os(LOG_VARIABLE).is_some() {
        let _simulator = simulator(1, 0);
        let options = Reports::default().options().from_environment();
        job(Plan::default(), options).1.unwrap();
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("streams.log");
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "overlap::the_environment_asks_for_the_log_in_a_file",
        ])
        .env(LOG_VARIABLE, &file)
        .output()
        .unwrap();
    assert!(status.status.success(), "{status:?}");
    let log = std::fs::read_to_string(file).unwrap();
    for part in [
        "device 0 load 1: load 512 bytes",
        "device 0 load 1: record layer 0",
        "device 0 compute 0 batch 6: fill 16 bytes",
        "device 0 host batch 6: wait for stored 0",
    ] {
        assert!(log.contains(part), "{part} is not in\n{log}");
    }
}

#[test]
fn an_arena_has_what_was_asked_for_and_regions_have_parts() {
    let _simulator = simulator(1, 0);
    let context = Context::new(0).unwrap();
    let mut arena = Arena::new(&context, 2000).unwrap();
    let left = arena.left();
    assert_eq!(left, Arena::footprint(2000));
    let region = arena.take("all", left).unwrap();
    let part = region.slice(300..1000).slice(10..20);
    assert_eq!((part.address(), part.bytes()), (region.address() + 310, 10));
    let error: DriverError = arena.take("more", 1).unwrap_err();
    assert_eq!(error.code, 2);
    let said = "placing more, 1 bytes of 0 left";
    assert!(error.to_string().contains(said), "{error}");
}
