//! The CPU backend's operations at the models' shapes: `cargo bench --bench kernels`.
//!
//! Elements per second are FLOP per second for the linear layers and attention (4·d·length a
//! token), values per second for LayerNorm.

#![allow(clippy::unwrap_used)]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use seqstream::backend::cpu::{Cpu, Matrix};
use seqstream::backend::{Activation, AttentionSpec, Backend, LinearPart, Position};
use seqstream::weights::F32Data;
use std::time::Duration;

const TOKENS: usize = 2048;

/// Values in (-1/2, 1/2): random, since some machines run faster on zeros.
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

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

fn linear(c: &mut Criterion) {
    let mut cpu = Cpu::new(threads()).unwrap();
    let mut group = c.benchmark_group("linear");
    // (inputs, outputs): 8M, 35M, 150M, 650M and DNABERT-S, q-k-v and the two of the FFN.
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
                weight: F32Data::Owned(random(n * k)),
                bias: Some(F32Data::Owned(random(n))),
            };
            let w = cpu.linear_weights(vec![part], k).unwrap();
            let x = Matrix::from_rows(&random(TOKENS * k), TOKENS, k);
            let mut out = cpu.matrix();
            group.throughput(Throughput::Elements((2 * TOKENS * n * k) as u64));
            for (name, act) in [("", Activation::None), ("+gelu", Activation::Gelu)] {
                group.bench_function(format!("{k}x{n}{name}"), |b| {
                    b.iter(|| cpu.linear(&x, &w, act, &mut out).unwrap())
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
        let qkv = Matrix::from_rows(&random(TOKENS * 3 * d), TOKENS, 3 * d);
        let mut out = cpu.matrix();
        for length in [64, 320, 1022] {
            let count = TOKENS / length;
            let starts: Vec<usize> = (0..=count).map(|i| i * length).collect();
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
                group.bench_function(format!("{name}/{head_dim}/{length}"), |b| {
                    b.iter(|| cpu.attention(&qkv, &starts, &spec, &mut out).unwrap())
                });
            }
        }
    }
    group.finish();
}

fn layer_norm(c: &mut Criterion) {
    let mut cpu = Cpu::new(threads()).unwrap();
    let mut group = c.benchmark_group("layer_norm");
    for d in [320, 480, 640, 768, 1280] {
        let x = Matrix::from_rows(&random(TOKENS * d), TOKENS, d);
        let (gain, bias) = (F32Data::Owned(random(d)), F32Data::Owned(random(d)));
        let mut out = cpu.matrix();
        group.throughput(Throughput::Elements((TOKENS * d) as u64));
        group.bench_function(format!("{d}"), |b| {
            b.iter(|| cpu.layer_norm(&x, &gain, &bias, 1e-5, &mut out).unwrap())
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
    targets = linear, attention, layer_norm
}
criterion_main!(kernels);
