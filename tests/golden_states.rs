//! Faithfulness: every model against float64 references of Hugging Face, fair-esm and DNABERT.
//!
//! `tests/golden/models/README.md` has the layout. The bar, for each sequence and for its token
//! states and its means alike: norm(out - ref) / norm(ref) no larger than 1.5 times what Hugging
//! Face's own f32 run is off by, and never above 1e-5. `cargo test --test golden_states --
//! --nocapture` prints the table.

#![allow(clippy::expect_used)] // the helpers of tests are tests

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use safetensors::{SafeTensors, tensor::TensorView};
use seqstream::backend::cpu::Cpu;
use seqstream::batch::PackedBatch;
use seqstream::model::config::{ModelConfig, ModelKind};
use seqstream::model::{Embedder, Model, Pool, Request};
use seqstream::sequence::Tokenizer;
use seqstream::weights::random::{RandomSpec, write_random};
use seqstream::weights::{Checkpoint, DType};
use serde::Deserialize;

/// No worse than 1.5 times the peer's own rounding, and small in itself.
const PEER_FACTOR: f64 = 1.5;
const CEILING: f64 = 1e-5;

#[derive(Deserialize)]
struct Golden {
    format: String,
    model: Sizes,
    weights_blake3: String,
    layers: Vec<usize>,
    sequences: Vec<Sequence>,
}

#[derive(Deserialize)]
struct Sizes {
    kind: String,
    layers: usize,
    hidden: usize,
    heads: usize,
    intermediate: usize,
    seed: u64,
}

#[derive(Deserialize)]
struct Sequence {
    name: String,
    text: String,
}

/// What a golden file holds of one sequence.
struct Reference {
    name: String,
    text: String,
    ids: Vec<u32>,
    rows: Vec<u32>,
    states: Vec<f64>,
    means: Vec<f64>,
    /// Of `states`, then of each mean.
    peer_error: Vec<f64>,
}

/// The committed files, or those of other seeds in `$SEQSTREAM_GOLDEN`.
fn golden_folder() -> PathBuf {
    match std::env::var_os("SEQSTREAM_GOLDEN") {
        Some(folder) => folder.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/models"),
    }
}

fn golden_files() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(golden_folder()).expect("the golden files are committed");
    let paths = entries.map(|e| e.expect("a readable folder").path());
    let mut found: Vec<_> = paths
        .filter(|p| p.extension().is_some_and(|e| e == "safetensors"))
        .collect();
    found.sort();
    found
}

fn u32s(t: &TensorView) -> Vec<u32> {
    t.data()
        .chunks_exact(4)
        .map(|b| u32::from_le_bytes(b.try_into().expect("4 bytes")))
        .collect()
}

fn f64s(t: &TensorView) -> Vec<f64> {
    t.data()
        .chunks_exact(8)
        .map(|b| f64::from_le_bytes(b.try_into().expect("8 bytes")))
        .collect()
}

fn read(path: &Path) -> (Golden, Vec<Reference>) {
    let bytes = std::fs::read(path).expect("golden file");
    let (_, header) = SafeTensors::read_metadata(&bytes).expect("safetensors");
    let metadata: &HashMap<String, String> = header.metadata().as_ref().expect("metadata");
    let golden: Golden = serde_json::from_str(&metadata["golden"]).expect("golden metadata");
    assert_eq!(golden.format, "seqstream-golden-1");
    let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
    let references = golden.sequences.iter().enumerate().map(|(i, s)| {
        let t = |name: &str| tensors.tensor(&format!("{i}.{name}")).expect("tensor");
        Reference {
            name: s.name.clone(),
            text: s.text.clone(),
            ids: u32s(&t("ids")),
            rows: u32s(&t("rows")),
            states: f64s(&t("states")),
            means: f64s(&t("means")),
            peer_error: f64s(&t("float32_error")),
        }
    });
    let references = references.collect();
    (golden, references)
}

fn load(golden: &Golden, threads: usize) -> Model<Cpu> {
    let m = &golden.model;
    let (kind, vocab, layer_norm_eps) = match m.kind.as_str() {
        "esm2" => (ModelKind::Esm2, 33, 1e-5),
        _ => (ModelKind::Dnabert, 4096, 1e-12),
    };
    let config = ModelConfig {
        kind,
        layers: m.layers,
        hidden: m.hidden,
        heads: m.heads,
        intermediate: m.intermediate,
        vocab,
        layer_norm_eps,
        token_dropout: kind == ModelKind::Esm2,
        mask_token: 32,
    };
    let dir = tempfile::tempdir().expect("temporary folder");
    write_random(&RandomSpec::from(config), m.seed, DType::F32, dir.path()).expect("random model");
    let weights = std::fs::read(dir.path().join("model.safetensors")).expect("weights");
    assert_eq!(
        blake3::hash(&weights).to_hex().as_str(),
        golden.weights_blake3,
        "the random model is no longer the one the references were computed with"
    );
    let checkpoint = Checkpoint::open(dir.path()).expect("checkpoint");
    let cpu = Cpu::new(threads).expect("threads");
    Model::load(cpu, checkpoint.config(), &checkpoint).expect("model")
}

/// norm(out - reference) / norm(reference); NaN stays NaN, and fails every comparison.
fn error(out: impl Iterator<Item = f32>, reference: &[f64]) -> f64 {
    let (mut difference, mut norm, mut count) = (0.0, 0.0, 0);
    for (o, r) in out.zip(reference) {
        difference += (o as f64 - r).powi(2);
        norm += r * r;
        count += 1;
    }
    assert_eq!(count, reference.len());
    (difference / norm).sqrt()
}

fn check(path: &Path) {
    let (golden, references) = read(path);
    let d = golden.model.hidden;
    let mut model = load(&golden, 2);
    let esm = Tokenizer::esm2();
    let mut batch = PackedBatch::new();
    for r in &references {
        if golden.model.kind == "esm2" {
            let mut ids = Vec::new();
            esm.encode(r.text.as_bytes(), &mut ids);
            assert_eq!(ids, r.ids, "token ids of {}", r.name);
        }
        batch.push(&r.ids);
    }
    let request = Request {
        layers: golden.layers.clone(),
        pool: Some(Pool::Mean),
        per_token: true,
    };
    let outputs = model.embed(&batch, &request).expect("embeddings");
    let last = outputs.last().expect("at least one layer");
    assert_eq!(last.layer, golden.model.layers);
    let mut failures = Vec::new();
    for (i, r) in references.iter().enumerate() {
        let first = batch.range(i).start;
        let rows = r.rows.iter().map(|row| (first + *row as usize) * d);
        let states = rows.flat_map(|at| last.states[at..at + d].iter().copied());
        let mut errors = vec![("states".to_string(), error(states, &r.states))];
        for (n, o) in outputs.iter().enumerate() {
            let mean = o.pooled[i * d..(i + 1) * d].iter().copied();
            let name = format!("mean of layer {}", o.layer);
            errors.push((name, error(mean, &r.means[n * d..(n + 1) * d])));
        }
        for ((what, ours), peer) in errors.iter().zip(&r.peer_error) {
            let at = format!(
                "{} {}: {what}",
                path.file_stem().unwrap_or_default().display(),
                r.name
            );
            println!(
                "{at}: {ours:.2e}, peer {peer:.2e}, ratio {:.2}",
                ours / peer
            );
            let bar = (PEER_FACTOR * peer).min(CEILING);
            if ours.is_nan() || *ours > bar {
                failures.push(format!("{at} is off by {ours:e}, the bar is {bar:e}"));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// One test a golden file, so that each is named when it fails.
macro_rules! golden {
    ($($name:ident: $file:literal,)*) => {
        $(#[test] fn $name() {
            check(&golden_folder().join($file));
        })*

        #[test]
        fn every_golden_file_has_its_test() {
            let mut tested = vec![$($file),*];
            tested.sort();
            let found: Vec<_> = golden_files();
            let found: Vec<_> = found.iter().filter_map(|p| p.file_name()?.to_str()).collect();
            assert_eq!(found, tested);
        }
    };
}

golden! {
    esm2_head_dim_16: "esm2-head16.safetensors",
    esm2_head_dim_24: "esm2-head24.safetensors",
    esm2_head_dim_32: "esm2-head32.safetensors",
    esm2_head_dim_64: "esm2-head64.safetensors",
    esm2_head_dim_64_odd_heads: "esm2-head64-odd.safetensors",
    esm2_head_dim_128: "esm2-head128.safetensors",
    dnabert_12_heads: "dnabert-heads12.safetensors",
    dnabert_8_heads: "dnabert-heads8.safetensors",
    dnabert_6_heads: "dnabert-heads6.safetensors",
}
