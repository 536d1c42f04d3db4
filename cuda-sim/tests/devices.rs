//! Several devices, threads and stacks of contexts.
#![allow(clippy::unwrap_used)] // what cannot go on in a test panics

mod common;

use common::ffi::*;
use common::*;

#[test]
fn four_devices_pass_a_value_on() {
    for seed in 0..20 {
        let sim = Sim::start(4, seed);
        let mut source = Pinned::of(&[1.0; 8]);
        let mut result = Pinned::new(8);
        let mut before: Option<(u64, u64)> = None;
        // SAFETY: as declared.
        unsafe {
            for context in &sim.contexts {
                ok(cuCtxSetCurrent(*context));
                let mut module = 0;
                ok(cuModuleLoadData(&mut module, c"image".as_ptr().cast()));
                let add = function(module, "add");
                let (stream, done) = (stream(NON_BLOCKING), event());
                let (input, output) = (alloc(32), alloc(32));
                match before {
                    None => ok(cuMemcpyHtoDAsync_v2(input, source.at.cast(), 32, stream)),
                    Some((output, done)) => {
                        ok(cuStreamWaitEvent(stream, done, 0));
                        ok(cuMemcpyDtoDAsync_v2(input, output, 32, stream));
                    }
                }
                ok(launch_add(add, stream, output, input, 8, 1.0));
                ok(cuEventRecord(done, stream));
                before = Some((output, done));
                // From the last device alone: several copies to one place would have no order.
                if *context == sim.contexts[3] {
                    ok(cuMemcpyDtoHAsync_v2(result.at.cast(), output, 32, stream));
                }
            }
            // The last device is current: its work is done, and that of the others it waited for.
            ok(cuCtxSynchronize());
        }
        assert_eq!(result.slice()[0], 5.0, "seed {seed}");
        source.slice().fill(0.0);
    }
}

#[test]
fn what_belongs_to_one_device_is_refused_on_another() {
    let sim = Sim::start(2, 0);
    let (add, here, event, at) = (
        sim.function("add"),
        stream(NON_BLOCKING),
        event(),
        alloc(32),
    );
    // SAFETY: as declared.
    unsafe {
        ok(cuCtxSetCurrent(sim.contexts[1]));
        let there = stream(NON_BLOCKING);
        let other = alloc(32);
        assert_eq!(cuEventRecord(event, there), 400);
        assert_eq!(launch_add(add, there, at, at, 8, 1.0), 400);
        assert_eq!(launch_add(add, here, at, at, 8, 1.0), 400);
        // Waits, queries and copies go across.
        ok(cuStreamWaitEvent(there, event, 0));
        ok(cuEventQuery(event));
        ok(cuMemsetD8Async(at, 0, 32, here));
        ok(cuStreamSynchronize(here));
        // A kernel reaches its own device's memory only.
        ok(cuCtxSetCurrent(sim.contexts[0]));
        ok(launch_add(add, here, other, at, 8, 1.0));
        assert_eq!(cuStreamSynchronize(here), 700);
    }
    assert!(
        findings().contains("no memory of this device"),
        "{}",
        findings()
    );
}

#[test]
fn each_thread_has_its_own_stack_of_contexts() {
    let sim = Sim::start(3, 0);
    let device = || {
        let mut device = -1;
        // SAFETY: as declared.
        let code = unsafe { cuCtxGetDevice(&mut device) };
        (code, device)
    };
    let second = sim.contexts[1];
    // SAFETY: as declared.
    unsafe {
        ok(cuCtxPushCurrent_v2(sim.contexts[2]));
        std::thread::spawn(move || {
            assert_eq!(device().0, 201);
            ok(cuCtxSetCurrent(second));
            assert_eq!(device(), (0, 1));
        })
        .join()
        .unwrap();
        assert_eq!(device(), (0, 2));
        let mut popped = 0;
        ok(cuCtxPopCurrent_v2(&mut popped));
        assert_eq!((popped, device()), (sim.contexts[2], (0, 0)));
        ok(cuCtxPopCurrent_v2(&mut popped));
        assert_eq!(cuCtxPopCurrent_v2(&mut popped), 201);
    }
}

#[test]
fn a_primary_context_lives_until_its_last_release() {
    let sim = Sim::start(1, 0);
    let mut again = 0;
    // SAFETY: as declared.
    unsafe {
        ok(cuDevicePrimaryCtxRetain(&mut again, 0));
        assert_eq!(again, sim.contexts[0]);
        ok(cuDevicePrimaryCtxRelease_v2(0));
        alloc(16);
        ok(cuDevicePrimaryCtxRelease_v2(0));
        let mut out = 0;
        assert_eq!(cuMemAlloc_v2(&mut out, 16), 201);
        assert_eq!(cuDevicePrimaryCtxRelease_v2(0), 201);
    }
}

#[test]
fn devices_say_what_they_are() {
    let _sim = Sim::start(2, 0);
    let mut name = [0u8; 64];
    let mut value = 0;
    // SAFETY: the buffer has 64 bytes.
    unsafe {
        ok(cuDeviceGetName(name.as_mut_ptr().cast(), 64, 1));
        assert!(name.starts_with(b"Simulated H100\0"));
        for (attribute, expected) in [(75, 9), (76, 0), (16, 4), (97, 227 << 10), (33, 2)] {
            ok(cuDeviceGetAttribute(&mut value, attribute, 1));
            assert_eq!(value, expected, "attribute {attribute}");
        }
    }
}

#[test]
fn memory_is_freed_by_a_thread_that_has_a_context() {
    let sim = Sim::start(1, 0);
    let (at, context) = (alloc(16), sim.contexts[0]);
    std::thread::spawn(move || {
        // SAFETY: as declared.
        unsafe {
            assert_eq!(cuMemFree_v2(at), 201);
            assert_eq!(counters().live_allocations, 1);
            ok(cuCtxSetCurrent(context));
            ok(cuMemFree_v2(at));
        }
    })
    .join()
    .unwrap();
}

#[test]
fn a_thread_a_device() {
    for seed in 0..5 {
        let sim = Sim::start(4, seed);
        let threads: Vec<_> = (0u8..4)
            .map(|device| {
                let context = sim.contexts[usize::from(device)];
                std::thread::spawn(move || {
                    let base = f32::from(device) * 100.0;
                    // SAFETY: as declared.
                    unsafe {
                        ok(cuCtxSetCurrent(context));
                        let mut module = 0;
                        ok(cuModuleLoadData(&mut module, c"image".as_ptr().cast()));
                        let (add, stream) = (function(module, "add"), stream(NON_BLOCKING));
                        let (mut host, at) = (Pinned::new(64), alloc(256));
                        for round in 0..20u8 {
                            let value = base + f32::from(round);
                            host.slice().fill(value);
                            ok(cuMemcpyHtoDAsync_v2(at, host.at.cast(), 256, stream));
                            ok(launch_add(add, stream, at, at, 64, 0.5));
                            ok(cuMemcpyDtoHAsync_v2(host.at.cast(), at, 256, stream));
                            ok(cuStreamSynchronize(stream));
                            assert_eq!(host.slice(), [value + 0.5; 64]);
                        }
                        ok(cuMemFree_v2(at));
                        host.free();
                    }
                })
            })
            .collect();
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        assert_eq!(counters().launches, 80);
    }
}
