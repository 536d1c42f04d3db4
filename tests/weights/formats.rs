//! The same model gives the same tensors in every supported format.

use std::fs;
use std::path::{Path, PathBuf};

use seqstream::architecture::ModelConfig;
use seqstream::architecture::config_json;
use seqstream::architecture::layout;
use seqstream::dtype::DType;
use seqstream::weights::random::{RandomSpec, write_random};
use seqstream::weights::{Checkpoint, F32Data};

/// Returns the configuration of the model in tests/golden/torch, of which
/// weights-tools/reference/make_torch_files.py writes one or two layers.
fn golden_config(layers: usize) -> ModelConfig {
    let mut config = ModelConfig::esm2(layers, 4, 2);
    config.intermediate = 6;
    config
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden/torch")
        .join(name)
}

fn random(spec: impl Into<RandomSpec>, seed: u64, dtype: DType) -> (tempfile::TempDir, Checkpoint) {
    let dir = tempfile::tempdir().unwrap();
    write_random(&spec.into(), seed, dtype, dir.path()).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    (dir, checkpoint)
}

/// Asserts that every tensor of the architecture, rounded through `dtype`, is the same in both.
fn assert_same(a: &Checkpoint, b: &Checkpoint, dtype: DType) {
    assert_eq!(a.config(), b.config());
    let expected = layout::expected(a.config());
    assert!(expected.len() > 10);
    for e in &expected {
        let (a, b) = (a.tensor(&e.name).unwrap(), b.tensor(&e.name).unwrap());
        assert_eq!(a.shape(), b.shape());
        assert_eq!(a.name(), e.name);
        let (mut x, mut y) = (Vec::new(), Vec::new());
        dtype.encode(&a.to_f32(), &mut x);
        dtype.encode(&b.to_f32(), &mut y);
        assert_eq!(x, y, "{}", e.name);
        assert_eq!(x.len(), e.shape.iter().product::<usize>() * dtype.size());
    }
}

#[test]
fn a_torch_archive_with_prefix_shared_storage_and_offsets() {
    let (_dir, reference) = random(golden_config(1), 1, DType::F32);
    let folder = tempfile::tempdir().unwrap();
    fs::copy(
        golden("hugging_face.bin"),
        folder.path().join("pytorch_model.bin"),
    )
    .unwrap();
    fs::write(
        folder.path().join("config.json"),
        config_json::write(&golden_config(1), DType::F32),
    )
    .unwrap();
    let torch = Checkpoint::open(folder.path()).unwrap();
    assert_same(&reference, &torch, DType::F32);
    assert_eq!(torch.warnings(), &[] as &[String]);
    // This tensor is tied to the embedding, and not used.
    let tied = torch.tensor("lm_head.decoder.weight").unwrap();
    assert_eq!(
        tied.bytes().as_ptr(),
        torch
            .tensor("embeddings.word_embeddings.weight")
            .unwrap()
            .bytes()
            .as_ptr()
    );
    let ids = torch
        .tensors()
        .into_iter()
        .find(|t| t.name == "embeddings.position_ids")
        .unwrap();
    assert_eq!((ids.dtype.as_str(), ids.used), ("i64", false));
    assert!(
        torch
            .tensor("embeddings.position_ids")
            .unwrap_err()
            .to_string()
            .contains("i64")
    );
}

#[test]
fn a_sharded_torch_checkpoint_in_bf16() {
    let (_dir, reference) = random(golden_config(1), 1, DType::F32);
    let folder = tempfile::tempdir().unwrap();
    let mut map = serde_json::Map::new();
    for shard in [
        "pytorch_model-00001-of-00002.bin",
        "pytorch_model-00002-of-00002.bin",
    ] {
        fs::copy(golden(shard), folder.path().join(shard)).unwrap();
        let bytes = fs::read(golden(shard)).unwrap();
        for t in seqstream::weights::read_torch_index(&bytes)
            .unwrap()
            .tensors
        {
            map.insert(t.name, shard.into());
        }
    }
    let index = serde_json::json!({"metadata": {}, "weight_map": map}).to_string();
    fs::write(folder.path().join("pytorch_model.bin.index.json"), index).unwrap();
    // Without config.json, names and shapes determine everything except epsilon and token dropout,
    // for which ESM-2's values are used.
    let torch = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(torch.files().count(), 2);
    assert_same(&reference, &torch, DType::Bf16);
    assert!(
        torch.warnings()[0].contains("bf16"),
        "{:?}",
        torch.warnings()
    );
}

#[test]
fn a_fair_esm_file() {
    let (_dir, reference) = random(golden_config(2), 1, DType::F32);
    let torch = Checkpoint::open(&golden("fair_esm.pt")).unwrap();
    assert_same(&reference, &torch, DType::F16);
    assert_eq!(
        torch
            .tensor("encoder.layer.1.LayerNorm.bias")
            .unwrap()
            .dtype(),
        DType::F16
    );
    assert!(torch.config().token_dropout);
    assert_eq!(torch.config().layer_norm_eps, 1e-5);
}

#[test]
fn zip64_archives_are_read() {
    for name in ["one.bin", "zip64.bin"] {
        let bytes = fs::read(golden(name)).unwrap();
        let file = seqstream::weights::read_torch_index(&bytes).unwrap();
        let range = file.tensors[0].place.clone().unwrap();
        let mut values = Vec::new();
        DType::F32.decode(&bytes[range], &mut values);
        assert_eq!(values, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0], "{name}");
        assert_eq!(file.tensors[0].shape, [2, 3]);
    }
}

#[test]
fn one_file_shards_and_index_are_one_model() {
    let config = ModelConfig::dnabert(2, 32, 4);
    let (one_dir, one) = random(config.clone(), 9, DType::F16);
    let (many_dir, many) = random(
        RandomSpec {
            config,
            max_shard_bytes: Some(50_000),
        },
        9,
        DType::F16,
    );
    assert!(many.files().count() > 2);
    assert_same(&one, &many, DType::F32);
    let by_file = Checkpoint::open(&one_dir.path().join("model.safetensors")).unwrap();
    let by_index = Checkpoint::open(&many_dir.path().join("model.safetensors.index.json")).unwrap();
    assert_same(&by_file, &by_index, DType::F32);
    assert_eq!(
        one.hash().unwrap(),
        by_file.hash().unwrap(),
        "a folder and its one file hash alike"
    );
    assert_ne!(one.hash().unwrap(), many.hash().unwrap());
    assert_eq!(
        one.tokenizer_path(),
        Some(one_dir.path().join("tokenizer.json"))
    );
}

#[test]
fn names_with_and_without_prefix_are_read() {
    let (dir, prefixed) = random(ModelConfig::esm2(1, 16, 2), 4, DType::F32);
    assert!(
        prefixed
            .tensors()
            .iter()
            .all(|t| t.stored_name.starts_with("esm."))
    );
    // The same file with the prefix cut out of its header, which is padded to the same length.
    let path = dir.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header = String::from_utf8(bytes[8..8 + length].to_vec())
        .unwrap()
        .replace("\"esm.", "\"");
    let other = tempfile::tempdir().unwrap();
    let bare = [
        &bytes[..8],
        format!("{header:<length$}").as_bytes(),
        &bytes[8 + length..],
    ]
    .concat();
    fs::write(other.path().join("model.safetensors"), bare).unwrap();
    fs::copy(
        dir.path().join("config.json"),
        other.path().join("config.json"),
    )
    .unwrap();
    let bare = Checkpoint::open(other.path()).unwrap();
    assert!(
        bare.tensors()
            .iter()
            .all(|t| !t.stored_name.starts_with("esm."))
    );
    assert_same(&prefixed, &bare, DType::F32);
}

#[test]
fn mapped_f32_is_not_copied() {
    let (_dir, checkpoint) = random(ModelConfig::esm2(1, 16, 2), 4, DType::F32);
    for e in layout::expected(checkpoint.config()) {
        let tensor = checkpoint.tensor(&e.name).unwrap();
        let data = tensor.to_f32();
        assert!(matches!(data, F32Data::Mapped { .. }), "{}", e.name);
        assert_eq!(data.as_ptr().cast::<u8>(), tensor.bytes().as_ptr());
    }
    let (_dir, half) = random(ModelConfig::esm2(1, 16, 2), 4, DType::F16);
    let tensor = half.tensor("encoder.emb_layer_norm_after.bias").unwrap();
    assert!(matches!(tensor.to_f32(), F32Data::Owned(_)));
}

#[test]
fn blocks_are_the_tensor_in_pieces() {
    for dtype in [DType::F32, DType::Bf16] {
        let (_dir, checkpoint) = random(ModelConfig::esm2(1, 16, 2), 4, dtype);
        let tensor = checkpoint
            .tensor("encoder.layer.0.intermediate.dense.weight")
            .unwrap();
        let mut joined = Vec::new();
        let visit = |first: usize, values: &[f32]| {
            assert_eq!(first, joined.len());
            assert!(values.len() <= 100);
            joined.extend_from_slice(values);
            Ok::<(), seqstream::weights::WeightsError>(())
        };
        tensor.for_each_block(100, visit).unwrap();
        assert_eq!(joined, *tensor.to_f32());
        assert_eq!(joined.len(), 64 * 16);
    }
}

#[test]
fn unaligned_f32_reads_right() {
    let (dir, aligned) = random(ModelConfig::esm2(1, 16, 2), 4, DType::F32);
    let path = dir.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    for shift in 1..4u8 {
        // A longer header moves the data.
        let other = tempfile::tempdir().unwrap();
        let spaces = vec![b' '; shift.into()];
        let prefix = (length as u64 + u64::from(shift)).to_le_bytes();
        let moved = [
            &prefix[..],
            &bytes[8..8 + length],
            &spaces,
            &bytes[8 + length..],
        ]
        .concat();
        fs::write(other.path().join("model.safetensors"), moved).unwrap();
        fs::copy(
            dir.path().join("config.json"),
            other.path().join("config.json"),
        )
        .unwrap();
        let unaligned = Checkpoint::open(other.path()).unwrap();
        let tensor = unaligned
            .tensor("encoder.emb_layer_norm_after.bias")
            .unwrap();
        assert!(matches!(tensor.to_f32(), F32Data::Owned(_)));
        assert_same(&aligned, &unaligned, DType::F32);
    }
}

#[test]
fn the_hash_sees_every_deciding_file() {
    let (dir, checkpoint) = random(ModelConfig::dnabert(1, 16, 2), 4, DType::F32);
    let before = checkpoint.hash().unwrap();
    assert_eq!(before.len(), 64);
    assert_eq!(
        before,
        Checkpoint::open(dir.path()).unwrap().hash().unwrap()
    );
    // The same files in another folder, with a file beside them that does not matter.
    let other = tempfile::tempdir().unwrap();
    for name in ["model.safetensors", "config.json", "tokenizer.json"] {
        fs::copy(dir.path().join(name), other.path().join(name)).unwrap();
    }
    fs::write(other.path().join("README.md"), "a model").unwrap();
    assert_eq!(
        Checkpoint::open(other.path()).unwrap().hash().unwrap(),
        before
    );
    for name in ["model.safetensors", "config.json", "tokenizer.json"] {
        let path = other.path().join(name);
        let original = fs::read(&path).unwrap();
        let mut changed = original.clone();
        // The last byte of the weights is data; the last byte of a JSON file is a line break.
        *changed.last_mut().unwrap() = if name.ends_with("json") { b' ' } else { 1 };
        fs::write(&path, changed).unwrap();
        assert_ne!(
            Checkpoint::open(other.path()).unwrap().hash().unwrap(),
            before,
            "{name}"
        );
        fs::write(&path, original).unwrap();
    }
}

#[test]
fn absent_rotary_frequencies_warn_and_shared_ones_serve_every_layer() {
    let (dir, whole) = random(ModelConfig::esm2(2, 16, 2), 4, DType::F32);
    let name = |layer| layout::inv_freq_name(layer);
    assert!(whole.optional(&name(1)).is_some() && whole.warnings().is_empty());
    let bytes = fs::read(dir.path().join("model.safetensors")).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header = String::from_utf8(bytes[8..8 + length].to_vec()).unwrap();
    let rewrite = |names: &[(&str, &str)]| {
        let header = names.iter().fold(header.clone(), |header, (old, new)| {
            header.replace(old, new)
        });
        assert!(header.len() <= length);
        let bytes = [
            &bytes[..8],
            format!("{header:<length$}").as_bytes(),
            &bytes[8 + length..],
        ]
        .concat();
        fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
        Checkpoint::open(dir.path())
    };
    // The layers lose their own frequencies; under an ignored name the bytes stay where they are.
    let lost = rewrite(&[(&name(0), "lm_head.x"), (&name(1), "lm_head.y")]).unwrap();
    assert!(lost.optional(&name(1)).is_none() && lost.optional(&name(0)).is_none());
    assert!(
        lost.warnings()[0].contains("2 of 2 layers"),
        "{:?}",
        lost.warnings()
    );
    let shared = rewrite(&[(&name(1), layout::SHARED_INV_FREQ)]).unwrap();
    assert_eq!(shared.warnings(), &[] as &[String]);
    assert_eq!(
        *shared.optional(&name(1)).unwrap().to_f32(),
        *whole_freq(&shared)
    );
}

fn whole_freq(checkpoint: &Checkpoint) -> F32Data {
    checkpoint.tensor(layout::SHARED_INV_FREQ).unwrap().to_f32()
}
