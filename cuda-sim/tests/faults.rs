//! Errors: ordered ones, those that a kernel runs into, and what they leave behind.
#![allow(clippy::unwrap_used)] // what cannot go on in a test panics

mod common;

use common::ffi::*;
use common::*;

type Step<T> = Result<T, i32>;

fn check(code: i32) -> Step<()> {
    if code == 0 { Ok(()) } else { Err(code) }
}

/// What a program holds, given back in the order of its making reversed, whatever happens.
#[derive(Default)]
struct Held {
    context: bool,
    module: u64,
    stream: u64,
    event: u64,
    device: Vec<u64>,
    host: Vec<*mut f32>,
}

impl Held {
    /// Errors of the way out are not errors of the program.
    fn give_back(self) {
        // SAFETY: each of these was handed out, and is given back once.
        unsafe {
            self.host
                .into_iter()
                .for_each(|at| _ = cuMemFreeHost(at.cast()));
            self.device.into_iter().for_each(|at| _ = cuMemFree_v2(at));
            for (handle, destroy) in [
                (
                    self.event,
                    cuEventDestroy_v2 as unsafe extern "C" fn(u64) -> i32,
                ),
                (self.stream, cuStreamDestroy_v2),
                (self.module, cuModuleUnload),
            ] {
                if handle != 0 {
                    _ = destroy(handle);
                }
            }
            if self.context {
                _ = cuDevicePrimaryCtxRelease_v2(0);
            }
        }
    }
}

/// A small program: 8 values to the device, a kernel, 8 back. Each call's error ends it.
fn program(held: &mut Held) -> Step<Vec<f32>> {
    let function = &mut 0;
    let mut host = || {
        let mut at = std::ptr::null_mut();
        // SAFETY: as declared.
        check(unsafe { cuMemHostAlloc(&mut at, 32, 0) })?;
        held.host.push(at.cast());
        Step::Ok(at.cast::<f32>())
    };
    let context = &mut 0;
    // SAFETY: as declared; pinned memory has 8 values, and is touched only while nothing is pending on it.
    unsafe {
        check(cuInit(0))?;
        check(cuDevicePrimaryCtxRetain(context, 0))?;
        held.context = true;
        check(cuCtxSetCurrent(*context))?;
        check(cuModuleLoadData(&mut held.module, c"image".as_ptr().cast()))?;
        check(cuModuleGetFunction(function, held.module, c"add".as_ptr()))?;
        check(cuStreamCreate(&mut held.stream, NON_BLOCKING))?;
        check(cuEventCreate(&mut held.event, 2))?;
        let (staging, result) = (host()?, host()?);
        for _ in 0..2 {
            let mut at = 0;
            check(cuMemAlloc_v2(&mut at, 32))?;
            held.device.push(at);
        }
        std::slice::from_raw_parts_mut(staging, 8).fill(1.0);
        check(cuMemcpyHtoDAsync_v2(
            held.device[0],
            staging.cast(),
            32,
            held.stream,
        ))?;
        check(launch_add(
            *function,
            held.stream,
            held.device[1],
            held.device[0],
            8,
            1.0,
        ))?;
        check(cuMemcpyDtoHAsync_v2(
            result.cast(),
            held.device[1],
            32,
            held.stream,
        ))?;
        check(cuEventRecord(held.event, held.stream))?;
        check(cuEventSynchronize(held.event))?;
        Ok(std::slice::from_raw_parts(result, 8).to_vec())
    }
}

fn run() -> Step<Vec<f32>> {
    let mut held = Held::default();
    let result = program(&mut held);
    held.give_back();
    result
}

#[track_caller]
fn nothing_is_left() {
    let c = counters();
    let live = [
        c.live_allocations,
        c.live_host_allocations,
        c.live_contexts,
        c.live_streams,
        c.live_events,
    ];
    assert_eq!(live, [0; 5], "{}", log());
    assert_eq!(
        (c.live_modules, c.pending_operations, c.leaked_allocations),
        (0, 0, 0),
        "{}",
        log()
    );
}

#[test]
fn a_fault_at_each_call_is_an_error_and_leaves_nothing() {
    let _sim = Sim::bare(1, 0);
    assert_eq!(run(), Ok(vec![2.0; 8]));
    nothing_is_left();
    let calls = counters().calls;
    // The program's own calls; those after it give back.
    const OWN: u64 = 16;
    assert!(calls > OWN);
    for code in [2, 700, 719, 999] {
        for nth in 1..=calls {
            // SAFETY: as declared.
            unsafe { seqstream_sim_reset(1, nth) };
            order_fault(&format!("{nth}:{code}"));
            let result = run();
            if nth <= OWN {
                assert_eq!(result, Err(code), "call {nth}");
            } else {
                assert_eq!(result, Ok(vec![2.0; 8]), "call {nth}");
            }
            assert_eq!(counters().faults, 1, "call {nth}");
            nothing_is_left();
        }
    }
    // One more is not reached.
    order_fault(&format!("{}:2", calls + 1));
    run().unwrap();
    assert_eq!(counters().faults, 1);
}

#[test]
fn an_error_of_the_moment_leaves_the_context_usable() {
    let _sim = Sim::start(1, 0);
    order_fault("cuMemAlloc_v2#2:2");
    let first = alloc(16);
    let mut out = 0;
    // SAFETY: as declared.
    unsafe {
        assert_eq!(cuMemAlloc_v2(&mut out, 16), 2);
        ok(cuMemFree_v2(first));
    }
    alloc(16);
}

#[test]
fn a_lost_context_returns_its_error_from_every_call_until_it_is_released() {
    let sim = Sim::start(1, 0);
    let (stream, event, at) = (stream(NON_BLOCKING), event(), alloc(32));
    let pinned = Pinned::of(&[1.0; 8]);
    order_fault("cuStreamSynchronize#1:719");
    let mut out = 0;
    // SAFETY: as declared.
    unsafe {
        ok(cuMemcpyHtoDAsync_v2(at, pinned.at.cast(), 32, stream));
        assert_eq!(cuStreamSynchronize(stream), 719);
        let c = counters();
        assert_eq!(
            (
                c.lost_contexts,
                c.discarded_operations,
                c.pending_operations
            ),
            (1, 1, 0)
        );
        let codes = [
            cuMemAlloc_v2(&mut out, 16),
            cuMemcpyHtoDAsync_v2(at, pinned.at.cast(), 32, stream),
            cuStreamCreate(&mut out, 0),
            cuStreamQuery(stream),
            cuStreamWaitEvent(stream, event, 0),
            cuEventCreate(&mut out, 0),
            cuEventRecord(event, stream),
            cuEventQuery(event),
            cuEventSynchronize(event),
            cuCtxSynchronize(),
            cuModuleGetFunction(&mut out, sim.module, c"add".as_ptr()),
            cuMemFree_v2(at),
            cuStreamDestroy_v2(stream),
            cuEventDestroy_v2(event),
            cuModuleUnload(sim.module),
            cuMemFreeHost(pinned.at.cast()),
        ];
        assert_eq!(codes, [719; 16]);
        // What asks for no context goes on.
        let mut count = 0;
        ok(cuDeviceGetCount(&mut count));
        ok(cuCtxSetCurrent(sim.contexts[0]));
        ok(cuDevicePrimaryCtxRelease_v2(0));
        nothing_is_left();
        ok(cuDevicePrimaryCtxRetain(&mut out, 0));
        ok(cuCtxSetCurrent(out));
    }
    alloc(16);
}

#[test]
fn a_kernel_that_fails_is_reported_when_its_result_is_needed() {
    let sim = Sim::start(1, 0);
    let (fails, stream) = (sim.function("fails"), stream(NON_BLOCKING));
    let none = std::ptr::null_mut();
    // SAFETY: the kernel has no parameters.
    unsafe {
        ok(cuLaunchKernel(
            fails, 1, 1, 1, 32, 1, 1, 0, stream, none, none,
        ));
        assert_eq!(cuStreamSynchronize(stream), 719);
        assert_eq!(cuStreamSynchronize(stream), 719);
    }
    assert!(
        findings().contains("(cuLaunchKernel, call 7) on device 0"),
        "{}",
        findings()
    );
}

#[test]
fn an_ordered_fault_can_come_when_the_operation_runs() {
    let sim = Sim::start(1, 0);
    let (add, stream, at) = (sim.function("add"), stream(NON_BLOCKING), alloc(32));
    order_fault("cuLaunchKernel#2:214:async");
    ok(launch_add(add, stream, at, at, 8, 1.0));
    ok(launch_add(add, stream, at, at, 8, 1.0));
    // SAFETY: as declared.
    unsafe {
        assert_eq!(cuCtxSynchronize(), 214);
        assert_eq!(counters().blocks, 1);
    }
}

#[test]
fn a_device_that_is_lost_takes_no_other_with_it() {
    let sim = Sim::start(2, 0);
    // SAFETY: as declared.
    unsafe {
        let first = stream(NON_BLOCKING);
        let (at, here) = (alloc(32), event());
        let source = Pinned::of(&[1.0; 8]);
        ok(cuMemcpyHtoDAsync_v2(at, source.at.cast(), 32, first));
        ok(cuEventRecord(here, first));
        ok(cuCtxSetCurrent(sim.contexts[1]));
        let second = stream(NON_BLOCKING);
        ok(cuStreamWaitEvent(second, here, 0));
        let other = alloc(32);
        ok(cuMemcpyHtoDAsync_v2(other, source.at.cast(), 32, second));
        assert_eq!(seqstream_sim_lose_device(0, 999), 0);
        // Whoever waited for the lost device waits no more.
        ok(cuStreamSynchronize(second));
        ok(cuCtxSynchronize());
        assert_eq!(cuStreamSynchronize(first), 999);
        assert_eq!(cuStreamWaitEvent(second, here, 0), 999);
        assert_eq!(cuMemFree_v2(at), 999);
        ok(cuMemFree_v2(other));
        ok(cuCtxSetCurrent(sim.contexts[0]));
        assert_eq!(cuCtxSynchronize(), 999);
    }
}

#[test]
fn before_init_nothing_works() {
    let _sim = Sim::bare(1, 0);
    let (mut count, mut out) = (0, 0);
    // SAFETY: as declared.
    unsafe {
        assert_eq!(cuDeviceGetCount(&mut count), 3);
        assert_eq!(cuMemAlloc_v2(&mut out, 16), 3);
        ok(cuInit(0));
        assert_eq!(cuMemAlloc_v2(&mut out, 16), 201);
        assert_eq!(cuDeviceGet(&mut count, 1), 101);
        assert_eq!(cuMemAlloc_v2(std::ptr::null_mut(), 16), 201);
        let mut name = std::ptr::null();
        ok(cuGetErrorName(700, &mut name));
        assert_eq!(
            std::ffi::CStr::from_ptr(name),
            c"CUDA_ERROR_ILLEGAL_ADDRESS"
        );
        assert_eq!(cuGetErrorName(4711, &mut name), 1);
        assert!(name.is_null());
    }
}
