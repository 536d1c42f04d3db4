//! Weights are used in the mapped file itself: a job's own memory holds activations, and holds
//! weights only if their dtype is not the dtype of the computation.
//!
//! There is one test, which runs in a process of its own: it reads the process's anonymous memory
//! (pages without a file behind them) before and after.

#![cfg(target_os = "linux")]

use seqstream::architecture::ModelConfig;
use seqstream::backend::cpu::Cpu;
use seqstream::batch::PackedBatch;
use seqstream::dtype::DType;
use seqstream::model::{Embedder, Model, Pool, Request};
use seqstream::weights::Checkpoint;
use seqstream::weights::random::write_random;

/// Returns the bytes of the process's memory that no file backs.
fn anonymous() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("RssAnon:")).unwrap();
    let kilobytes: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kilobytes * 1024
}

/// Returns the bytes of the weights as f32, and the growth of anonymous memory from before the file
/// is opened until after a batch was computed with all weights.
fn growth(dtype: DType) -> (u64, u64) {
    let dir = tempfile::tempdir().unwrap();
    write_random(&ModelConfig::esm2(4, 512, 8).into(), 3, dtype, dir.path()).unwrap();
    let before = anonymous();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let width = if dtype == DType::F32 { 1 } else { 2 };
    let weights = checkpoint.total_bytes() * width;
    let cpu = Cpu::new(1).unwrap();
    let mut model = Model::load(cpu, checkpoint.config(), &checkpoint).unwrap();
    let mut batch = PackedBatch::new();
    batch.push(&[0, 5, 6, 7, 8, 9, 2]);
    let request = Request {
        layers: vec![4],
        pools: vec![Pool::Mean],
        per_token: false,
    };
    let outputs = model.embed(&batch, &request).unwrap();
    assert!(outputs[0].pooled.iter().all(|x| x.is_finite()));
    let grown = anonymous().saturating_sub(before);
    drop(model);
    (weights, grown)
}

#[test]
fn f32_weights_stay_in_the_mapping_and_others_are_held_once() {
    const ALONE: &str = "SEQSTREAM_TEST_MEMORY";
    let this = "memory::f32_weights_stay_in_the_mapping_and_others_are_held_once";
    if std::env::var_os(ALONE).is_none() {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", this])
            .env(ALONE, "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("1 passed"), "{said}");
        return;
    }
    // Activations, packed blocks of the products and the stacks of the pool: a third of the
    // weights.
    const SLACK: u64 = 16 << 20;
    let (weights, grown) = growth(DType::F32);
    assert!(weights > 48 << 20, "{weights}");
    assert!(
        grown < SLACK,
        "{weights} bytes of f32 weights, and {grown} bytes of memory for them"
    );
    for dtype in [DType::F16, DType::Bf16] {
        let (weights, grown) = growth(dtype);
        assert!(
            grown < weights + SLACK,
            "{dtype:?}: {weights} bytes as f32, and {grown} bytes of memory for them"
        );
    }
}
