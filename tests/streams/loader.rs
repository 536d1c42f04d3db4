//! Weights load on a separate thread: each layer is loaded before it is used, and nothing waits
//! forever.

use crate::support::cuda::simulator;
use crate::support::stream::loading::{
    A_WHILE, LAYER, Rig, UPLOAD, fences, layers_through_two_buffers, read, rig, rig_that_loads,
};
use crate::support::stream::{Reports, noise, watchdog};
use seqstream::gpu::driver::{Arena, DriverError};
use seqstream::stream::{
    Conversion, LayerFences, Loader, Loading, ProcessorOptions, Source, StreamError,
    StreamProcessor, UploadOptions, Uploader,
};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread::sleep;
use std::time::Instant;

#[test]
fn a_layer_is_there_before_it_is_used_however_late_it_is_loaded() {
    let watchdog = watchdog("resident layers");
    const LAYERS: u64 = 6;
    for seed in 0..24 {
        watchdog.alive();
        let simulator = simulator(1, seed);
        let reports = Reports::default();
        let Rig {
            manager,
            streams,
            mut ring,
            buffers,
            uploader,
        } = rig(LAYERS as usize, &reports, seed % 4 != 3);
        let loaded = fences(&streams, "layer", LAYERS as usize);
        let targets = buffers.clone();
        let work = move |uploader: &mut Uploader, loaded: &LayerFences| {
            for (layer, target) in targets.iter().enumerate() {
                if layer % 3 == 0 {
                    sleep(A_WHILE);
                }
                // Two pieces, like two consecutive tensors: the second piece begins inside a chunk.
                let bytes = noise(layer as u64 + 1, LAYER);
                uploader.upload(&bytes[..700], target, 0)?;
                uploader.upload(&bytes[700..], target, 700)?;
                assert_eq!(uploader.mark(loaded)?, layer as u64);
            }
            Ok(())
        };
        let loader = Loader::start(uploader, loaded, work).unwrap();
        for layer in 0..LAYERS {
            loader.loaded().wait(layer, ring.compute()).unwrap();
            read(&mut ring, layer, &buffers[layer as usize]).unwrap();
            let results = ring.collect().unwrap();
            assert!(
                results[..] == noise(layer + 1, LAYER),
                "seed {seed}, layer {layer}"
            );
        }
        // Resident layers are not waited for again.
        loader.loaded().wait(0, ring.compute()).unwrap();
        assert_eq!(simulator.counter("stream_synchronizes"), 0);
        drop((loader, ring, buffers, streams, manager));
        simulator.assert_nothing_held("resident layers");
        assert_eq!(simulator.findings() + &reports.text(), "");
    }
}

#[test]
fn a_ring_of_two_buffers_serves_layers_pass_after_pass() {
    let watchdog = watchdog("a ring of layers");
    for seed in 0..40 {
        watchdog.alive();
        let simulator = simulator(1, seed);
        let reports = Reports::default();
        layers_through_two_buffers(15, &reports);
        simulator.assert_nothing_held("a ring of layers");
        assert_eq!(simulator.findings() + &reports.text(), "", "seed {seed}");
    }
}

/// Tests slots that several threads fill while other slots are being copied.
#[test]
fn large_chunks_of_several_threads_arrive_whole() {
    const BYTES: usize = (5 << 20) + 77;
    let options = UploadOptions {
        slots: 3,
        slot_bytes: 600 << 10,
        threads: 3,
        through: false,
        ..UploadOptions::default()
    };
    for seed in 0..6 {
        let simulator = simulator(1, seed);
        let rig = rig(1, &Reports::default(), seed % 2 == 0);
        let context = rig.streams.compute.context();
        let ring = ProcessorOptions {
            slots: 1,
            input_bytes: 1,
            output_bytes: BYTES,
        };
        let bytes = ring.device_bytes() + Arena::footprint(BYTES);
        let mut arena = Arena::new(context, bytes).unwrap();
        let mut ring = StreamProcessor::new(&rig.streams, &mut arena, ring).unwrap();
        let target = arena.take("a tensor", BYTES).unwrap();
        let mut uploader =
            Uploader::new(&rig.manager.streams(0, 1).unwrap(), &mut arena, options).unwrap();
        let loaded = fences(&rig.streams, "layer", 1);
        let source = noise(seed + 1, BYTES);
        uploader.upload(&source, &target, 0).unwrap();
        uploader.mark(&loaded).unwrap();
        loaded.wait(0, ring.compute()).unwrap();
        ring.stage(0).unwrap();
        let copied = {
            let (stream, output) = (ring.compute(), ring.output().unwrap());
            // SAFETY: this is the slot's output while its batch is open; the tensor has been waited
            // for.
            unsafe { stream.copy(&target, output) }
        };
        copied.unwrap();
        ring.finish(BYTES).unwrap();
        assert!(ring.collect().unwrap()[..] == source, "seed {seed}");
        assert_eq!(simulator.findings(), "");
    }
}

/// Half of the bytes arrive, in order, at their target; a partial element is dropped.
#[test]
fn what_is_converted_on_its_way_arrives_converted() {
    let sums = Conversion {
        from: 4,
        to: 2,
        convert: |from, to| {
            for (to, from) in to.chunks_mut(2).zip(from.chunks(4)) {
                to[0] = from[0] ^ from[2];
                to[1] = from[1] ^ from[3];
            }
        },
    };
    for seed in 0..20 {
        let simulator = simulator(1, seed);
        let mut rig = rig(1, &Reports::default(), seed % 2 == 0);
        let loaded = fences(&rig.streams, "layer", 1);
        let source = noise(seed + 1, 2 * LAYER);
        let mut expected = vec![0; LAYER];
        (sums.convert)(&source, &mut expected);
        // Two pieces, like two consecutive tensors: the second piece begins inside a chunk of 512
        // bytes.
        let (first, second) = source.split_at(1404);
        let target = &rig.buffers[0];
        let first = [first, &[7; 3]].concat();
        rig.uploader.upload_as(&first, sums, target, 0).unwrap();
        rig.uploader.upload_as(second, sums, target, 702).unwrap();
        let error = rig
            .uploader
            .upload_as(second, sums, target, 703)
            .unwrap_err();
        assert!(
            matches!(
                error,
                StreamError::TooLarge {
                    bytes: 498,
                    capacity: 497,
                    ..
                }
            ),
            "{error}"
        );
        rig.uploader.mark(&loaded).unwrap();
        loaded.wait(0, rig.ring.compute()).unwrap();
        read(&mut rig.ring, 0, &rig.buffers[0]).unwrap();
        assert!(rig.ring.collect().unwrap()[..] == expected, "seed {seed}");
        assert_eq!(simulator.findings(), "");
    }
}

/// Sources of all sizes, converted or not, arrive at their offsets, whether they share a chunk or
/// are cut into several; chunks are as few as possible.
#[test]
fn sources_that_lie_together_share_chunks() {
    let halves = Conversion {
        from: 2,
        to: 1,
        convert: |from, to| {
            to.iter_mut()
                .zip(from.chunks(2))
                .for_each(|(t, f)| *t = f[0] ^ f[1])
        },
    };
    let convert = |bytes: &[u8]| {
        bytes
            .chunks_exact(2)
            .map(|f| f[0] ^ f[1])
            .collect::<Vec<u8>>()
    };
    // The place in the target, the stored bytes, and whether they are converted. A chunk has 512
    // bytes. The fourth source begins too far behind the third one to share its chunk.
    let all = [
        (0, noise(1, 5), false),
        (8, noise(2, 41), true),
        (100, noise(3, 300), false),
        (700, noise(4, 2), true),
        (701, noise(5, 0), false),
        (701, noise(6, 400), false),
        (1102, noise(7, 180), true),
    ];
    for seed in 0..20 {
        let simulator = simulator(1, seed);
        let mut rig = rig(1, &Reports::default(), seed % 2 == 0);
        let loaded = fences(&rig.streams, "layer", 1);
        let target = &rig.buffers[0];
        rig.uploader.upload(&[9; LAYER], target, 0).unwrap();
        let copies = simulator.counter("copies_to_device");
        let sources = all.each_ref().map(|(offset, bytes, converted)| Source {
            bytes,
            conversion: if *converted { halves } else { Conversion::NONE },
            offset: *offset,
        });
        rig.uploader.upload_all(&sources, target).unwrap();
        assert_eq!(simulator.counter("copies_to_device") - copies, 2, "chunks");
        rig.uploader.mark(&loaded).unwrap();
        loaded.wait(0, rig.ring.compute()).unwrap();
        read(&mut rig.ring, 0, target).unwrap();
        let results = rig.ring.collect().unwrap();
        for (offset, bytes, converted) in &all {
            let expected = if *converted {
                convert(bytes)
            } else {
                bytes.clone()
            };
            let got = &results[*offset..offset + expected.len()];
            assert!(got == expected, "seed {seed}, the source at {offset}");
        }
        // Bytes before a chunk and behind the last one are left alone.
        assert_eq!(results[400..700], [9; 300]);
        assert_eq!(results[1192..], [9; LAYER - 1192]);
        assert_eq!(simulator.findings(), "");
    }
}

/// The ways to the device that studies compare bring the same bytes.
#[test]
fn bytes_out_of_pageable_memory_and_over_a_slow_bus_are_the_same() {
    let pageable = Loading {
        pageable: true,
        ..Loading::default()
    };
    let slow = Loading {
        bytes_per_second: Some(100_000),
        ..Loading::default()
    };
    for (loading, copies) in [(pageable, 3), (slow, 0)] {
        for seed in 0..10 {
            let simulator = simulator(1, seed);
            let mut rig = rig_that_loads(1, &Reports::default(), true, loading);
            let loaded = fences(&rig.streams, "layer", 1);
            let bytes = noise(seed + 1, LAYER);
            let began = Instant::now();
            rig.uploader.upload(&bytes, &rig.buffers[0], 0).unwrap();
            if let Some(rate) = loading.bytes_per_second {
                // The last chunk may be sent when the others have had their time.
                let least = (LAYER - LAYER % 512) as f64 / rate as f64;
                assert!(began.elapsed().as_secs_f64() >= least);
            }
            rig.uploader.mark(&loaded).unwrap();
            loaded.wait(0, rig.ring.compute()).unwrap();
            read(&mut rig.ring, 0, &rig.buffers[0]).unwrap();
            assert!(rig.ring.collect().unwrap()[..] == bytes, "seed {seed}");
            assert_eq!(simulator.counter("pageable_copies"), copies);
            assert_eq!(simulator.findings(), "");
            // A driver that refuses the copy ends the job.
            simulator.fault("cuMemcpyHtoDAsync_v2#1:719");
            let failed = rig.uploader.upload(&bytes, &rig.buffers[0], 0);
            let Err(StreamError::Driver(DriverError { code: 719, at, .. })) = failed else {
                panic!("{failed:?}");
            };
            assert_eq!(at.operation.as_deref(), Some("load 512 bytes"));
        }
    }
}

#[test]
fn chunks_on_their_way_through_are_brought_to_their_place_in_order() {
    for seed in 0..20 {
        let simulator = simulator(1, seed);
        let mut rig = rig(2, &Reports::default(), true);
        let loaded = fences(&rig.streams, "layer", 1);
        let bytes = noise(9, LAYER);
        let (target, mirror) = (&rig.buffers[0], &rig.buffers[1]);
        let mut starts = Vec::new();
        rig.uploader
            .upload_through(&bytes, |chunk| {
                let range = chunk.start..chunk.start + chunk.staged.bytes();
                starts.push(range.clone());
                // The upload runs twice, as a cast reads the staged bytes and writes them
                // elsewhere.
                // SAFETY: nothing uses the targets before `loaded`.
                unsafe {
                    chunk
                        .stream
                        .copy(&chunk.staged, &target.slice(range.clone()))?;
                    chunk.stream.copy(&chunk.staged, &mirror.slice(range))
                }
            })
            .unwrap();
        assert_eq!(starts, [0..512, 512..1024, 1024..1200]);
        rig.uploader.mark(&loaded).unwrap();
        loaded.wait(0, rig.ring.compute()).unwrap();
        for batch in 0..2 {
            read(&mut rig.ring, batch, &rig.buffers[batch as usize]).unwrap();
            assert!(rig.ring.collect().unwrap()[..] == bytes, "seed {seed}");
        }
        // An error in the callback ends the job, with the host's description of it.
        let failed = rig.uploader.upload_through(&bytes, |chunk| {
            simulator.fault("cuMemsetD8Async#1:719");
            // SAFETY: nothing uses the chunk any more.
            unsafe { chunk.stream.fill(&chunk.staged, 0) }
        });
        let Err(StreamError::Driver(DriverError { code: 719, at, .. })) = failed else {
            panic!("{failed:?}");
        };
        assert_eq!(at.operation.as_deref(), Some("fill 512 bytes"));
        assert!(rig.ring.stage(3).is_err());
        drop((rig, loaded));
        simulator.assert_nothing_held("through the area");
    }
}

#[test]
fn an_upload_that_does_not_fit_or_has_no_area_is_refused() {
    let _simulator = simulator(1, 0);
    let mut rig = rig(1, &Reports::default(), true);
    let error = rig
        .uploader
        .upload(&[0; LAYER], &rig.buffers[0], 1)
        .unwrap_err();
    let (what, bytes, capacity) = ("a region of weights", LAYER, LAYER - 1);
    assert_eq!(
        error,
        StreamError::TooLarge {
            what,
            bytes,
            capacity
        }
    );
    assert!(
        rig.uploader
            .upload(&[], &rig.buffers[0], LAYER + 9)
            .is_err()
    );
    rig.uploader.upload(&[], &rig.buffers[0], LAYER).unwrap();
    let mut arena = Arena::new(rig.ring.compute().context(), 1).unwrap();
    let options = UploadOptions {
        through: false,
        ..UPLOAD
    };
    let mut plain = Uploader::new(&rig.streams, &mut arena, options).unwrap();
    let error = plain.upload_through(&[0], |_| Ok(())).unwrap_err();
    assert!(matches!(error, StreamError::OutOfOrder { .. }), "{error}");
    for options in [
        UploadOptions { slots: 0, ..UPLOAD },
        UploadOptions {
            threads: 99,
            ..UPLOAD
        },
    ] {
        assert!(Uploader::new(&rig.streams, &mut arena, options).is_err());
    }
}

type Work = Box<dyn FnOnce(&mut Uploader, &LayerFences) -> Result<(), StreamError> + Send>;

/// Returns the error that the compute thread receives when it waits for layer 1 while the loader
/// does this work.
fn waiting_for_layer_1(work: Work) -> (StreamError, String) {
    let simulator = simulator(1, 3);
    let reports = Reports::default();
    let rig = rig(1, &reports, true);
    let loaded = fences(&rig.streams, "layer", 2);
    let target = rig.buffers[0].clone();
    let work = move |uploader: &mut Uploader, loaded: &LayerFences| {
        uploader.upload(&noise(1, LAYER), &target, 0)?;
        uploader.mark(loaded)?;
        sleep(A_WHILE);
        work(uploader, loaded)
    };
    let loader = Loader::start(rig.uploader, loaded, work).unwrap();
    loader.loaded().wait(0, rig.ring.compute()).unwrap();
    let error = loader.loaded().wait(1, rig.ring.compute()).unwrap_err();
    drop((loader, rig.ring, rig.buffers, rig.streams, rig.manager));
    simulator.assert_nothing_held("a loader that failed");
    (error, reports.text())
}

#[test]
fn whoever_waits_for_a_layer_is_told_why_it_does_not_come() {
    let _watchdog = watchdog("a loader that fails");
    // The work returns an error of its own.
    let (what, bytes, capacity) = ("a region of weights", 2, 1);
    let failure = StreamError::TooLarge {
        what,
        bytes,
        capacity,
    };
    let own = failure.clone();
    let (error, told) = waiting_for_layer_1(Box::new(move |_, _| Err(own)));
    assert_eq!(error, failure);
    assert!(told.contains("2 bytes for a region of weights"), "{told}");
    // The work panics.
    let (error, told) = waiting_for_layer_1(Box::new(|_, _| panic!("no such tensor")));
    assert_eq!(error, StreamError::Panicked("no such tensor".into()));
    assert!(told.contains("no such tensor"), "{told}");
    // The work ends but has forgotten a layer: this is an error of the waiting thread.
    let (error, told) = waiting_for_layer_1(Box::new(|_, _| Ok(())));
    let (layer, loaded) = (1, 1);
    assert_eq!(error, StreamError::NotLoaded { layer, loaded });
    assert_eq!(told, "");
}

#[test]
fn a_failure_elsewhere_wakes_whoever_waits_and_ends_the_loader() {
    let _watchdog = watchdog("a failure elsewhere");
    let simulator = simulator(1, 3);
    let reports = Reports::default();
    let mut rig = rig(1, &reports, true);
    let loaded = fences(&rig.streams, "layer", 1);
    let used = fences(&rig.streams, "used", 1);
    let (target, waits) = (rig.buffers[0].clone(), Arc::clone(&used));
    // This work waits for a buffer that is never freed.
    let work = move |uploader: &mut Uploader, loaded: &LayerFences| {
        uploader.upload(&noise(1, LAYER), &target, 0)?;
        uploader.mark(loaded)?;
        uploader.wait_for(&waits, 0)
    };
    let loader = Loader::start(rig.uploader, loaded, work).unwrap();
    loader.loaded().wait(0, rig.ring.compute()).unwrap();
    sleep(A_WHILE);
    simulator.fault("cuEventRecord#1:700:sticky");
    let error = read(&mut rig.ring, 5, &rig.buffers[0]).unwrap_err();
    assert_eq!(used.wait(0, rig.ring.compute()), Err(error));
    drop(loader);
    assert!(reports.text().contains("cuEventRecord failed with 700"));
    drop((rig.ring, rig.buffers, rig.streams, rig.manager, used));
    simulator.assert_nothing_held("a failure elsewhere");
}

#[test]
fn a_loader_that_is_dropped_stops_wherever_it_is() {
    let _watchdog = watchdog("a dropped loader");
    for at in ["uploading", "waiting for a use", "done"] {
        let simulator = simulator(1, 2);
        let reports = Reports::default();
        let rig = rig(1, &reports, true);
        let loaded = fences(&rig.streams, "layer", 1);
        let target = rig.buffers[0].clone();
        let used = fences(&rig.streams, "used", 1);
        let never = Arc::clone(&used);
        let (there, begun) = channel();
        let work = move |uploader: &mut Uploader, _: &LayerFences| {
            there.send(()).unwrap();
            match at {
                // No pass will use this buffer any more.
                "waiting for a use" => uploader.wait_for(&never, 0),
                "uploading" => loop {
                    uploader.upload(&[1; LAYER], &target, 0)?;
                },
                _ => Ok(()),
            }
        };
        let loader = Loader::start(rig.uploader, loaded, work).unwrap();
        begun.recv().unwrap();
        if at == "waiting for a use" {
            sleep(A_WHILE);
        }
        drop(loader);
        // This is not a failure.
        assert_eq!(rig.manager.check(), Ok(()), "{at}");
        assert_eq!(reports.text(), "", "{at}");
        drop((rig.ring, rig.buffers, rig.streams, rig.manager, used));
        simulator.assert_nothing_held(at);
    }
}

#[test]
fn a_fault_at_every_call_with_a_loader_ends_without_a_hang_or_a_leak() {
    let watchdog = watchdog("faults with a loader");
    let mut errors = 0;
    for (code, variant) in [(2, ""), (700, ""), (719, ":async"), (54321, ":sticky")] {
        for n in 1..=150 {
            watchdog.alive();
            let simulator = simulator(1, n % 5);
            let reports = Reports::default();
            let Rig {
                manager,
                streams,
                mut ring,
                buffers,
                uploader,
            } = rig(2, &reports, true);
            let loaded = fences(&streams, "layer", 2);
            let used = fences(&streams, "used", 2);
            simulator.fault(&format!("{n}:{code}{variant}"));
            let (targets, done) = (buffers.clone(), Arc::clone(&used));
            let work = move |uploader: &mut Uploader, loaded: &LayerFences| {
                for n in 0..4 {
                    if n >= 2 {
                        uploader.wait_for(&done, n - 2)?;
                    }
                    uploader.upload(&noise(n + 1, LAYER), &targets[n as usize % 2], 0)?;
                    uploader.mark(loaded)?;
                }
                Ok(())
            };
            let loader = Loader::start(uploader, loaded, work).unwrap();
            let mut compute = || {
                for n in 0..4 {
                    loader.loaded().wait(n, ring.compute())?;
                    read(&mut ring, n, &buffers[n as usize % 2])?;
                    used.record(ring.compute())?;
                    let results = ring.collect()?;
                    assert!(
                        results[..] == noise(n + 1, LAYER),
                        "call {n}:{code}{variant}"
                    );
                }
                Ok(())
            };
            let computed: Result<(), StreamError> = compute();
            drop(loader);
            if let Err(StreamError::Driver(error)) = &computed {
                assert_eq!(error.code, code, "{error}");
                assert!(reports.text().contains(&error.to_string()));
                errors += 1;
            } else {
                assert_eq!(computed, Ok(()));
            }
            drop((ring, buffers, used, streams, manager));
            simulator.assert_nothing_held(&format!("call {n}:{code}{variant}"));
        }
    }
    assert!(errors > 100, "{errors}");
}
