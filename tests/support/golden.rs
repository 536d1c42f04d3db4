//! The golden files: results of independent float64 references, and the models that they used.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use safetensors::{SafeTensors, tensor::TensorView};
use seqstream::architecture::{ModelConfig, ModelKind};
use seqstream::batch::PackedBatch;
use seqstream::dtype::DType;
use seqstream::model::{Embedder, Pool, Request};
use seqstream::weights::Checkpoint;
use seqstream::weights::random::{RandomSpec, write_random};
use serde::Deserialize;

#[derive(Deserialize)]
pub struct Golden {
    pub format: String,
    pub model: Sizes,
    pub weights_blake3: String,
    pub layers: Vec<usize>,
    pub sequences: Vec<Sequence>,
}

#[derive(Deserialize)]
pub struct Sizes {
    pub kind: String,
    pub layers: usize,
    pub hidden: usize,
    pub heads: usize,
    pub intermediate: usize,
    pub seed: u64,
}

#[derive(Deserialize)]
pub struct Sequence {
    pub name: String,
    pub text: String,
}

/// The data of one sequence in a golden file.
pub struct Reference {
    pub name: String,
    #[allow(dead_code)] // used by `models` only
    pub text: String,
    pub ids: Vec<u32>,
    pub rows: Vec<u32>,
    pub states: Vec<f64>,
    pub means: Vec<f64>,
    /// The peer's errors: of `states`, then of each mean.
    pub peer_error: Vec<f64>,
}

/// Returns the folder of the committed files, or of files with other seeds in `$SEQSTREAM_GOLDEN`.
pub fn golden_folder() -> PathBuf {
    match std::env::var_os("SEQSTREAM_GOLDEN") {
        Some(folder) => folder.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/models"),
    }
}

pub fn golden_files() -> Vec<PathBuf> {
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

pub fn read(path: &Path) -> (Golden, Vec<Reference>) {
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

/// Returns the model with which the references were computed.
pub fn checkpoint(golden: &Golden) -> Checkpoint {
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
    // The checkpoint keeps its files mapped, so the folder may be removed.
    Checkpoint::open(dir.path()).expect("checkpoint")
}

/// Returns the golden file's sequences as one batch.
pub fn batch(references: &[Reference]) -> PackedBatch {
    let mut batch = PackedBatch::new();
    references.iter().for_each(|r| batch.push(&r.ids));
    batch
}

/// Returns the relative errors of a model, by sequence: of its states, then of the mean of each
/// layer.
pub fn errors(
    model: &mut dyn Embedder,
    golden: &Golden,
    references: &[Reference],
) -> Vec<Vec<(String, f64)>> {
    let d = golden.model.hidden;
    let batch = batch(references);
    let request = Request {
        layers: golden.layers.clone(),
        pools: vec![Pool::Mean],
        per_token: true,
    };
    let outputs = model.embed(&batch, &request).expect("embeddings");
    let last = outputs.last().expect("at least one layer");
    assert_eq!(last.layer, golden.model.layers);
    let one = |(i, r): (usize, &Reference)| {
        let first = batch.range(i).start;
        let rows = r.rows.iter().map(|row| (first + *row as usize) * d);
        let states = rows.flat_map(|at| last.states.f32s()[at..at + d].iter().copied());
        let mut errors = vec![("states".to_string(), error(states, &r.states))];
        for (n, o) in outputs.iter().enumerate() {
            let mean = o.pooled[i * d..(i + 1) * d].iter().copied();
            let name = format!("mean of layer {}", o.layer);
            errors.push((name, error(mean, &r.means[n * d..(n + 1) * d])));
        }
        errors
    };
    references.iter().enumerate().map(one).collect()
}

/// Returns norm(out - reference) / norm(reference); NaN stays NaN, and fails every comparison.
pub fn error(out: impl Iterator<Item = f32>, reference: &[f64]) -> f64 {
    let (mut difference, mut norm, mut count) = (0.0, 0.0, 0);
    for (o, r) in out.zip(reference) {
        difference += (o as f64 - r).powi(2);
        norm += r * r;
        count += 1;
    }
    assert_eq!(count, reference.len());
    (difference / norm).sqrt()
}
