//! Random models are reproducible, independent of the sharding, and have sensible values.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use seqstream::architecture::ModelConfig;
use seqstream::dtype::DType;
use seqstream::weights::random::{RandomSpec, write_random};

fn small() -> ModelConfig {
    ModelConfig::esm2(2, 64, 4)
}

fn tensors(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "safetensors") {
            let bytes = fs::read(&path).unwrap();
            let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            for (name, view) in file.tensors() {
                assert!(all.insert(name, view.data().to_vec()).is_none());
            }
        }
    }
    all
}

fn write(spec: impl Into<RandomSpec>, seed: u64, dtype: DType) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_random(&spec.into(), seed, dtype, dir.path()).unwrap();
    dir
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let mut out = Vec::new();
    DType::F32.decode(bytes, &mut out);
    out
}

#[test]
fn a_seed_decides_every_bit() {
    let (a, b, c) = (
        write(small(), 7, DType::F32),
        write(small(), 7, DType::F32),
        write(small(), 8, DType::F32),
    );
    assert_eq!(
        fs::read(a.path().join("model.safetensors")).unwrap(),
        fs::read(b.path().join("model.safetensors")).unwrap()
    );
    assert_ne!(tensors(a.path()), tensors(c.path()));
}

#[test]
fn the_algorithm_stays_as_documented() {
    let dir = write(small(), 1, DType::F32);
    let all = tensors(dir.path());
    let query = floats(&all["esm.encoder.layer.0.attention.self.query.weight"]);
    // These values come from an independent implementation of the algorithm, in Python.
    assert_eq!(query[..3], [0.0315331, 0.11231334, -0.107747726]);
    assert_eq!(query[64 * 64 - 1], 0.1502918);
}

#[test]
fn sharding_changes_no_tensor() {
    let one = write(small(), 3, DType::F16);
    let many = write(
        RandomSpec {
            config: small(),
            max_shard_bytes: Some(40_000),
        },
        3,
        DType::F16,
    );
    assert_eq!(tensors(one.path()), tensors(many.path()));
    let index: serde_json::Value = serde_json::from_slice(
        &fs::read(many.path().join("model.safetensors.index.json")).unwrap(),
    )
    .unwrap();
    let map = index["weight_map"].as_object().unwrap();
    assert_eq!(map.len(), tensors(one.path()).len());
    let files: std::collections::BTreeSet<&str> =
        map.values().map(|v| v.as_str().unwrap()).collect();
    assert!(files.len() > 2);
    for file in files {
        assert!(
            fs::metadata(many.path().join(file)).unwrap().len() < 45_000,
            "{file} is over the limit"
        );
    }
}

#[test]
fn half_precision_is_the_rounding_of_single() {
    let (single, half) = (
        write(small(), 3, DType::F32),
        write(small(), 3, DType::Bf16),
    );
    let (single, half) = (tensors(single.path()), tensors(half.path()));
    for (name, bytes) in &single {
        if name.ends_with("inv_freq") {
            assert_eq!(bytes, &half[name], "rotary frequencies stay in f32");
            continue;
        }
        let mut expected = Vec::new();
        DType::Bf16.encode(&floats(bytes), &mut expected);
        assert_eq!(expected, half[name], "{name}");
    }
}

#[test]
fn values_are_nontrivial_and_sane() {
    let dir = write(ModelConfig::dnabert(1, 256, 4), 5, DType::F32);
    let all = tensors(dir.path());
    let spread = |v: &[f32]| {
        let mean = v.iter().sum::<f32>() / v.len() as f32;
        (
            mean,
            (v.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / v.len() as f32).sqrt(),
        )
    };
    let (mean, deviation) = spread(&floats(&all["encoder.layer.0.attention.self.Wqkv.weight"]));
    assert!(
        mean.abs() < 1e-3 && (deviation * 16.0 - 1.0).abs() < 0.01,
        "{mean} {deviation}"
    );
    let gains = floats(&all["encoder.layer.0.mlp.layernorm.weight"]);
    let outliers = gains.iter().filter(|g| **g > 2.0).count();
    assert!(
        (2..=3).contains(&outliers),
        "256 channels have {outliers} outliers"
    );
    assert!(gains.iter().all(|g| (0.5..6.0).contains(g)));
    let (_, deviation) = spread(&floats(&all["encoder.layer.0.mlp.wo.bias"]));
    assert!((0.08..0.12).contains(&deviation), "{deviation}");
}

#[test]
fn rotary_frequencies_have_passed_through_f16() {
    let dir = write(small(), 3, DType::F32);
    let freq = floats(
        &tensors(dir.path())["esm.encoder.layer.1.attention.self.rotary_embeddings.inv_freq"],
    );
    assert_eq!(freq.len(), 8);
    assert_eq!(freq[0], 1.0);
    assert!(freq.iter().all(|f| half::f16::from_f32(*f).to_f32() == *f));
    assert!((freq[7] - 10000f32.powf(-14.0 / 16.0)).abs() < 1e-6);
}

#[test]
fn impossible_models_and_confusing_folders_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let error = write_random(
        &ModelConfig::esm2(2, 64, 5).into(),
        1,
        DType::F32,
        dir.path(),
    )
    .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("no multiple of the 5 attention heads"),
        "{error}"
    );
    write_random(&small().into(), 1, DType::F32, dir.path()).unwrap();
    let sharded = RandomSpec {
        config: small(),
        max_shard_bytes: Some(40_000),
    };
    let error = write_random(&sharded, 1, DType::F32, dir.path()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("already holds model.safetensors"),
        "{error}"
    );
}

#[test]
fn the_made_up_tokenizer_fills_the_vocabulary() {
    let dir = write(ModelConfig::dnabert(1, 16, 2), 1, DType::F32);
    let file: serde_json::Value =
        serde_json::from_slice(&fs::read(dir.path().join("tokenizer.json")).unwrap()).unwrap();
    let vocab = file["model"]["vocab"].as_object().unwrap();
    assert_eq!(vocab.len(), 4096);
    for merge in file["model"]["merges"].as_array().unwrap() {
        let (left, right) = merge.as_str().unwrap().split_once(' ').unwrap();
        assert!(
            vocab.contains_key(left) && vocab.contains_key(right),
            "{merge}"
        );
        assert!(vocab.contains_key(&format!("{left}{right}")));
    }
}
