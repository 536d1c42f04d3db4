//! The CPU backend's operations at the models' shapes: `cargo bench --bench kernels`.
//!
//! Elements per second are FLOP per second for the linear layers and attention (4·d·length per
//! token), and values per second for LayerNorm.

#![allow(clippy::unwrap_used)]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use seqstream::backend::cpu::{Cpu, Matrix};
use seqstream::backend::{
    Activation, AttentionSpec, Backend, Builder, LinearKind, LinearPart, Norm, Pass, Position,
};
use seqstream::batch::PackedBatch;
use seqstream::dtype::DType;
use seqstream::weights::{F32Data, Weight};
use std::time::Duration;

const TOKENS: usize = 2048;

/// Returns values in (-1/2, 1/2). They are random, since some machines run faster on zeros.
fn random(n: usize) -> Vec<f32> {
    let mut x = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x >> 40) as f32 / (1u32 << 24) as f32 - 0.5
    };
    (0..n).map(|_| next()).collect()
}

fn values(n: usize) -> Weight {
    Weight::F32(F32Data::Owned(random(n)))
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

fn linear(c: &mut Criterion) {
    let mut cpu = Cpu::new(threads()).unwrap();
    let batch = PackedBatch::new();
    let mut group = c.benchmark_group("linear");
    // (inputs, outputs) of 8M, 35M, 150M, 650M and DNABERT-S: q-k-v and the two layers of the FFN.
    let widths = [
        (320, 1280),
        (480, 1920),
        (640, 2560),
        (1280, 5120),
        (768, 3072),
    ];
    for (d, ffn) in widths {
        for (k, n) in [(d, 3 * d), (d, ffn), (ffn, d)] {
            let part = LinearPart {
                weight: values(n * k),
                bias: Some(values(n)),
            };
            let w = cpu
                .linear_weights(vec![part], k, LinearKind::Store)
                .unwrap();
            let x = Matrix::from_rows(&random(TOKENS * k), TOKENS, k);
            let mut out = Matrix::default();
            let mut pass = cpu.begin(0, &batch, &[]).unwrap();
            group.throughput(Throughput::Elements((2 * TOKENS * n * k) as u64));
            for (name, act) in [("", Activation::None), ("+gelu", Activation::Gelu)] {
                group.bench_function(format!("{k}x{n}{name}"), |b| {
                    b.iter(|| pass.linear(&x, &w, act, &mut out).unwrap())
                });
            }
        }
    }
    group.finish();
}

fn attention(c: &mut Criterion) {
    let mut cpu = Cpu::new(threads()).unwrap();
    let mut group = c.benchmark_group("attention");
    for (head_dim, heads) in [(16, 20), (24, 20), (32, 20), (64, 20), (128, 10)] {
        let d = head_dim * heads;
        let values = random(TOKENS * 3 * d);
        let mut out = Matrix::default();
        for length in [64, 320, 1022] {
            let count = TOKENS / length;
            let rows = count * length;
            let qkv = Matrix::from_rows(&values[..rows * 3 * d], rows, 3 * d);
            let mut batch = PackedBatch::new();
            (0..count).for_each(|_| batch.push(&vec![0; length]));
            let rotary = Position::Rotary(vec![0.1; head_dim / 2]);
            let alibi = Position::Alibi(vec![0.1; heads]);
            for (name, position) in [("rotary", rotary), ("alibi", alibi)] {
                let spec = AttentionSpec {
                    heads,
                    head_dim,
                    position,
                };
                group.throughput(Throughput::Elements(
                    (4 * d * length * length * count) as u64,
                ));
                let mut pass = cpu.begin(0, &batch, &[]).unwrap();
                group.bench_function(format!("{name}/{head_dim}/{length}"), |b| {
                    b.iter(|| pass.attention(&qkv, &spec, &mut out).unwrap())
                });
            }
        }
    }
    group.finish();
}

fn layer_norm(c: &mut Criterion) {
    let mut cpu = Cpu::new(threads()).unwrap();
    let batch = PackedBatch::new();
    let mut pass = cpu.begin(0, &batch, &[]).unwrap();
    let mut group = c.benchmark_group("layer_norm");
    for d in [320, 480, 640, 768, 1280] {
        let x = Matrix::from_rows(&random(TOKENS * d), TOKENS, d);
        let norm = Norm {
            gain: F32Data::Owned(random(d)),
            bias: F32Data::Owned(random(d)),
            eps: 1e-5,
        };
        let mut out = Matrix::default();
        group.throughput(Throughput::Elements((TOKENS * d) as u64));
        group.bench_function(format!("{d}"), |b| {
            b.iter(|| pass.layer_norm(&x, &norm, &mut out).unwrap())
        });
    }
    group.finish();
}

/// Times loading weights into a slot (one thread's part): unchanged, and rounded on the way.
fn weights(c: &mut Criterion) {
    let mut from = Vec::new();
    DType::F32.encode(&random(8 << 20), &mut from);
    let mut to = vec![0; from.len()];
    let mut group = c.benchmark_group("weights");
    group.throughput(Throughput::Bytes(from.len() as u64));
    for dtype in [DType::F32, DType::F16, DType::Bf16] {
        group.bench_function(format!("f32 to {dtype}"), |b| {
            b.iter(|| dtype.narrow(&from, &mut to))
        });
    }
    group.finish();
}

criterion_group! {
    name = kernels;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = linear, attention, layer_norm, weights
}
criterion_main!(kernels);
