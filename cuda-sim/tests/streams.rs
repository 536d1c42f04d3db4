//! Streams and events, as the driver documents them.
#![allow(clippy::unwrap_used)] // what cannot go on in a test panics

mod common;

use common::ffi::*;
use common::*;

/// Submits a copy that stays pending.
fn copy(stream: u64, target: u64, source: &Pinned) {
    // SAFETY: the caller's allocations have the source's size.
    ok(unsafe { cuMemcpyHtoDAsync_v2(target, source.at.cast(), source.len * 4, stream) });
}

#[test]
fn an_event_never_recorded_is_complete() {
    let _sim = Sim::start(1, 0);
    let (event, stream) = (event(), stream(NON_BLOCKING));
    // SAFETY: as declared.
    unsafe {
        ok(cuEventQuery(event));
        ok(cuEventSynchronize(event));
        ok(cuStreamWaitEvent(stream, event, 0));
        ok(cuStreamQuery(stream));
    }
}

#[test]
fn a_wait_takes_the_record_of_its_moment() {
    let _sim = Sim::start(1, 0);
    let (event, [a, b]) = (event(), [(); 2].map(|()| stream(NON_BLOCKING)));
    let source = Pinned::of(&[1.0; 4]);
    let (first, second) = (alloc(16), alloc(16));
    // SAFETY: as declared.
    unsafe {
        copy(a, first, &source);
        ok(cuEventRecord(event, a));
        ok(cuStreamWaitEvent(b, event, 0));
        copy(a, second, &source);
        ok(cuEventRecord(event, a));
        // b waits for the first record; the event stands for the second one.
        ok(cuStreamSynchronize(b));
        assert_eq!(counters().pending_operations, 2);
        assert_eq!(cuEventQuery(event), NOT_READY);
        ok(cuEventSynchronize(event));
        ok(cuEventQuery(event));
        assert_eq!(counters().pending_operations, 0);
    }
}

#[test]
fn a_wait_for_an_event_recorded_later_is_no_wait() {
    let _sim = Sim::start(1, 0);
    let (event, [a, b]) = (event(), [(); 2].map(|()| stream(NON_BLOCKING)));
    let source = Pinned::of(&[1.0; 4]);
    let at = alloc(16);
    // SAFETY: as declared.
    unsafe {
        ok(cuStreamWaitEvent(b, event, 0));
        copy(a, at, &source);
        ok(cuEventRecord(event, a));
        ok(cuStreamSynchronize(b));
    }
    assert_eq!(counters().pending_operations, 2);
}

#[test]
fn queries_end() {
    for seed in 0..20 {
        let _sim = Sim::start(1, seed);
        let (event, stream) = (event(), stream(NON_BLOCKING));
        let source = Pinned::of(&[1.0; 4]);
        let at = alloc(16);
        (0..10).for_each(|_| copy(stream, at, &source));
        // SAFETY: as declared.
        unsafe {
            ok(cuEventRecord(event, stream));
            let polls = (0..1000)
                .take_while(|_| cuEventQuery(event) == NOT_READY)
                .count();
            assert!(polls < 1000, "seed {seed}");
            ok(cuStreamQuery(stream));
        }
        assert!(counters().queries > 1);
    }
}

#[test]
fn a_destroyed_stream_or_event_ends_no_work_and_is_no_handle_any_more() {
    let _sim = Sim::start(1, 0);
    let (event, [a, b]) = (event(), [(); 2].map(|()| stream(NON_BLOCKING)));
    let mut source = Pinned::of(&[1.0; 4]);
    let mut target = Pinned::new(4);
    let at = alloc(16);
    // SAFETY: as declared.
    unsafe {
        copy(a, at, &source);
        ok(cuEventRecord(event, a));
        ok(cuStreamWaitEvent(b, event, 0));
        ok(cuMemcpyDtoHAsync_v2(target.at.cast(), at, 16, b));
        ok(cuStreamDestroy_v2(a));
        ok(cuEventDestroy_v2(event));
        ok(cuStreamSynchronize(b));
        assert_eq!(target.slice(), source.slice());
        assert_eq!(cuStreamSynchronize(a), 400);
        assert_eq!(cuEventRecord(event, b), 400);
        assert_eq!(cuStreamDestroy_v2(a), 400);
        assert_eq!(cuEventDestroy_v2(event), 400);
        // An event is no stream.
        assert_eq!(cuStreamSynchronize(event), 400);
    }
}

#[test]
fn events_measure_along_the_graph() {
    let _sim = Sim::start(1, 0);
    let [start, end, timeless] = [event(), event(), timeless_event()];
    let stream = stream(NON_BLOCKING);
    let source = Pinned::of(&[1.0; 4]);
    let at = alloc(16);
    let mut time = 0.0;
    // SAFETY: as declared.
    unsafe {
        ok(cuEventRecord(start, stream));
        copy(stream, at, &source);
        ok(cuEventRecord(timeless, stream));
        assert_eq!(cuEventElapsedTime(&mut time, start, end), 400);
        ok(cuEventRecord(end, stream));
        assert_eq!(cuEventElapsedTime(&mut time, start, end), NOT_READY);
        ok(cuEventSynchronize(end));
        ok(cuEventElapsedTime(&mut time, start, end));
        assert!(time > 0.0 && time < 1.0, "{time}");
        assert_eq!(cuEventElapsedTime(&mut time, start, timeless), 400);
    }
}

#[test]
fn waits_of_the_host_are_counted_each_by_its_kind() {
    let _sim = Sim::start(1, 0);
    let (event, stream) = (event(), stream(NON_BLOCKING));
    // SAFETY: as declared.
    unsafe {
        ok(cuEventRecord(event, stream));
        ok(cuStreamWaitEvent(stream, event, 0));
        ok(cuStreamSynchronize(stream));
        ok(cuEventSynchronize(event));
        ok(cuEventSynchronize(event));
        ok(cuCtxSynchronize());
        ok(cuStreamQuery(stream));
    }
    let c = counters();
    assert_eq!(
        (
            c.stream_synchronizes,
            c.event_synchronizes,
            c.context_synchronizes,
            c.queries
        ),
        (1, 2, 1, 1)
    );
    assert_eq!(
        (
            c.event_records,
            c.event_waits,
            c.live_events,
            c.live_streams
        ),
        (1, 1, 1, 1)
    );
}

#[test]
fn blocks_run_in_the_order_of_the_seed() {
    let order = |seed| {
        let sim = Sim::start(1, seed);
        let add = sim.function("add");
        let (source, target) = (alloc(4096), alloc(4096));
        kernels::BLOCKS.lock().unwrap().clear();
        ok(launch_add(add, 0, target, source, 1024, 1.0));
        // SAFETY: as declared.
        ok(unsafe { cuCtxSynchronize() });
        assert_eq!((counters().blocks, counters().launches), (32, 1));
        kernels::BLOCKS.lock().unwrap().clone()
    };
    let straight: Vec<u32> = (0..32).collect();
    assert_eq!(order(0), straight);
    let mut shuffled = order(1);
    assert_ne!(shuffled, straight);
    assert_eq!(shuffled, order(1));
    assert_ne!(shuffled, order(2));
    shuffled.sort_unstable();
    assert_eq!(shuffled, straight);
}

#[test]
fn an_illegal_launch_is_refused() {
    let sim = Sim::start(1, 0);
    let function = sim.function("fails");
    let none = std::ptr::null_mut();
    // SAFETY: the kernel has no parameters.
    let launch = |grid: [u32; 3], block: [u32; 3], shared| unsafe {
        let ([gx, gy, gz], [bx, by, bz]) = (grid, block);
        cuLaunchKernel(function, gx, gy, gz, bx, by, bz, shared, 0, none, none)
    };
    assert_eq!(launch([1; 3], [1025, 1, 1], 0), 1);
    assert_eq!(launch([1; 3], [64, 32, 1], 0), 1);
    assert_eq!(launch([0, 1, 1], [1; 3], 0), 1);
    assert_eq!(launch([1, 65_536, 1], [1; 3], 0), 1);
    assert_eq!(launch([1; 3], [1; 3], 48 * 1024 + 1), 1);
    // SAFETY: as declared.
    unsafe {
        assert_eq!(cuFuncSetAttribute(function, 8, 227 * 1024 + 1), 1);
        ok(cuFuncSetAttribute(function, 8, 227 * 1024));
    }
    assert_eq!(launch([1; 3], [1; 3], 227 * 1024), 0);
    let mut out = 0;
    // SAFETY: as declared.
    unsafe {
        assert_eq!(
            cuModuleGetFunction(&mut out, sim.module, c"nothing".as_ptr()),
            500
        );
        assert_eq!(cuCtxSynchronize(), 719);
    }
    assert!(
        findings().contains("kernel fails, block [0, 0, 0]: deadlock: 31 threads"),
        "{}",
        findings()
    );
}

#[test]
fn seed_0_runs_nothing_early_and_others_do() {
    let pending = |seed| {
        let _sim = Sim::start(1, seed);
        let (stream, at) = (stream(NON_BLOCKING), alloc(16));
        copy(stream, at, &Pinned::of(&[1.0; 4]));
        counters().pending_operations
    };
    assert_eq!(pending(0), 1);
    let early = (1..41).filter(|seed| pending(*seed) == 0).count();
    assert!((5..35).contains(&early), "early under {early} of 40 seeds");
}

#[test]
fn the_queue_is_bounded() {
    let _sim = Sim::start(1, 0);
    let (stream, at) = (stream(NON_BLOCKING), alloc(16));
    let source = Pinned::of(&[1.0; 4]);
    (0..5000).for_each(|_| copy(stream, at, &source));
    assert_eq!(counters().pending_operations, 4096);
    // SAFETY: as declared.
    ok(unsafe { cuStreamSynchronize(stream) });
}
