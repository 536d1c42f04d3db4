//! What a fence is for: with it, no seed gives a wrong answer; without it, some seed does.
#![allow(clippy::unwrap_used)] // what cannot go on in a test panics

mod common;

use common::ffi::*;
use common::*;

/// Which fence a program leaves out.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Without {
    Nothing,
    /// Compute does not wait for the load.
    Loaded,
    /// Store does not wait for compute.
    Computed,
    /// The host reuses pinned and device slots before they are stored.
    Stored,
    /// Nothing is left out, but the load of the next round does not wait for the last compute.
    Consumed,
}

/// Three streams, one slot, four rounds of load, compute, store. True if all results are right; and the log.
fn rounds(seed: u64, without: Without) -> (bool, String) {
    let sim = Sim::start(1, seed);
    let add = sim.function("add");
    let [load, compute, store] = [(); 3].map(|()| stream(NON_BLOCKING));
    let [loaded, computed, stored] = [(); 3].map(|()| event());
    const N: usize = 100;
    let (mut staging, mut result) = (Pinned::new(N), Pinned::new(N));
    let (input, output) = (alloc(N * 4), alloc(N * 4));
    let mut right = true;
    // SAFETY: as declared; addresses and sizes are those of the allocations.
    unsafe {
        for round in 0..4 {
            staging.slice().fill(round as f32);
            if without != Without::Consumed {
                ok(cuStreamWaitEvent(load, computed, 0));
            }
            ok(cuMemcpyHtoDAsync_v2(input, staging.at.cast(), N * 4, load));
            ok(cuEventRecord(loaded, load));
            if without != Without::Loaded {
                ok(cuStreamWaitEvent(compute, loaded, 0));
            }
            // Output is rewritten only when it has been stored.
            ok(cuStreamWaitEvent(compute, stored, 0));
            ok(launch_add(add, compute, output, input, N as u32, 0.5));
            ok(cuEventRecord(computed, compute));
            if without != Without::Computed {
                ok(cuStreamWaitEvent(store, computed, 0));
            }
            ok(cuMemcpyDtoHAsync_v2(result.at.cast(), output, N * 4, store));
            ok(cuEventRecord(stored, store));
            match without {
                Without::Stored => ok(cuEventSynchronize(loaded)),
                // The host waits for the wrong thing, and the next round overwrites what compute still reads.
                Without::Consumed => {
                    ok(cuEventSynchronize(loaded));
                    continue;
                }
                _ => ok(cuEventSynchronize(stored)),
            }
            right &= result
                .slice()
                .iter()
                .all(|value| *value == round as f32 + 0.5);
        }
        ok(cuCtxSynchronize());
        if without == Without::Consumed {
            // Each round's sum would be needed to see it; the last one is seen alone, so count rounds by the log.
            right = compute_ran_before_next_load(&log());
        }
    }
    (right, log())
}

/// In the log: no second load ran before the compute of the first.
fn compute_ran_before_next_load(log: &str) -> bool {
    let mut loads_ahead = 0;
    for line in log.lines().filter(|line| line.starts_with("run ")) {
        if line.contains("copy ToDevice") {
            loads_ahead += 1;
            if loads_ahead > 1 {
                return false;
            }
        } else if line.contains("kernel add") {
            loads_ahead -= 1;
        }
    }
    true
}

#[test]
fn a_right_program_is_right_under_every_seed() {
    for seed in 0..100 {
        assert!(rounds(seed, Without::Nothing).0, "seed {seed}");
    }
}

#[test]
fn each_missing_fence_shows_under_some_seed() {
    for without in [
        Without::Loaded,
        Without::Computed,
        Without::Stored,
        Without::Consumed,
    ] {
        let wrong = (0..20).filter(|seed| !rounds(*seed, without).0).count();
        println!("{without:?}: wrong under {wrong} of 20 seeds");
        assert!(wrong > 0, "{without:?} is never wrong");
    }
}

#[test]
fn a_seed_is_an_order_and_the_same_one_each_time() {
    let order = |seed| {
        // A right program of one slot leaves no choice; this one does.
        let (_, log) = rounds(seed, Without::Consumed);
        log.lines()
            .filter(|line| line.starts_with("run "))
            .map(|l| l.split(' ').nth(1).unwrap().to_owned())
            .collect()
    };
    let orders: Vec<Vec<String>> = (0..10).map(order).collect();
    let again: Vec<Vec<String>> = (0..10).map(order).collect();
    assert_eq!(orders, again);
    let different: std::collections::HashSet<_> = orders.iter().collect();
    assert!(different.len() > 3, "{} orders of 10", different.len());
}
