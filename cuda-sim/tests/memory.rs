//! Device memory: poison, ends, freed memory, leaks.

mod common;

use common::ffi::*;
use common::*;

fn read(source: u64, count: usize) -> Vec<f32> {
    let mut out = vec![0.0; count];
    // SAFETY: the vector has so many bytes.
    ok(unsafe { cuMemcpyDtoH_v2(out.as_mut_ptr().cast(), source, count * 4) });
    out
}

/// What a launch of `name` over `count` elements ends with, and the findings.
fn outcome(name: &str, bytes: usize, count: u32) -> (i32, String) {
    let sim = Sim::start(1, 0);
    let function = sim.function(name);
    let (source, target, _neighbour) = (alloc(4096), alloc(bytes), alloc(4096));
    // SAFETY: as declared.
    unsafe { ok(cuMemsetD8Async(source, 0, 4096, 0)) };
    ok(launch_add(function, 0, target, source, count, 1.0));
    // SAFETY: as declared.
    (unsafe { cuCtxSynchronize() }, findings())
}

#[test]
fn fresh_memory_is_nan() {
    let _sim = Sim::start(1, 0);
    let at = alloc(1000);
    assert_eq!(at % 256, 0);
    assert!(read(at, 250).iter().all(|value| value.is_nan()));
}

#[test]
fn a_kernel_inside_its_memory_is_fine() {
    assert_eq!(outcome("add", 400, 100), (0, String::new()));
    assert_eq!(outcome("add_raw", 400, 100), (0, String::new()));
}

#[test]
fn one_element_too_many_is_an_illegal_address_with_a_name() {
    let (code, findings) = outcome("add", 400, 101);
    assert_eq!(code, 700);
    for part in [
        "kernel add, block [3, 0, 0]",
        "write of 4 bytes",
        "past the end of allocation 2 of device 0 (400 bytes",
    ] {
        assert!(findings.contains(part), "{part}: {findings}");
    }
}

#[test]
fn plain_pointers_are_caught_beside_an_allocation_and_at_closed_pages() {
    // 400 bytes end 112 before the closed page: the margin shows it.
    let (code, findings) = outcome("add_raw", 400, 101);
    assert_eq!(code, 700);
    assert!(
        findings.contains("add_raw wrote past the end of allocation 2"),
        "{findings}"
    );
    // 512 bytes end at it.
    let (code, findings) = outcome("add_raw", 512, 129);
    assert_eq!(code, 700);
    assert!(
        findings.contains("kernel add_raw, block [4, 0, 0]: [write"),
        "{findings}"
    );
    assert!(
        findings.contains("0 bytes past the end of allocation 2 of device 0 (512 bytes"),
        "{findings}"
    );
}

#[test]
fn closed_pages_are_closed_again_after_a_fault() {
    let mut beyond = 0;
    for round in 0..2 {
        let sim = Sim::start(1, 0);
        let function = sim.function("add_raw");
        let (source, target) = (alloc(512), alloc(512));
        if round == 0 {
            beyond = target + 512;
        }
        ok(launch_add(function, 0, beyond, source, 1, 1.0));
        // SAFETY: as declared.
        assert_eq!(unsafe { cuCtxSynchronize() }, 700, "round {round}");
    }
}

#[test]
fn freed_memory_is_not_to_be_used() {
    for name in ["add", "add_raw"] {
        let sim = Sim::start(1, 0);
        let function = sim.function(name);
        let (source, target) = (alloc(4096), alloc(4096));
        // SAFETY: as declared; the source is gone on purpose.
        unsafe {
            ok(cuMemFree_v2(source));
            ok(launch_add(function, 0, target, source, 100, 1.0));
            assert_eq!(cuCtxSynchronize(), 700);
            assert!(findings().contains("read of"), "{}", findings());
            assert!(
                findings().contains("0 bytes into allocation 1 of device 0 (4096 bytes"),
                "{}",
                findings()
            );
            assert!(findings().contains("which was freed"), "{}", findings());
        }
    }
}

#[test]
fn copies_outside_an_allocation_are_refused_when_they_are_submitted() {
    let _sim = Sim::start(1, 0);
    let (at, gone) = (alloc(400), alloc(400));
    let mut host = [0.0f32; 101];
    let pointer = host.as_mut_ptr().cast();
    // SAFETY: the host side is as large as the largest copy.
    unsafe {
        ok(cuMemFree_v2(gone));
        assert_eq!(cuMemcpyHtoD_v2(at, pointer, 404), 1);
        assert!(
            findings().contains("4 bytes over the end of allocation 1"),
            "{}",
            findings()
        );
        assert_eq!(cuMemcpyDtoH_v2(pointer, at + 4, 400), 1);
        assert_eq!(cuMemcpyDtoH_v2(pointer, gone, 4), 1);
        assert!(findings().contains("freed"), "{}", findings());
        assert_eq!(cuMemsetD8Async(at, 0, 401, 0), 1);
        assert_eq!(cuMemcpyDtoDAsync_v2(at, gone, 4, 0), 1);
        ok(cuMemcpyDtoH_v2(pointer, at, 400));
        // None of these loses the context.
        ok(cuCtxSynchronize());
    }
}

#[test]
fn memory_runs_out_where_it_should() {
    let _sim = Sim::start(2, 0);
    let info = || {
        let (mut free, mut total) = (0, 0);
        // SAFETY: as declared.
        ok(unsafe { cuMemGetInfo_v2(&mut free, &mut total) });
        (free, total)
    };
    assert_eq!(info(), (64 << 20, 64 << 20));
    let at = alloc(60 << 20);
    assert_eq!(info(), (4 << 20, 64 << 20));
    let mut out = 0;
    // SAFETY: as declared.
    unsafe {
        assert_eq!(cuMemAlloc_v2(&mut out, 5 << 20), 2);
        assert_eq!(cuMemAlloc_v2(&mut out, 0), 1);
        ok(cuMemFree_v2(at));
    }
    assert_eq!(info(), (64 << 20, 64 << 20));
}

#[test]
fn what_is_not_freed_is_counted_and_listed() {
    let _sim = Sim::start(2, 0);
    let (a, _b) = (alloc(1000), alloc(2000));
    let pinned = Pinned::new(100);
    let before = counters();
    assert_eq!(
        (
            before.live_allocations,
            before.live_host_allocations,
            before.live_host_bytes
        ),
        (2, 1, 512)
    );
    // SAFETY: as declared.
    unsafe {
        ok(cuMemFree_v2(a));
        assert_eq!(cuMemFree_v2(a), 1);
        ok(cuMemFree_v2(0));
    }
    pinned.free();
    assert!(
        live_allocations().starts_with("device=0 bytes=2000 at=0x"),
        "{}",
        live_allocations()
    );
    // SAFETY: as declared.
    ok(unsafe { cuDevicePrimaryCtxRelease_v2(0) });
    let after = counters();
    assert_eq!(
        (
            after.live_allocations,
            after.leaked_allocations,
            after.live_host_allocations
        ),
        (0, 1, 0)
    );
    assert_eq!((after.allocations, after.frees), (2, 1));
    assert!(findings().contains("1 allocations stood when the context of device 0 went"));
}

#[test]
fn a_free_waits_for_the_device_and_says_so() {
    let _sim = Sim::start(1, 0);
    let mut pinned = Pinned::of(&[3.0; 8]);
    let (a, b) = (alloc(32), alloc(32));
    let stream = stream(NON_BLOCKING);
    // SAFETY: as declared.
    unsafe {
        ok(cuMemcpyHtoDAsync_v2(a, pinned.at.cast(), 32, stream));
        assert_eq!(counters().pending_operations, 1);
        ok(cuMemFree_v2(b));
    }
    let counters = counters();
    assert_eq!(
        (
            counters.pending_operations,
            counters.frees_while_busy,
            counters.implicit_synchronizes
        ),
        (0, 1, 1)
    );
    pinned.slice().fill(0.0);
    assert_eq!(read(a, 8), [3.0; 8]);
}

#[test]
fn sizes_beyond_all_measure_are_refused() {
    let _sim = Sim::start(1, 0);
    let at = alloc(400);
    let mut out = 0;
    let null = std::ptr::dangling_mut::<u64>().cast();
    // SAFETY: nothing of these sizes is touched.
    unsafe {
        assert_eq!(cuMemAlloc_v2(&mut out, usize::MAX), 2);
        assert_eq!(cuMemcpyHtoD_v2(at, null, usize::MAX), 1);
        assert_eq!(cuMemcpyDtoH_v2(null, at, usize::MAX), 1);
        assert_eq!(cuMemsetD8Async(at, 0, usize::MAX, 0), 1);
        assert_eq!(cuMemcpyDtoDAsync_v2(at, u64::MAX, 16, 0), 1);
    }
}
