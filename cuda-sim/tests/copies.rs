//! How copies behave towards the host, and the legacy NULL stream.

mod common;

use common::ffi::*;
use common::*;

#[test]
fn a_pinned_source_is_read_when_the_copy_runs() {
    let _sim = Sim::start(1, 0);
    let stream = stream(NON_BLOCKING);
    let (mut source, mut target) = (Pinned::of(&[1.0; 16]), Pinned::new(16));
    let at = alloc(64);
    // SAFETY: as declared.
    unsafe {
        ok(cuMemcpyHtoDAsync_v2(at, source.at.cast(), 64, stream));
        source.slice().fill(2.0);
        ok(cuMemcpyDtoHAsync_v2(target.at.cast(), at, 64, stream));
        assert_eq!(counters().pending_operations, 2);
        ok(cuStreamSynchronize(stream));
    }
    assert_eq!(target.slice(), [2.0; 16]);
    let counters = counters();
    assert_eq!(
        (
            counters.copies_to_device,
            counters.copies_to_host,
            counters.pageable_copies
        ),
        (1, 1, 0)
    );
    assert_eq!((counters.bytes_to_device, counters.bytes_to_host), (64, 64));
    assert_eq!(
        (counters.stream_synchronizes, counters.implicit_synchronizes),
        (1, 0)
    );
}

#[test]
fn a_pageable_copy_makes_the_host_wait_and_is_counted() {
    let _sim = Sim::start(1, 0);
    let stream = stream(NON_BLOCKING);
    let (mut source, mut target) = (vec![1.0f32; 16], vec![0.0f32; 16]);
    let pinned = Pinned::of(&[5.0; 16]);
    let (at, before) = (alloc(64), alloc(64));
    // SAFETY: as declared; the vectors have 64 bytes.
    unsafe {
        ok(cuMemcpyHtoDAsync_v2(before, pinned.at.cast(), 64, stream));
        ok(cuMemcpyHtoDAsync_v2(at, source.as_ptr().cast(), 64, stream));
        // What was before it on the stream has run; it has been staged, and is itself still to run.
        assert_eq!(counters().pending_operations, 1);
        source.fill(2.0);
        ok(cuMemcpyDtoHAsync_v2(
            target.as_mut_ptr().cast(),
            at,
            64,
            stream,
        ));
        assert_eq!(counters().pending_operations, 0);
    }
    assert_eq!(target, [1.0; 16]);
    let counters = counters();
    assert_eq!(
        (
            counters.pageable_copies,
            counters.pageable_bytes,
            counters.implicit_synchronizes
        ),
        (2, 128, 2)
    );
}

#[test]
fn memory_is_pinned_only_where_it_is() {
    let _sim = Sim::start(1, 0);
    let pinned = Pinned::new(16);
    let at = alloc(128);
    // SAFETY: as declared; a copy that reads beyond the pinned memory is refused before it does.
    unsafe {
        assert_eq!(cuMemcpyHtoDAsync_v2(at, pinned.at.cast(), 68, 0), 1);
        assert!(
            findings().contains("over the end of allocation 1 of pinned host memory (64 bytes"),
            "{}",
            findings()
        );
        let gone = pinned.at;
        pinned.free();
        assert_eq!(cuMemcpyHtoDAsync_v2(at, gone.cast(), 64, 0), 1);
        assert!(findings().contains("which was freed"), "{}", findings());
        // A device address where host memory belongs.
        assert_eq!(cuMemcpyHtoD_v2(at, at as *const _, 64), 1);
    }
}

#[test]
fn a_blocking_copy_of_pageable_memory_is_not_ordered_before_a_non_blocking_stream() {
    // cuMemcpyHtoD returns when the source is staged; only blocking streams then wait for the rest of the way.
    for (flags, safe) in [(0, true), (NON_BLOCKING, false)] {
        let _sim = Sim::start(1, 0);
        let other = stream(flags);
        let mut target = Pinned::new(16);
        let at = alloc(64);
        let source = [7.0f32; 16];
        // SAFETY: as declared.
        unsafe {
            ok(cuMemcpyHtoD_v2(at, source.as_ptr().cast(), 64));
            ok(cuMemcpyDtoHAsync_v2(target.at.cast(), at, 64, other));
            ok(cuStreamSynchronize(other));
        }
        assert_eq!(target.slice()[0] == 7.0, safe, "flags {flags}");
    }
}

#[test]
fn the_null_stream_fences_blocking_streams_on_both_sides() {
    for (flags, ordered) in [(0, true), (NON_BLOCKING, false)] {
        let mut right = 0;
        for seed in 0..40 {
            let sim = Sim::start(1, seed);
            let add = sim.function("add");
            let [first, second] = [(); 2].map(|()| stream(flags));
            let source = Pinned::of(&[1.0; 16]);
            let mut target = Pinned::new(16);
            let [a, b, c] = [(); 3].map(|()| alloc(64));
            // SAFETY: as declared.
            unsafe {
                ok(cuMemcpyHtoDAsync_v2(a, source.at.cast(), 64, first));
                ok(launch_add(add, 0, b, a, 16, 1.0));
                ok(launch_add(add, second, c, b, 16, 1.0));
                ok(cuMemcpyDtoHAsync_v2(target.at.cast(), c, 64, second));
                ok(cuStreamSynchronize(second));
            }
            right += usize::from(target.slice()[0] == 3.0);
        }
        assert_eq!(
            right == 40,
            ordered,
            "flags {flags}: right under {right} of 40 seeds"
        );
    }
}

#[test]
fn waiting_for_the_null_stream_waits_for_blocking_streams_even_destroyed_ones() {
    let _sim = Sim::start(1, 0);
    let [blocking, free] = [stream(0), stream(NON_BLOCKING)];
    let source = Pinned::of(&[1.0; 16]);
    let at = alloc(64);
    // SAFETY: as declared.
    unsafe {
        ok(cuMemcpyHtoDAsync_v2(at, source.at.cast(), 64, blocking));
        ok(cuMemcpyHtoDAsync_v2(at, source.at.cast(), 64, free));
        ok(cuStreamDestroy_v2(blocking));
        ok(cuStreamSynchronize(0));
        assert_eq!(counters().pending_operations, 1);
        ok(cuStreamSynchronize(free));
        assert_eq!(counters().pending_operations, 0);
    }
}
