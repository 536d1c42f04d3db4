//! mbarriers and named barriers.

use super::bench::{Bench, Launch, poison, words};

#[test]
fn a_ring_of_mbarriers_passes_every_round() {
    for seed in 0..8 {
        let Some(bench) = Bench::hopper(seed) else {
            return;
        };
        for rounds in [1u32, 3, 4, 50] {
            let output = words(&bench.run(Launch {
                name: "conformance_mbarrier",
                threads: 128,
                n: [rounds, 0, 0, 0, 0, 0, 0, 0],
                output: poison(256),
                ..Launch::default()
            }));
            for (i, sum) in output.iter().enumerate() {
                let expected: u32 = (0..rounds).map(|round| round * 64 + 63 - i as u32).sum();
                assert_eq!(*sum, expected, "seed {seed}, {rounds} rounds, thread {i}");
            }
        }
    }
}

#[test]
fn who_arrives_at_a_named_barrier_releases_who_waits() {
    for seed in 0..8 {
        let Some(bench) = Bench::hopper(seed) else {
            return;
        };
        let output = words(&bench.run(Launch {
            name: "conformance_named_barrier",
            threads: 128,
            output: poison(256),
            ..Launch::default()
        }));
        let expected: Vec<u32> = (0..64).map(|i| (63 - i) * 3).collect();
        assert_eq!(output, expected, "seed {seed}");
    }
}
