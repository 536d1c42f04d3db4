//! Errors in a model's files are reported by name, with a remedy, and never cause a panic.

use std::fs;
use std::path::{Path, PathBuf};

use seqstream::architecture::ModelConfig;
use seqstream::architecture::config_json;
use seqstream::architecture::layout;
use seqstream::dtype::DType;
use seqstream::weights::random::write_random;
use seqstream::weights::write::{Planned, SafetensorsWriter};
use seqstream::weights::{Checkpoint, WeightsError, read_index};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden/torch")
        .join(name)
}

/// Asserts that opening fails with a message that contains all of `parts`, and with a remedy.
#[track_caller]
fn refused(path: &Path, parts: &[&str]) -> WeightsError {
    let error = Checkpoint::open(path).unwrap_err();
    let message = error.to_string();
    for part in parts {
        assert!(message.contains(part), "no {part:?} in: {message}");
    }
    assert!(
        error.remedy().is_some_and(|r| !r.to_string().is_empty()),
        "no remedy for: {message}"
    );
    error
}

fn config() -> ModelConfig {
    ModelConfig::esm2(2, 16, 4)
}

/// Makes a folder with `config` and zeros of the shapes in `tensors`.
fn folder(config: &ModelConfig, tensors: &[(String, Vec<usize>)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(
        dir.path().join("config.json"),
        config_json::write(config, DType::F32),
    )
    .unwrap();
    let plan: Vec<Planned> = tensors
        .iter()
        .map(|(name, shape)| Planned {
            name: name.clone(),
            dtype: DType::F32,
            shape: shape.clone(),
        })
        .collect();
    let mut writer =
        SafetensorsWriter::create(&dir.path().join("model.safetensors"), &plan).unwrap();
    for t in &plan {
        writer.write(&vec![0; t.bytes() as usize]).unwrap();
    }
    writer.finish().unwrap();
    dir
}

fn tensors(config: &ModelConfig) -> Vec<(String, Vec<usize>)> {
    layout::expected(config)
        .into_iter()
        .map(|e| (e.name, e.shape))
        .collect()
}

#[test]
fn a_missing_tensor() {
    let mut list = tensors(&config());
    list.retain(|(name, _)| name != "encoder.layer.1.output.dense.bias");
    let dir = folder(&config(), &list);
    let error = refused(
        dir.path(),
        &["encoder.layer.1.output.dense.bias", "missing", "[16]"],
    );
    assert!(matches!(error, WeightsError::Missing { more: 0, .. }));
}

#[test]
fn an_extra_tensor() {
    let mut list = tensors(&config());
    list.push(("esm.encoder.layer.2.output.dense.bias".into(), vec![16]));
    list.push(("lm_head.bias".into(), vec![33]));
    let dir = folder(&config(), &list);
    refused(
        dir.path(),
        &[
            "model.safetensors",
            "esm.encoder.layer.2.output.dense.bias",
            "[16]",
            "2 layers",
        ],
    );
}

#[test]
fn a_tensor_of_another_shape() {
    let mut list = tensors(&config());
    for (name, shape) in &mut list {
        if name.ends_with("query.weight") {
            *shape = vec![16, 17];
        }
    }
    let dir = folder(&config(), &list);
    refused(
        dir.path(),
        &[
            "model.safetensors",
            "encoder.layer.0.attention.self.query.weight",
            "[16, 17]",
            "[16, 16]",
            "1 more",
        ],
    );
}

#[test]
fn a_config_of_another_model() {
    let dir = folder(&config(), &tensors(&config()));
    let write = |config: &ModelConfig| {
        fs::write(
            dir.path().join("config.json"),
            config_json::write(config, DType::F32),
        )
        .unwrap();
    };
    write(&ModelConfig::esm2(2, 24, 4));
    refused(
        dir.path(),
        &["embeddings.word_embeddings.weight", "[33, 16]", "[33, 24]"],
    );
    write(&ModelConfig::esm2(3, 16, 4));
    refused(dir.path(), &["encoder.layer.2.", "missing"]);
    write(&ModelConfig::esm2(1, 16, 4));
    refused(dir.path(), &["encoder.layer.1.", "no place"]);
    write(&ModelConfig::esm2(2, 16, 2));
    refused(dir.path(), &["inv_freq", "[2]", "[4]"]);
    write(&ModelConfig::esm2(2, 16, 5));
    refused(dir.path(), &["config.json", "no multiple of the 5"]);
    write(&ModelConfig::esm2(1 << 19, 16, 4));
    refused(dir.path(), &["config.json", "layers is 524288"]);
    write(&ModelConfig::dnabert(2, 16, 4));
    refused(dir.path(), &["config.json", "plain BERT"]);
    fs::remove_file(dir.path().join("config.json")).unwrap();
    assert!(
        Checkpoint::open(dir.path()).is_ok(),
        "an ESM-2 shows in its tensors"
    );
}

#[test]
fn a_dnabert_without_config() {
    let dir = tempfile::tempdir().unwrap();
    write_random(
        &ModelConfig::dnabert(1, 16, 2).into(),
        1,
        DType::F32,
        dir.path(),
    )
    .unwrap();
    fs::remove_file(dir.path().join("config.json")).unwrap();
    refused(dir.path(), &["attention heads shows in no tensor"]);
}

#[test]
fn a_tensor_in_two_shards() {
    let dir = folder(&config(), &tensors(&config()));
    fs::copy(
        dir.path().join("model.safetensors"),
        dir.path().join("b.safetensors"),
    )
    .unwrap();
    fs::rename(
        dir.path().join("model.safetensors"),
        dir.path().join("a.safetensors"),
    )
    .unwrap();
    refused(
        dir.path(),
        &[
            "several .safetensors files",
            "a.safetensors",
            "b.safetensors",
        ],
    );
    let index = r#"{"weight_map": {"encoder.emb_layer_norm_after.bias": "a.safetensors",
                                   "encoder.emb_layer_norm_after.weight": "b.safetensors"}}"#;
    fs::write(dir.path().join("model.safetensors.index.json"), index).unwrap();
    refused(
        dir.path(),
        &["stands twice", "a.safetensors", "b.safetensors"],
    );
}

#[test]
fn a_wrong_index() {
    let dir = folder(&config(), &tensors(&config()));
    fs::rename(
        dir.path().join("model.safetensors"),
        dir.path().join("a.safetensors"),
    )
    .unwrap();
    let index =
        |text: &str| fs::write(dir.path().join("model.safetensors.index.json"), text).unwrap();
    index(r#"{"weight_map": {"pear": "a.safetensors"}}"#);
    refused(dir.path(), &["a.safetensors", "tensor pear is missing"]);
    index(r#"{"weight_map": {"x": "gone.safetensors"}}"#);
    refused(dir.path(), &["gone.safetensors"]);
    for name in [
        "../a.safetensors",
        "/etc/passwd",
        "sub/a.safetensors",
        "",
        ".",
    ] {
        index(&format!(r#"{{"weight_map": {{"x": "{name}"}}}}"#));
        refused(dir.path(), &["index.json", "plain file name"]);
    }
    index(r#"{"weight_map": {}}"#);
    refused(dir.path(), &["lists no tensors"]);
    index("{");
    refused(dir.path(), &["no index"]);
}

#[test]
fn paths_without_weights() {
    let dir = tempfile::tempdir().unwrap();
    refused(dir.path(), &["the folder is empty"]);
    fs::write(dir.path().join("notes.txt"), "x").unwrap();
    refused(dir.path(), &["no weights among them"]);
    refused(&dir.path().join("nowhere"), &["nowhere"]);
    let file = dir.path().join("model.safetensors");
    fs::write(
        &file,
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    )
    .unwrap();
    let error = refused(dir.path(), &["Git LFS pointer"]);
    assert!(error.remedy().unwrap().to_string().contains("git lfs pull"));
    fs::write(&file, "<!DOCTYPE html><html></html>").unwrap();
    refused(dir.path(), &["web page"]);
    fs::write(&file, "").unwrap();
    refused(dir.path(), &["model.safetensors", "0 bytes"]);
}

#[test]
fn torch_files_that_cannot_be_mapped() {
    refused(&golden("transposed.bin"), &["neither an ESM-2's"]);
    let place = |name: &str| {
        let bytes = fs::read(golden(name)).unwrap();
        read_index(&bytes).unwrap().tensors[0].place.clone()
    };
    assert!(place("one.bin").is_ok());
    assert!(
        place("transposed.bin")
            .unwrap_err()
            .contains("strides [1, 3]")
    );
    refused(&golden("legacy.bin"), &["legacy.bin", "before 1.6"]);
    refused(&golden("deflated.bin"), &["compressed"]);
    refused(&golden("big_endian.bin"), &["byte order is big"]);
}

#[test]
fn pickles_that_ask_for_code() {
    refused(&golden("malicious.bin"), &["malicious.bin", "posix.system"]);
    refused(
        &golden("module.bin"),
        &["module.bin", "torch.nn.modules.linear.Linear"],
    );
    assert!(!Path::new("executed-by-pickle").exists());
}

#[test]
fn truncated_files() {
    let dir = tempfile::tempdir().unwrap();
    write_random(
        &ModelConfig::esm2(1, 8, 2).into(),
        1,
        DType::F32,
        dir.path(),
    )
    .unwrap();
    let bytes = fs::read(dir.path().join("model.safetensors")).unwrap();
    let torch = fs::read(golden("fair_esm.pt")).unwrap();
    for bytes in [bytes, torch] {
        assert!(read_index(&bytes).is_ok());
        for length in (0..bytes.len()).step_by(97).chain([bytes.len() - 1]) {
            assert!(
                read_index(&bytes[..length]).is_err(),
                "{length} of {}",
                bytes.len()
            );
        }
    }
}

#[test]
fn flipped_bits_never_panic() {
    let original = fs::read(golden("one.bin")).unwrap();
    for at in 0..original.len() {
        for flip in [0x01u8, 0x80, 0xff] {
            let mut bytes = original.clone();
            bytes[at] ^= flip;
            if let Ok(file) = read_index(&bytes) {
                for t in file.tensors {
                    assert!(
                        t.place.is_err() || t.place.is_ok_and(|range| range.end <= bytes.len())
                    );
                }
            }
        }
    }
}

#[test]
fn a_needed_tensor_in_another_format() {
    let dir = folder(&config(), &tensors(&config()));
    let path = dir.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header = String::from_utf8(bytes[8..8 + length].to_vec()).unwrap();
    // The first tensor of the header is the embedding.
    let header = header.replacen(r#""dtype":"F32""#, r#""dtype":"I32""#, 1);
    fs::write(
        &path,
        [&bytes[..8], header.as_bytes(), &bytes[8 + length..]].concat(),
    )
    .unwrap();
    refused(
        &path,
        &[
            "embeddings.word_embeddings.weight",
            "i32",
            "only f32, f16 and bf16",
        ],
    );
}
