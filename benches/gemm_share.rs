//! The share of matrix products in a 650M forward pass: `cargo bench --bench gemm_share`.
//!
//! Two computations alternate on the same packed batch of ragged lengths: whole layers, through the
//! model; and only the linear layers of the same shapes on weights of the same size, without bias,
//! GELU or residual. The model has 4 of the 33 layers (315 MB of weights, far larger than any
//! cache, and all layers are alike). Prints both medians and their ratio, which should be at least
//! 80 %.

#![allow(clippy::unwrap_used)]

use seqstream::architecture::{ModelConfig, ModelKind};
use seqstream::backend::cpu::{Cpu, Linear, Matrix};
use seqstream::backend::{Activation, Backend, Builder, LinearKind, LinearPart, Pass};
use seqstream::batch::PackedBatch;
use seqstream::model::{Embedder, Model, Parameters, Pool, Request};
use seqstream::weights::{F32Data, Weight, WeightsError};
use std::time::Instant;

const D: usize = 1280;
const LAYERS: usize = 4;
const ROUNDS: usize = 5;
/// Ragged lengths, as of proteins; 4 053 tokens.
const LENGTHS: [usize; 13] = [
    120, 210, 290, 350, 88, 512, 402, 307, 640, 151, 263, 330, 390,
];

/// Random parameters of the right shapes, by name.
struct Random;

fn random(n: usize, scale: f32) -> Vec<f32> {
    let mut x = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        ((x >> 40) as f32 / (1u32 << 24) as f32 - 0.5) * scale
    };
    (0..n).map(|_| next()).collect()
}

impl Parameters for Random {
    fn get(&self, name: &str) -> Result<Weight, WeightsError> {
        Ok(Weight::F32(F32Data::Owned(self.values(name))))
    }
    fn find(&self, _: &str) -> Option<Weight> {
        None
    }
}

impl Random {
    fn values(&self, name: &str) -> Vec<f32> {
        let wide = name.contains("intermediate")
            || name.ends_with("output.dense.weight") && !name.contains("attention");
        let n = match (
            name.ends_with("weight"),
            name.to_lowercase().contains("norm"),
        ) {
            (true, true) => return vec![1.0; D],
            (true, false) if name.contains("embeddings") => 33 * D,
            (true, false) if wide => 4 * D * D,
            (true, false) => D * D,
            (false, _) if name.contains("intermediate") => 4 * D,
            (false, _) => D,
        };
        random(n, 0.05)
    }
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn main() {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let config = ModelConfig {
        kind: ModelKind::Esm2,
        layers: LAYERS,
        hidden: D,
        heads: 20,
        intermediate: 4 * D,
        vocab: 33,
        layer_norm_eps: 1e-5,
        token_dropout: true,
        mask_token: 32,
    };
    let mut model = Model::load(Cpu::new(threads).unwrap(), &config, &Random).unwrap();
    let mut batch = PackedBatch::new();
    for n in LENGTHS {
        let tokens: Vec<u32> = (0..n).map(|i| 4 + ((i * 7 + n) % 20) as u32).collect();
        batch.push(&tokens);
    }
    let request = Request {
        layers: vec![LAYERS],
        pools: vec![Pool::Mean],
        per_token: false,
    };

    let mut cpu = Cpu::new(threads).unwrap();
    let linear = |cpu: &mut Cpu, n: usize, k: usize| -> Linear {
        let part = || LinearPart {
            weight: Weight::F32(F32Data::Owned(random(n * k, 0.05))),
            bias: None,
        };
        cpu.linear_weights(vec![part()], k, LinearKind::Store)
            .unwrap()
    };
    let layer = |cpu: &mut Cpu| {
        [(3 * D, D), (D, D), (4 * D, D), (D, 4 * D)].map(|(n, k)| linear(cpu, n, k))
    };
    let layers: Vec<[Linear; 4]> = (0..LAYERS).map(|_| layer(&mut cpu)).collect();
    let rows = batch.total();
    let (mut qkv, mut x, mut wide, mut y) = (
        Matrix::default(),
        Matrix::default(),
        Matrix::default(),
        Matrix::default(),
    );
    x.resize(rows, D);
    x.values_mut().copy_from_slice(&random(rows * D, 1.0));
    let mut pass = cpu.begin(0, &batch, &[]).unwrap();
    let mut products = || {
        for [in_, out, fc1, fc2] in &layers {
            pass.linear(&x, in_, Activation::None, &mut qkv).unwrap();
            pass.linear(&x, out, Activation::None, &mut y).unwrap();
            pass.linear(&x, fc1, Activation::None, &mut wide).unwrap();
            pass.linear(&wide, fc2, Activation::None, &mut y).unwrap();
        }
    };

    let (mut whole, mut only) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let start = Instant::now();
        model.embed(&batch, &request).unwrap();
        let middle = Instant::now();
        products();
        if round > 0 {
            whole.push((middle - start).as_secs_f64());
            only.push(middle.elapsed().as_secs_f64());
        }
    }
    let (whole, only) = (median(whole), median(only));
    let flop = (2 * rows * 12 * D * D * LAYERS) as f64;
    println!("650M shapes, {rows} tokens, {LAYERS} layers, {threads} threads, medians of {ROUNDS}");
    println!(
        "products alone: {only:.3} s, {:.0} GFLOP/s",
        flop / only / 1e9
    );
    println!(
        "whole layers:   {whole:.3} s, {:.0} tokens/s at 33 layers",
        rows as f64 / whole * LAYERS as f64 / 33.0
    );
    println!("share of the products: {:.1} %", 100.0 * only / whole);
}
