//! Properties of a model, whatever device computes it: the same test bodies for the CPU
//! (`models/golden_states.rs`, `models/invariance.rs`), and for simulated and real devices
//! (`cuda/models.rs`).

use std::path::Path;

use seqstream::architecture::{ModelConfig, ModelKind};
use seqstream::batch::PackedBatch;
use seqstream::model::{Embedder, Pool, Request};

use crate::support::golden::{Golden, Reference, errors};

/// Compares a model with a golden file: for each sequence, norm(out - reference) / norm(reference)
/// of its token states and of its means is at most `bar` of the error of Hugging Face's own f32
/// run. Prints all errors, and returns a message for each error over the bar.
pub fn faithful(
    on: &str,
    file: &Path,
    model: &mut dyn Embedder,
    (golden, references): (&Golden, &[Reference]),
    bar: impl Fn(f64) -> f64,
) -> Vec<String> {
    let file = file.file_stem().unwrap().display();
    let (mut over, mut worst) = (Vec::new(), (0.0f64, 0.0f64));
    for (r, errors) in references.iter().zip(errors(model, golden, references)) {
        for ((what, ours), peer) in errors.iter().zip(&r.peer_error) {
            let (bar, ratio) = (bar(*peer), ours / peer);
            let at = format!("{file} {on} {}: {what}", r.name);
            println!("{at}: {ours:.2e}, peer {peer:.2e}, ratio {ratio:.2}");
            worst = (worst.0.max(*ours), worst.1.max(ratio));
            // NaN is over every bar.
            if ours.is_nan() || *ours > bar {
                over.push(format!("{at} is off by {ours:e}, the bar is {bar:e}"));
            }
        }
    }
    let (error, ratio) = worst;
    println!("{on} {file}: at most {error:.2e}, {ratio:.2} of PyTorch's f32");
    over
}

/// Small models of both kinds, each by kind, width, heads and intermediate width. Heads have 16,
/// 24, 64 and 32 columns, and intermediate widths are more than one block of the CPU's K.
pub const ESM2_HEAD_16: ModelConfig = config(ModelKind::Esm2, 80, 5, 320);
pub const ESM2_HEAD_24: ModelConfig = config(ModelKind::Esm2, 96, 4, 600);
pub const ESM2_HEAD_64: ModelConfig = config(ModelKind::Esm2, 192, 3, 1096);
pub const DNABERT_TWO_HEADS: ModelConfig = config(ModelKind::Dnabert, 128, 2, 576);
pub const DNABERT_THREE_HEADS: ModelConfig = config(ModelKind::Dnabert, 96, 3, 1300);

const fn config(kind: ModelKind, hidden: usize, heads: usize, intermediate: usize) -> ModelConfig {
    let esm = matches!(kind, ModelKind::Esm2);
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

/// The request that [`bits`] makes.
pub fn request(model: &dyn Embedder) -> Request {
    Request {
        layers: vec![1, model.config().layers],
        pools: vec![Pool::Mean],
        per_token: true,
    }
}

/// Returns the bits of the first and the last layer's mean and token states, one list per sequence,
/// with all sequences in one batch.
pub fn bits(model: &mut dyn Embedder, sequences: &[&Vec<u32>]) -> Vec<Vec<u32>> {
    let (d, request) = (model.config().hidden, request(model));
    let mut batch = PackedBatch::new();
    sequences.iter().for_each(|s| batch.push(s));
    let outputs = model.embed(&batch, &request).unwrap();
    let of = |i: usize| {
        let range = batch.range(i);
        let values = outputs.iter().flat_map(|o| {
            let mean = &o.pooled[i * d..(i + 1) * d];
            mean.iter()
                .chain(&o.states.f32s()[range.start * d..range.end * d])
        });
        values.map(|x| x.to_bits()).collect()
    };
    (0..batch.len()).map(of).collect()
}

/// Returns the [`bits`] of each sequence alone.
pub fn alone(model: &mut dyn Embedder, sequences: &[Vec<u32>]) -> Vec<Vec<u32>> {
    let alone = sequences.iter().map(|s| bits(model, &[s]).remove(0));
    let alone: Vec<_> = alone.collect();
    let finite = |b: &u32| f32::from_bits(*b).is_finite();
    assert!(alone.iter().flatten().all(finite));
    alone
}

/// Checks that each sequence has the same bits as alone: among all sequences, rotated by `shift`
/// and in reverse, and among the sequences before and after `cut`.
pub fn same_among_others(
    on: &str,
    model: &mut dyn Embedder,
    (sequences, alone): (&[Vec<u32>], &[Vec<u32>]),
    cut: usize,
    shift: usize,
) {
    let n = sequences.len();
    let rotated: Vec<usize> = (0..n).map(|i| (i + shift) % n).collect();
    let reversed: Vec<usize> = (0..n).rev().collect();
    let (first, second) = rotated.split_at(cut % n);
    for order in [&rotated[..], &reversed[..], first, second] {
        if order.is_empty() {
            continue;
        }
        let batch: Vec<&Vec<u32>> = order.iter().map(|i| &sequences[*i]).collect();
        for (bits, i) in bits(model, &batch).iter().zip(order) {
            let lengths: Vec<usize> = batch.iter().map(|s| s.len()).collect();
            let len = sequences[*i].len();
            assert!(*bits == alone[*i], "{on}: {len} tokens among {lengths:?}");
        }
    }
}

/// Checks that a representation's bits do not depend on other requested outputs: each layer alone,
/// means with and without token states, and states without means. It also checks that `cls` is the
/// first row. `sequences` are one batch.
pub fn same_whatever_is_asked_for(on: &str, model: &mut dyn Embedder, sequences: &[Vec<u32>]) {
    let mut batch = PackedBatch::new();
    sequences.iter().for_each(|s| batch.push(s));
    let d = model.config().hidden;
    // The first layer differs from the last one, whose LayerNorm only some models have.
    let layers = [1, model.config().layers];
    assert!(layers[0] < layers[1]);
    let mut embed = |layers: &[usize], pools: &[Pool], per_token| {
        let request = Request {
            layers: layers.to_vec(),
            pools: pools.to_vec(),
            per_token,
        };
        let outputs = model.embed(&batch, &request).unwrap();
        let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        let of = outputs
            .iter()
            .map(|o| (bits(&o.pooled), bits(o.states.f32s())));
        of.collect::<Vec<_>>()
    };
    let together = embed(&layers, &[Pool::Mean], true);
    let first_rows = |states: &[u32]| -> Vec<u32> {
        let rows = (0..batch.len()).map(|i| batch.range(i).start * d);
        rows.flat_map(|at| &states[at..at + d]).copied().collect()
    };
    for (layer, (means, states)) in layers.iter().zip(&together) {
        assert_eq!(means.len(), batch.len() * d);
        assert_eq!(states.len(), batch.total() * d);
        let cls = first_rows(states);
        assert!(cls != *means);
        let (none, means, cls) = (vec![], means.clone(), cls);
        for (pools, per_token, pooled) in [
            (&[Pool::Mean][..], false, &means),
            (&[Pool::Mean], true, &means),
            (&[Pool::Cls], false, &cls),
            (&[Pool::Cls], true, &cls),
            (&[], true, &none),
        ] {
            let alone = embed(&[*layer], pools, per_token);
            let what = format!("{on}: layer {layer} alone, {pools:?}, states {per_token}");
            assert!(alone[0].0 == *pooled, "{what}: other vectors");
            let wanted = if per_token { states } else { &none };
            assert!(alone[0].1 == *wanted, "{what}: other states");
        }
    }
    let cls = embed(&layers, &[Pool::Cls], true);
    for (n, (_, states)) in together.iter().enumerate() {
        assert!(
            cls[n].0 == first_rows(states) && cls[n].1 == *states,
            "{on}: cls of both"
        );
    }
}

/// Checks several poolings in one pass against the states: the mean in f64, the greatest values, and
/// the first row, in any order; and that each has the bits that it has by itself, whether or not
/// states are wanted. `sequences` are one batch.
pub fn poolings_are_those_of_the_states(
    on: &str,
    model: &mut dyn Embedder,
    sequences: &[Vec<u32>],
) {
    let mut batch = PackedBatch::new();
    sequences.iter().for_each(|s| batch.push(s));
    let (d, kind) = (model.config().hidden, model.config().kind);
    let layers = vec![0, model.config().layers];
    let mut embed = |pools: &[Pool], per_token| {
        let request = Request {
            layers: layers.clone(),
            pools: pools.to_vec(),
            per_token,
        };
        model.embed(&batch, &request).unwrap()
    };
    let pools = [Pool::Max, Pool::Cls, Pool::Mean];
    let together = embed(&pools, true);
    let without_states = embed(&pools, false);
    for (output, bare) in together.iter().zip(&without_states) {
        assert_eq!(output.pooled.len(), batch.len() * pools.len() * d);
        assert_eq!(bare.states.len(), 0);
        let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert!(
            bits(&output.pooled) == bits(&bare.pooled),
            "{on}: other vectors"
        );
        for i in 0..batch.len() {
            let rows = |tokens: std::ops::Range<usize>| {
                output.states.f32s()[tokens.start * d..tokens.end * d].chunks(d)
            };
            let pooled = kind.pooled_tokens(batch.range(i));
            let count = pooled.len() as f64;
            let at = |pool: usize| &output.pooled[(i * pools.len() + pool) * d..][..d];
            let first = rows(batch.range(i)).next().unwrap();
            assert!(
                bits(at(1)) == bits(first),
                "{on}: sequence {i}: not the first row"
            );
            for column in 0..d {
                let values = || rows(pooled.clone()).map(|row| f64::from(row[column]));
                let (max, mean) = (
                    values().fold(f64::MIN, f64::max),
                    values().sum::<f64>() / count,
                );
                let size = values().fold(0.0, |size: f64, v| size.max(v.abs()));
                for (pool, wanted) in [(0, max), (2, mean)] {
                    let got = f64::from(at(pool)[column]);
                    // The states are f32, and the values differ by their rounding alone.
                    assert!(
                        (got - wanted).abs() <= 8.0 * f64::from(f32::EPSILON) * size.max(1.0),
                        "{on}: sequence {i}, column {column}, {:?}: {got}, not {wanted}",
                        pools[pool]
                    );
                }
            }
        }
    }
    for (at, pool) in pools.iter().enumerate() {
        for (all, alone) in together.iter().zip(embed(&[*pool], true)) {
            let of_all = all.pooled.chunks(d).skip(at).step_by(pools.len());
            let same = of_all
                .flatten()
                .map(|x| x.to_bits())
                .eq(alone.pooled.iter().map(|x| x.to_bits()));
            assert!(same, "{on}: {pool:?} alone has other bits");
            assert!(
                all.states == alone.states,
                "{on}: {pool:?} alone has other states"
            );
        }
    }
}
