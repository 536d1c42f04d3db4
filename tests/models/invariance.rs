//! An embedding depends on its sequence alone, bit for bit: not on neighbours, order, batch size or
//! thread count. (Shards, resume and the program's options: `tests/project/readme.rs`,
//! `tests/pipeline`, `tests/cli/kill.rs`.)
//!
//! Lengths are chosen around the boundaries at which the computation changes: 16 tokens (shorter
//! sequences are summed differently), 32 rows (the least of a product), 64 keys (a packed panel),
//! 128 (a softmax block), 1024 rows (a tile of a product, a run of queries).

use crate::support::bodies;
use crate::support::bodies::*;
use proptest::prelude::*;
use seqstream::architecture::ModelConfig;
use seqstream::backend::cpu::Cpu;
use seqstream::dtype::DType;
use seqstream::model::Model;
use seqstream::weights::Checkpoint;
use seqstream::weights::random::{RandomSpec, write_random};

/// The same model on 1, 2, 3 and 5 threads.
struct Models(Vec<Model<Cpu>>);

impl Models {
    fn new(config: ModelConfig) -> Self {
        let dir = tempfile::tempdir().unwrap();
        write_random(&RandomSpec::from(config), 7, DType::F32, dir.path()).unwrap();
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        let load = |threads| {
            let cpu = Cpu::new(threads).unwrap();
            Model::load(cpu, checkpoint.config(), &checkpoint).unwrap()
        };
        Self([1, 2, 3, 5].map(load).into())
    }
}

/// Generates token counts around every boundary, and any others.
fn lengths() -> impl Strategy<Value = usize> {
    prop_oneof![
        4 => prop::sample::select(vec![3, 14, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129]),
        4 => 3usize..300,
        1 => prop::sample::select(vec![511, 512, 513, 1023, 1024, 1025, 1100]),
    ]
}

fn sequences() -> impl Strategy<Value = Vec<Vec<u32>>> {
    let sequence = lengths().prop_flat_map(|n| prop::collection::vec(4u32..33, n));
    prop::collection::vec(sequence, 2..9)
}

/// Compares each sequence alone on one thread with every way of batching it.
fn check(models: &mut Models, sequences: &[Vec<u32>], cut: usize, shift: usize) {
    let alone = bodies::alone(&mut models.0[0], sequences);
    for (i, model) in models.0.iter_mut().enumerate() {
        let on = format!("model {i}");
        bodies::same_among_others(&on, model, (sequences, &alone), cut, shift);
    }
}

/// Tests lengths of both classes in one batch.
#[test]
fn a_representation_is_the_same_whatever_is_asked_for_beside_it() {
    for config in [ESM2_HEAD_16, ESM2_HEAD_64, DNABERT_TWO_HEADS] {
        let kind = config.kind;
        let mut models = Models::new(config);
        let sequences = [3, 9, 17, 40].map(|n| (0..n).map(|i| 4 + i * 7 % 20).collect());
        for (i, model) in models.0.iter_mut().enumerate() {
            let on = format!("{kind:?}, model {i}");
            bodies::same_whatever_is_asked_for(&on, model, &sequences);
            let lengths = [3, 4, 15, 16, 63, 64, 65, 129, 5];
            let ragged = lengths.map(|n| (0..n).map(|i| 4 + (i * 11 + n) % 20).collect());
            bodies::poolings_are_those_of_the_states(&on, model, &ragged);
        }
    }
}

macro_rules! invariant {
    ($($name:ident: $config:expr;)*) => {$(
        #[test]
        fn $name() {
            let mut models = Models::new($config);
            let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
                cases: 12,
                failure_persistence: None,
                max_shrink_iters: 20,
                ..ProptestConfig::default()
            });
            let cases = (sequences(), 0usize..8, 0usize..8);
            let models = std::cell::RefCell::new(&mut models);
            runner
                .run(&cases, |(sequences, cut, shift)| {
                    check(&mut models.borrow_mut(), &sequences, cut, shift);
                    Ok(())
                })
                .unwrap_or_else(|e| panic!("{e}"));
        }
    )*};
}

invariant! {
    esm2_head_dim_16: ESM2_HEAD_16;
    esm2_head_dim_24: ESM2_HEAD_24;
    esm2_head_dim_64: ESM2_HEAD_64;
    dnabert_two_heads: DNABERT_TWO_HEADS;
    dnabert_three_heads: DNABERT_THREE_HEADS;
}
