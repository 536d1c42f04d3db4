//! Virtual time: what starts when, and how long it takes, on a machine of round figures.

#![allow(clippy::unwrap_used)] // a test may panic

mod common;

use std::ffi::{CString, c_char, c_int, c_void};
use std::time::Duration;

use common::ffi::*;
use common::kernels::AddParams;
use common::*;
use seqstream_cuda_sim::{Cost, CostedLaunch};

const MACHINE: &str = include_str!("machine.toml");
const MEGABYTE: usize = 1 << 20;
/// What all the small overheads of a handful of operations come to, in microseconds.
const OVERHEADS: f64 = 20.0;

/// What a kernel adds whose load is low.
const COOL: f32 = 1.0;

/// A kernel takes as many microseconds as its parameter `count` says.
extern "C" fn costs(launch: *const CostedLaunch, cost: *mut Cost) -> c_int {
    // SAFETY: the simulator passes a launch of `add`, the only kernel that these tests launch.
    let params = unsafe { *(*launch).params.cast::<AddParams>() };
    let rate = if params.add == COOL {
        c"cool"
    } else {
        c"units"
    };
    let found = Cost {
        rate: rate.as_ptr(),
        amount: f64::from(params.count),
        size: 1.0,
    };
    // SAFETY: as declared.
    unsafe { *cost = found };
    0
}

/// Takes as many microseconds as a number in device memory says.
extern "C" fn costs_in_memory(launch: *const CostedLaunch, cost: *mut Cost) -> c_int {
    // SAFETY: as in `costs`; the place has the size of the number.
    unsafe {
        let launch = &*launch;
        let params = *launch.params.cast::<AddParams>();
        let mut count = 0u32;
        let place = (&raw mut count).cast::<c_void>();
        if (launch.read)(launch.memory, params.source, place, 4) != 0 {
            return 1;
        }
        *cost = Cost {
            rate: c"units".as_ptr(),
            amount: f64::from(count),
            size: 1.0,
        };
    }
    0
}

/// Sets the machine; returns the message of an error.
fn set(
    text: &str,
    rates: &str,
    costs: extern "C" fn(*const CostedLaunch, *mut Cost) -> c_int,
    values: bool,
) -> Result<(), String> {
    let (text, rates) = (CString::new(text).unwrap(), CString::new(rates).unwrap());
    let mut message = vec![0u8; 1000];
    // SAFETY: as declared; the buffer has its size.
    let code = unsafe {
        seqstream_sim_set_machine(
            text.as_ptr(),
            rates.as_ptr(),
            Some(costs),
            values.into(),
            message.as_mut_ptr().cast::<c_char>(),
            message.len(),
        )
    };
    if code == 0 {
        return Ok(());
    }
    let end = message.iter().position(|byte| *byte == 0).unwrap();
    Err(String::from_utf8(message[..end].to_vec()).unwrap())
}

/// Replaces `key = ...` of the machine.
fn with(key: &str, value: &str) -> String {
    let lines: Vec<String> = MACHINE
        .lines()
        .map(|line| match line.split_once(" = ") {
            Some((name, _)) if name == key => format!("{key} = {value}"),
            _ => line.to_owned(),
        })
        .collect();
    assert!(lines.join("\n") != MACHINE.trim_end(), "{key}");
    lines.join("\n")
}

/// A simulator on the machine, on which all contexts stand.
fn on(text: &str, values: bool) -> Sim {
    let mut sim = Sim::bare(1, 0);
    set(text, "units cool", costs, values).unwrap();
    // SAFETY: as declared.
    unsafe {
        ok(cuInit(0));
        for device in 0..4 {
            let mut context = 0;
            ok(cuDevicePrimaryCtxRetain(&mut context, device));
            sim.contexts.push(context);
        }
        ok(cuCtxSetCurrent(sim.contexts[0]));
        ok(cuModuleLoadData(&mut sim.module, c"image".as_ptr().cast()));
    }
    sim
}

fn now() -> f64 {
    // SAFETY: as declared.
    unsafe { seqstream_sim_now() }
}

fn busy(device: u32, engine: u32) -> f64 {
    // SAFETY: as declared.
    unsafe { seqstream_sim_busy(device, engine) }
}

fn synchronize() {
    // SAFETY: as declared.
    ok(unsafe { cuCtxSynchronize() });
}

/// Returns the microseconds that the host waits for what `work` submits.
fn span(work: impl FnOnce()) -> f64 {
    let before = now();
    work();
    synchronize();
    now() - before
}

#[track_caller]
fn close(found: f64, expected: f64) {
    assert!(
        (expected..expected + OVERHEADS).contains(&found),
        "{found} us is not {expected} us"
    );
}

/// Pinned memory, device memory and streams for copies of a megabyte.
struct Place {
    host: Pinned,
    back: Pinned,
    at: u64,
    other: u64,
    streams: [u64; 3],
}

impl Place {
    fn new() -> Self {
        Self {
            host: Pinned::new(MEGABYTE / 4),
            back: Pinned::new(MEGABYTE / 4),
            at: alloc(MEGABYTE),
            other: alloc(MEGABYTE),
            streams: [0; 3].map(|_| stream(NON_BLOCKING)),
        }
    }

    fn load(&self, target: u64, stream: usize, bytes: usize) {
        let (from, stream) = (self.host.at.cast(), self.streams[stream]);
        // SAFETY: as declared.
        ok(unsafe { cuMemcpyHtoDAsync_v2(target, from, bytes, stream) });
    }

    fn store(&self, stream: usize, bytes: usize) {
        let (to, stream) = (self.back.at.cast(), self.streams[stream]);
        // SAFETY: as declared.
        ok(unsafe { cuMemcpyDtoHAsync_v2(to, self.other, bytes, stream) });
    }

    fn compute(&self, sim: &Sim, stream: usize, microseconds: u32) {
        let function = sim.function("add");
        // No element is touched: `count` is only a time here, and values are off or few.
        let code = launch_add(
            function,
            self.streams[stream],
            self.at,
            self.at,
            microseconds,
            0.0,
        );
        ok(code);
    }

    fn fence(&self, first: usize, then: usize) {
        let event = timeless_event();
        // SAFETY: as declared.
        unsafe {
            ok(cuEventRecord(event, self.streams[first]));
            ok(cuStreamWaitEvent(self.streams[then], event, 0));
            ok(cuEventDestroy_v2(event));
        }
    }
}

#[test]
fn operations_take_what_the_machine_says() {
    let sim = on(MACHINE, false);
    let p = Place::new();
    let millionth = MEGABYTE as f64 / 1e3;
    close(span(|| p.load(p.at, 0, MEGABYTE)), millionth / 10.0);
    close(span(|| p.store(0, MEGABYTE)), millionth / 5.0);
    close(span(|| p.compute(&sim, 0, 500)), 500.0);
    let filled = span(|| {
        // SAFETY: as declared.
        ok(unsafe { cuMemsetD8Async(p.at, 1, MEGABYTE, p.streams[0]) })
    });
    close(filled, millionth / 100.0);
    // Read and written.
    let copied = span(|| {
        // SAFETY: as declared.
        ok(unsafe { cuMemcpyDtoDAsync_v2(p.at, p.other, MEGABYTE, p.streams[0]) })
    });
    close(copied, 2.0 * millionth / 100.0);
    let pageable = vec![0u8; MEGABYTE];
    let from_pageable = span(|| {
        let from = pageable.as_ptr().cast();
        // SAFETY: as declared.
        ok(unsafe { cuMemcpyHtoDAsync_v2(p.at, from, MEGABYTE, p.streams[0]) });
    });
    close(from_pageable, millionth / 2.0);
}

#[test]
fn events_tell_virtual_time() {
    let sim = on(MACHINE, false);
    let p = Place::new();
    let (start, end) = (event(), event());
    let mut milliseconds = 0.0;
    // SAFETY: as declared.
    unsafe {
        ok(cuEventRecord(start, p.streams[0]));
        p.compute(&sim, 0, 700);
        p.compute(&sim, 0, 300);
        ok(cuEventRecord(end, p.streams[0]));
        ok(cuEventSynchronize(end));
        ok(cuEventElapsedTime(&mut milliseconds, start, end));
    }
    close(f64::from(milliseconds) * 1e3, 1000.0);
    // The host that waited is as late as the event.
    assert!(now() >= 1000.0);
}

#[test]
fn streams_without_fences_overlap_and_with_fences_they_do_not() {
    let sim = on(MACHINE, false);
    let p = Place::new();
    let load = MEGABYTE as f64 / 1e4;
    let alone = span(|| {
        p.load(p.at, 0, MEGABYTE);
        p.compute(&sim, 1, 100);
    });
    close(alone, load.max(100.0));
    let fenced = span(|| {
        p.load(p.at, 0, MEGABYTE);
        p.fence(0, 1);
        p.compute(&sim, 1, 100);
    });
    close(fenced, load + 100.0);
    // What is still under way in its stream, though the simulator has run it already because the
    // host waited for another stream.
    let in_order = span(|| {
        p.compute(&sim, 0, 1000);
        p.load(p.at, 1, 16);
        // SAFETY: as declared.
        ok(unsafe { cuStreamSynchronize(p.streams[1]) });
        p.load(p.at, 0, MEGABYTE);
    });
    close(in_order, 1000.0 + load);
    // An event that the simulator has reached already.
    let event = timeless_event();
    // SAFETY: as declared.
    let late = span(|| unsafe {
        p.load(p.at, 0, MEGABYTE);
        ok(cuEventRecord(event, p.streams[0]));
        p.load(p.at, 2, 16);
        ok(cuStreamSynchronize(p.streams[2]));
        ok(cuStreamWaitEvent(p.streams[1], event, 0));
        p.compute(&sim, 1, 100);
    });
    close(late, load + 100.0);
}

#[test]
fn an_event_that_another_thread_has_waited_for_is_still_in_the_future() {
    let sim = on(MACHINE, false);
    let p = Place::new();
    let event = timeless_event();
    let (context, first) = (sim.contexts[0], p.streams[0]);
    let load = MEGABYTE as f64 / 1e4;
    let took = span(|| {
        p.load(p.at, 0, MEGABYTE);
        // SAFETY: as declared.
        ok(unsafe { cuEventRecord(event, first) });
        std::thread::scope(|scope| {
            scope.spawn(move || {
                // SAFETY: as declared.
                unsafe {
                    ok(cuCtxSetCurrent(context));
                    ok(cuStreamSynchronize(first));
                }
            });
        });
        assert!(now() < load);
        // SAFETY: as declared.
        ok(unsafe { cuStreamWaitEvent(p.streams[1], event, 0) });
        p.compute(&sim, 1, 100);
    });
    close(took, load + 100.0);
}

#[test]
fn who_is_ready_first_has_the_engine_first() {
    let sim = on(MACHINE, false);
    let p = Place::new();
    let took = span(|| {
        p.compute(&sim, 0, 50);
        p.load(p.at, 0, MEGABYTE);
        p.load(p.other, 1, MEGABYTE);
    });
    close(took, 2.0 * MEGABYTE as f64 / 1e4);
}

#[test]
fn copies_of_one_direction_share_an_engine() {
    let _sim = on(MACHINE, false);
    let p = Place::new();
    let (load, store) = (MEGABYTE as f64 / 1e4, MEGABYTE as f64 / 5e3);
    let same = span(|| {
        p.load(p.at, 0, MEGABYTE);
        p.load(p.other, 1, MEGABYTE);
    });
    close(same, 2.0 * load);
    let both = |p: &Place| {
        span(|| {
            p.load(p.at, 0, MEGABYTE);
            p.store(1, MEGABYTE);
        })
    };
    close(both(&p), store);
    drop(_sim);
    let _sim = on(&with("engines", "1"), false);
    close(both(&Place::new()), load + store);
}

#[test]
fn kernels_of_two_streams_share_the_multiprocessors() {
    let sim = on(MACHINE, false);
    let p = Place::new();
    let both = span(|| {
        p.compute(&sim, 0, 100);
        p.compute(&sim, 1, 100);
    });
    close(both, 200.0);
}

#[test]
fn devices_behind_a_switch_share_its_bandwidth() {
    let switch = "[switch]\ndevices = 2\nto_device_gb_per_s = 12\nto_host_gb_per_s = 12\n";
    let load = |text: &str, devices: usize| {
        let sim = on(text, false);
        let host = Pinned::new(MEGABYTE / 4);
        let places: Vec<(u64, u64)> = (0..devices)
            .map(|device| {
                // SAFETY: as declared.
                ok(unsafe { cuCtxSetCurrent(sim.contexts[device]) });
                (alloc(MEGABYTE), stream(NON_BLOCKING))
            })
            .collect();
        let before = now();
        for (device, (at, stream)) in places.iter().enumerate() {
            // SAFETY: as declared.
            unsafe {
                ok(cuCtxSetCurrent(sim.contexts[device]));
                for _ in 0..10 {
                    let (from, part) = (host.at.cast(), MEGABYTE / 10);
                    ok(cuMemcpyHtoDAsync_v2(*at, from, part, *stream));
                }
            }
        }
        for (_, stream) in places {
            // SAFETY: as declared.
            ok(unsafe { cuStreamSynchronize(stream) });
        }
        now() - before
    };
    let (own, shared) = (MEGABYTE as f64 / 1e4, MEGABYTE as f64 / 1.2e4);
    let behind = format!("{MACHINE}{switch}");
    // With overheads of twenty copies.
    let near = |found: f64, expected: f64| {
        assert!(
            (expected..expected + 100.0).contains(&found),
            "{found} {expected}"
        );
    };
    near(load(MACHINE, 4), own);
    near(load(&behind, 1), own);
    near(load(&behind, 2), 2.0 * shared);
    // The other two have a switch of their own.
    near(load(&behind, 4), 2.0 * shared);
}

#[test]
fn a_device_that_computes_slows_down_and_recovers() {
    let sim = on(&with("time_constant_ms", "1"), false);
    let p = Place::new();
    let kernel = || span(|| p.compute(&sim, 0, 100));
    close(kernel(), 100.0);
    for _ in 0..100 {
        kernel();
    }
    assert!((195.0..220.0).contains(&kernel()), "{}", kernel());
    // SAFETY: as declared.
    unsafe { seqstream_sim_host_work(20_000.0) };
    close(kernel(), 100.0);
    // A load that the device can bear for ever.
    let cool = || {
        span(|| {
            let function = sim.function("add");
            ok(launch_add(function, p.streams[0], p.at, p.at, 100, COOL));
        })
    };
    // SAFETY: as declared.
    unsafe { seqstream_sim_host_work(20_000.0) };
    for _ in 0..200 {
        close(cool(), 100.0);
    }
}

#[test]
fn products_have_waves_and_bytes() {
    // The library itself is driven in tests/matmul.rs; here only the figures are read.
    let _sim = on(MACHINE, false);
    // SAFETY: as declared.
    unsafe {
        assert_eq!(seqstream_sim_has_rate(c"units".as_ptr()), 1);
        assert_eq!(seqstream_sim_has_rate(c"other".as_ptr()), 0);
        assert_eq!(seqstream_sim_busy(4, 0), -1.0);
        assert_eq!(seqstream_sim_busy(0, 3), -1.0);
    }
}

#[test]
fn a_thread_is_as_late_as_the_thread_whose_record_it_sees() {
    let sim = on(MACHINE, false);
    let p = Place::new();
    let event = timeless_event();
    let (context, first) = (sim.contexts[0], p.streams[0]);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // SAFETY: as declared.
            unsafe {
                ok(cuCtxSetCurrent(context));
                seqstream_sim_host_work(5000.0);
                ok(cuEventRecord(event, first));
            }
        });
    });
    assert!(now() < 1000.0);
    // SAFETY: as declared.
    ok(unsafe { cuStreamWaitEvent(p.streams[1], event, 0) });
    assert!(now() >= 5000.0, "{}", now());
}

#[test]
fn who_asks_again_and_again_gets_there() {
    let sim = on(MACHINE, false);
    let p = Place::new();
    p.compute(&sim, 0, 1000);
    let mut asked = 0;
    // SAFETY: as declared.
    while unsafe { cuStreamQuery(p.streams[0]) } == NOT_READY {
        asked += 1;
        assert!(asked < 1000);
    }
    assert!(asked > 1 && now() >= 1000.0, "{asked} {}", now());
}

#[test]
fn a_slot_is_filled_before_it_is_copied() {
    let _sim = on(&with("fill_gb_per_s", "1"), false);
    let p = Place::new();
    let fill = MEGABYTE as f64 / 1e3;
    let before = now();
    p.load(p.at, 0, MEGABYTE);
    synchronize();
    close(now() - before, fill + MEGABYTE as f64 / 1e4);
}

#[test]
fn without_values_only_short_lists_are_copied_and_nothing_is_backed() {
    let mut sim = Sim::bare(1, 0);
    set(MACHINE, "units cool", costs_in_memory, false).unwrap();
    // SAFETY: as declared.
    unsafe {
        ok(cuInit(0));
        let mut context = 0;
        ok(cuDevicePrimaryCtxRetain(&mut context, 0));
        ok(cuCtxSetCurrent(context));
        ok(cuModuleLoadData(&mut sim.module, c"image".as_ptr().cast()));
    }
    let resident = || {
        let text = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: usize = text.split_whitespace().nth(1).unwrap().parse().unwrap();
        pages * 4096
    };
    let before = resident();
    const LARGE: usize = 256 << 20;
    let (large, list) = (alloc(LARGE), alloc(4096));
    let stream = stream(NON_BLOCKING);
    let mut host = Pinned::new(LARGE / 4);
    // SAFETY: the buffer has so many elements.
    let first = unsafe { &mut *host.at.cast::<u32>() };
    *first = 400;
    let function = sim.function("add");
    // SAFETY: as declared.
    let took = span(|| unsafe {
        ok(cuMemcpyHtoDAsync_v2(list, host.at.cast(), 4096, stream));
        ok(cuMemcpyHtoDAsync_v2(large, host.at.cast(), LARGE, stream));
        ok(launch_add(function, stream, large, list, 64, 1.0));
        ok(cuMemcpyDtoHAsync_v2(host.at.cast(), large, LARGE, stream));
    });
    // At 4000 GB/s the host fills the buffer.
    let copies = LARGE as f64 / 1e4 + LARGE as f64 / 5e3 + LARGE as f64 / 4e6;
    close(took, copies + 400.0);
    assert!(resident() < before + (64 << 20), "{}", resident() - before);
    assert_eq!(host.slice()[1], 0.0);
    assert_eq!(findings(), "");
    // A list that was not copied is not guessed.
    ok(launch_add(function, stream, large, large, 64, 1.0));
    // SAFETY: as declared.
    assert_eq!(unsafe { cuCtxSynchronize() }, 801);
    assert!(
        findings().contains("kernel add has no cost"),
        "{}",
        findings()
    );
}

#[test]
fn values_are_computed_in_virtual_time_too() {
    let sim = on(MACHINE, true);
    let stream = stream(NON_BLOCKING);
    let (source, mut target) = (Pinned::of(&[1.0; 64]), Pinned::new(64));
    let at = alloc(256);
    // SAFETY: as declared.
    unsafe {
        ok(cuMemcpyHtoDAsync_v2(at, source.at.cast(), 256, stream));
        ok(launch_add(sim.function("add"), stream, at, at, 64, 2.0));
        ok(cuMemcpyDtoHAsync_v2(target.at.cast(), at, 256, stream));
        ok(cuStreamSynchronize(stream));
    }
    assert_eq!(target.slice(), [3.0; 64]);
    assert!(now() > 64.0);
}

#[test]
fn without_a_machine_no_time_passes() {
    let sim = Sim::start(1, 0);
    let at = alloc(256);
    ok(launch_add(sim.function("add"), 0, at, at, 64, 2.0));
    synchronize();
    assert_eq!((now(), busy(0, 2)), (0.0, -1.0));
}

#[test]
fn a_bad_machine_file_is_refused_with_line_and_key() {
    let _sim = Sim::bare(1, 0);
    let cut = |line: &str| MACHINE.replace(line, "");
    let cases = [
        (
            with("latency_us", "0"),
            "line 18: copy.latency_us: 0 is not a number above zero",
        ),
        (
            with("count", "-2"),
            "line 6: device.count: -2 is not a whole number above zero",
        ),
        (
            with("count", "17"),
            "line 6: device.count: at most 16 devices",
        ),
        (with("count", "\"two\""), "line 6: device.count: "),
        (with("memory_gib", "nan"), "line 9: device.memory_gib: "),
        (
            with("memory_gib", "1e9"),
            "line 9: device.memory_gib: at most 1024",
        ),
        (with("engines", "3"), "line 13: copy.engines: at most 2"),
        (
            with("free_load", "1.5"),
            "line 29: power.free_load: 1.5 is not a number above 0 and at most 1",
        ),
        (with("load", "[0]"), "rates."),
        (with("norm", "0.5"), "line 37: products.norm: "),
        (
            with("compute_capability", "\"7.5\""),
            "line 7: device.compute_capability: ",
        ),
        (
            MACHINE.replace("size = [1, 3]", "size = [3, 1]"),
            "rates.units: the numbers of `size` do not grow: sort them",
        ),
        (
            MACHINE.replace("size = [1, 3]", "size = [1]"),
            "rates.units: `size`, `burst`, `sustained` and `load` have 1, 2, 2 and 2",
        ),
        (
            cut("wake_us = 1\n"),
            "line 20: launch: missing field `wake_us`: add the key",
        ),
        (
            cut("name = \"a test machine\""),
            "missing field `name`: add the key",
        ),
        (
            MACHINE.replace("gap_us", "gap"),
            "line 24: launch.gap: unknown field `gap`",
        ),
        (
            format!("{MACHINE}[fan]\n"),
            "line 59: fan: unknown field `fan`",
        ),
        (
            format!("{MACHINE}burst = [1]\n"),
            "line 59: rates.cool.burst: duplicate key",
        ),
        (
            format!(
                "{MACHINE}[rates.unit]\nsize = [1]\nburst = [1]\nsustained = [1]\nload = [1]\n"
            ),
            "line 59: rates.unit: no kernel has a rate of this name",
        ),
        (MACHINE.replace("[host]", "[host"), "line 42: "),
    ];
    for (text, expected) in cases {
        let error = set(&text, "units cool", costs, true).unwrap_err();
        assert!(error.contains(expected), "{error}\n  not\n{expected}");
    }
    set(MACHINE, "units cool", costs, true).unwrap();
}

// ---- properties

/// Numbers that are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) % most
    }
}

/// One pass through a ring: bytes up, microseconds of computing, bytes down.
type Pass = (usize, u32, usize);

/// Which fences a ring has.
#[derive(Clone, Copy, PartialEq)]
enum Fences {
    All,
    /// The kernel does not wait for its load.
    NotAfterLoad,
    /// The store does not wait for its kernel.
    NotBeforeStore,
}

/// Sends passes through a ring of slots, as an engine does, and returns the makespan and the bound:
/// the most that any of the three kinds of work takes by itself.
fn ring(machine: &str, passes: &[Pass], slots: usize, fences: Fences) -> (f64, f64) {
    let sim = on(machine, false);
    let p = Place::new();
    let function = sim.function("add");
    let hosts: Vec<[Pinned; 2]> = (0..slots)
        .map(|_| [Pinned::new(MEGABYTE / 4), Pinned::new(MEGABYTE / 4)])
        .collect();
    let events: Vec<[u64; 3]> = (0..slots)
        .map(|_| [0; 3].map(|_| timeless_event()))
        .collect();
    let [load, compute, store] = p.streams;
    let before = now();
    for (i, (up, microseconds, down)) in passes.iter().enumerate() {
        let ([from, to], [loaded, computed, stored]) = (&hosts[i % slots], events[i % slots]);
        // SAFETY: as declared; a slot has a megabyte on both sides.
        unsafe {
            // At the first turn the event has no record, and this returns at once.
            ok(cuEventSynchronize(stored));
            ok(cuMemcpyHtoDAsync_v2(p.at, from.at.cast(), *up, load));
            ok(cuEventRecord(loaded, load));
            if fences != Fences::NotAfterLoad {
                ok(cuStreamWaitEvent(compute, loaded, 0));
            }
            ok(launch_add(
                function,
                compute,
                p.at,
                p.at,
                *microseconds,
                0.0,
            ));
            ok(cuEventRecord(computed, compute));
            if fences != Fences::NotBeforeStore {
                ok(cuStreamWaitEvent(store, computed, 0));
            }
            ok(cuMemcpyDtoHAsync_v2(to.at.cast(), p.other, *down, store));
            ok(cuEventRecord(stored, store));
        }
    }
    synchronize();
    let bound = (0..3).map(|engine| busy(0, engine)).fold(0.0, f64::max);
    (now() - before, bound)
}

fn random_pass(numbers: &mut Numbers) -> Pass {
    let bytes = |n: u64| 1 + n as usize;
    (
        bytes(numbers.below(MEGABYTE as u64)),
        1 + numbers.below(200) as u32,
        bytes(numbers.below(MEGABYTE as u64 / 2)),
    )
}

#[test]
fn a_makespan_is_never_below_the_bound_and_near_it_with_enough_slots() {
    let mut numbers = Numbers(17);
    for _ in 0..40 {
        let passes: Vec<Pass> = (0..1 + numbers.below(20))
            .map(|_| random_pass(&mut numbers))
            .collect();
        for slots in [1, 2, 3] {
            let (took, bound) = ring(MACHINE, &passes, slots, Fences::All);
            assert!(took >= bound, "{took} {bound} {slots} {passes:?}");
        }
    }
    for _ in 0..10 {
        // One of the three is always long enough for the overheads not to count.
        let (up, microseconds, down) = random_pass(&mut numbers);
        let passes = vec![(up, microseconds + 100, down); 200];
        let (took, bound) = ring(MACHINE, &passes, 4, Fences::All);
        assert!(
            took >= bound && took <= 1.05 * bound,
            "{took} {bound} {:?}",
            passes[0]
        );
        let (one, _) = ring(MACHINE, &passes, 1, Fences::All);
        assert!(one > took, "{one} {took}");
    }
}

#[test]
fn more_bandwidth_never_takes_longer() {
    let mut numbers = Numbers(23);
    for _ in 0..10 {
        let passes: Vec<Pass> = (0..12).map(|_| random_pass(&mut numbers)).collect();
        for key in ["to_device_gb_per_s", "to_host_gb_per_s"] {
            let took = ["1", "2", "20", "100"].map(|rate| {
                let machine = with(key, rate);
                ring(&machine, &passes, 3, Fences::All).0
            });
            assert!(
                took.windows(2).all(|pair| pair[1] <= pair[0]),
                "{key} {took:?}"
            );
            assert!(took[3] < took[0], "{key} {took:?}");
        }
    }
}

#[test]
fn a_removed_fence_shows_as_a_shorter_makespan() {
    // One slot: everything of a pass is in sequence.
    let passes = [(MEGABYTE, 150, MEGABYTE / 2); 6];
    let (all, _) = ring(MACHINE, &passes, 1, Fences::All);
    for fences in [Fences::NotAfterLoad, Fences::NotBeforeStore] {
        let (fewer, _) = ring(MACHINE, &passes, 1, fences);
        assert!(fewer < all - 300.0, "{fewer} {all}");
    }
}

#[test]
fn the_same_schedule_takes_the_same_time() {
    let mut numbers = Numbers(5);
    let passes: Vec<Pass> = (0..30).map(|_| random_pass(&mut numbers)).collect();
    let first = ring(MACHINE, &passes, 2, Fences::All);
    std::thread::sleep(Duration::from_millis(1));
    assert_eq!(ring(MACHINE, &passes, 2, Fences::All), first);
}
