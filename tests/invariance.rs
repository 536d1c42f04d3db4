//! An embedding depends on its sequence alone, bit for bit: on no neighbour, order, batch size or
//! thread count. (Shards, resume and the program's options: `readme.rs`, `pipeline_*.rs`, `cli_kill.rs`.)
//!
//! Lengths crowd the places where something could change: 16 tokens (short sequences are summed
//! otherwise), 32 rows (no product has fewer), 64 keys (a packed panel), 128 (a softmax block),
//! 1024 rows (a tile of a product, a run of queries).

#![allow(clippy::expect_used, clippy::unwrap_used)] // the helpers of tests are tests

use proptest::prelude::*;
use seqstream::backend::cpu::Cpu;
use seqstream::batch::PackedBatch;
use seqstream::model::config::{ModelConfig, ModelKind};
use seqstream::model::{Embedder, Model, Pool, Request};
use seqstream::weights::random::{RandomSpec, write_random};
use seqstream::weights::{Checkpoint, DType};

fn config(kind: ModelKind, hidden: usize, heads: usize, intermediate: usize) -> ModelConfig {
    let esm = kind == ModelKind::Esm2;
    ModelConfig {
        kind,
        layers: 2,
        hidden,
        heads,
        intermediate,
        vocab: if esm { 33 } else { 4096 },
        layer_norm_eps: if esm { 1e-5 } else { 1e-12 },
        token_dropout: esm,
        mask_token: 32,
    }
}

/// The same model on 1, 2, 3 and 5 threads. The intermediate widths need more than one block of K.
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

    /// The bits of the first layer's and the last layer's mean and token states, a list a sequence.
    fn bits(&mut self, threads: usize, sequences: &[&Vec<u32>]) -> Vec<Vec<u32>> {
        let model = &mut self.0[threads];
        let d = model.config().hidden;
        let layers = vec![1, model.config().layers];
        let request = Request {
            layers,
            pool: Some(Pool::Mean),
            per_token: true,
        };
        let mut batch = PackedBatch::new();
        for s in sequences {
            batch.push(s);
        }
        let outputs = model.embed(&batch, &request).unwrap();
        let of = |i: usize| {
            let range = batch.range(i);
            let values = outputs.iter().flat_map(|o| {
                let mean = &o.pooled[i * d..(i + 1) * d];
                mean.iter().chain(&o.states[range.start * d..range.end * d])
            });
            values.map(|x| x.to_bits()).collect()
        };
        (0..batch.len()).map(of).collect()
    }
}

/// Token counts around every boundary, and any others.
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

/// Each sequence alone on one thread, against every way of batching it.
fn check(models: &mut Models, sequences: &[Vec<u32>], cut: usize, shift: usize) {
    let alone: Vec<_> = sequences
        .iter()
        .map(|s| models.bits(0, &[s]).remove(0))
        .collect();
    assert!(
        alone
            .iter()
            .flatten()
            .all(|b| f32::from_bits(*b).is_finite())
    );
    let n = sequences.len();
    let rotated: Vec<usize> = (0..n).map(|i| (i + shift) % n).collect();
    let reversed: Vec<usize> = (0..n).rev().collect();
    let (first, second) = rotated.split_at(cut % n);
    for threads in 0..models.0.len() {
        for order in [&rotated[..], &reversed[..], first, second] {
            if order.is_empty() {
                continue;
            }
            let batch: Vec<&Vec<u32>> = order.iter().map(|i| &sequences[*i]).collect();
            for (bits, i) in models.bits(threads, &batch).iter().zip(order) {
                let lengths: Vec<usize> = batch.iter().map(|s| s.len()).collect();
                let len = sequences[*i].len();
                assert!(
                    *bits == alone[*i],
                    "{len} tokens among {lengths:?}, model {threads}"
                );
            }
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
    esm2_head_dim_16: config(ModelKind::Esm2, 80, 5, 320);
    esm2_head_dim_24: config(ModelKind::Esm2, 96, 4, 600);
    esm2_head_dim_64: config(ModelKind::Esm2, 192, 3, 1100);
    dnabert_two_heads: config(ModelKind::Dnabert, 128, 2, 576);
    dnabert_three_heads: config(ModelKind::Dnabert, 96, 3, 1300);
}
