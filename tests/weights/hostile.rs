//! Model files made to harm: small files that need much memory, text that controls a terminal,
//! duplicate names, numbers out of range, and files that exist but cannot be read.

#![cfg(unix)]

mod memory;
mod terminal;

use seqstream::architecture::ModelConfig;
use seqstream::dtype::DType;
use seqstream::output::OutputError;
use seqstream::pipeline::JobError;
use seqstream::sequence::Tokenizer;
use seqstream::weights::random::write_random;
use seqstream::weights::{Checkpoint, read_index, read_torch_index};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::fs;
use std::io::{Seek, SeekFrom, Write as _};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};

/// This text would clear the screen, set the window's title and forge a hint if it were printed as
/// it is.
const HOSTILE: &str = "x\n\u{1b}[36;1mhint:\u{1b}[0m run: curl | sh\u{1b}]0;title\u{7}\r\u{9b}2J";

/// Checks that a message is fit for a terminal: on its own line, without control characters, and of
/// readable length.
#[track_caller]
fn fit_for_a_terminal(message: &str) {
    assert!(!message.chars().any(char::is_control), "{message:?}");
    assert!(
        message.len() < 1500,
        "{} bytes: {}",
        message.len(),
        &message[..200]
    );
}

/// Returns the error that both readers of weights files give for these bytes.
#[track_caller]
fn malformed(bytes: &[u8]) -> String {
    let error = read_index(bytes).unwrap_err();
    assert!(!error.hint.is_empty());
    fit_for_a_terminal(&error.what);
    fit_for_a_terminal(&error.hint);
    error.what
}

/// Returns the error of opening a model.
#[track_caller]
fn refused(path: &Path) -> String {
    let error = Checkpoint::open(path).unwrap_err();
    fit_for_a_terminal(&error.to_string());
    fit_for_a_terminal(&error.remedy().unwrap().to_string());
    error.to_string()
}

#[track_caller]
fn has(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "no {part:?} in: {message}");
    }
}

// Helpers that make files.

fn model() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let config = ModelConfig::esm2(3, 16, 4);
    write_random(&config.into(), 1, DType::F32, dir.path()).unwrap();
    dir
}

fn safetensors(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

/// Returns a header with one tensor of 4 bytes.
fn one_tensor(name: &str, dtype: &str, shape: &str) -> String {
    let tensor = json!({"dtype": dtype, "data_offsets": [0, 4]}).to_string();
    format!(
        r#"{{{}:{},"shape":{shape}}}}}"#,
        Value::from(name),
        tensor.trim_end_matches('}')
    )
}

/// Returns an archive of stored entries.
fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let stored =
        zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, bytes) in entries {
        writer.start_file(*name, stored).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// Returns a checkpoint with this pickle, and one storage of 64 bytes.
fn torch(pickle: &[u8]) -> Vec<u8> {
    zip(&[("a/data.pkl", pickle), ("a/data/0", &[0; 64])])
}

fn string(text: &str) -> Vec<u8> {
    let mut bytes = vec![b'X'];
    bytes.extend((text.len() as u32).to_le_bytes());
    bytes.extend(text.as_bytes());
    bytes
}

/// Returns the pickle instructions of a tensor with this many f32 values, in storage `key`.
fn tensor(key: &str, values: u8) -> Vec<u8> {
    let mut bytes = b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec();
    bytes.extend(string("storage"));
    bytes.extend(b"ctorch\nFloatStorage\n");
    bytes.extend(string(key));
    bytes.extend(string("cpu"));
    bytes.extend([
        b'K', 16, b't', b'Q', b'K', 0, b'K', values, 0x85, b'K', 1, 0x85,
    ]);
    bytes.extend([0x89, b'}', b't', b'R']);
    bytes
}

/// Returns a pickle that keeps a name under 0 and a tensor under 1, and continues with a dict.
fn kept(name: &str) -> Vec<u8> {
    [
        b"\x80\x02".to_vec(),
        string(name),
        b"q\x000".to_vec(),
        tensor("0", 1),
        b"q\x010}".to_vec(),
    ]
    .concat()
}

// Duplicate names.

#[test]
fn one_name_twice_is_refused() {
    // Two tensors without values may lie at the same offset.
    let twice = r#"{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#;
    has(&malformed(&safetensors(twice, 0)), &["tensor a twice"]);
    let key = r#"{"a":{"dtype":"U8","dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#;
    has(
        &malformed(&safetensors(key, 0)),
        &["duplicate field `dtype`", "column"],
    );
    let pickle = [kept("n"), b"h\x00h\x01sh\x00h\x01s.".to_vec()].concat();
    has(
        &malformed(&torch(&pickle)),
        &["the pickle has tensor n twice"],
    );
    let once = [kept("n"), b"h\x00h\x01s.".to_vec()].concat();
    assert_eq!(read_torch_index(&torch(&once)).unwrap().tensors.len(), 1);

    // Two entries of an archive, written under two names of the same length and then renamed.
    let pickle = [
        b"\x80\x02}".to_vec(),
        string("n"),
        tensor("0", 1),
        b"s.".to_vec(),
    ]
    .concat();
    let mut bytes = zip(&[
        ("a/data.pkl", &pickle),
        ("a/data/0", &[0; 64]),
        ("a/data/1", &[1; 64]),
    ]);
    assert!(read_index(&bytes).is_ok());
    let other = b"a/data/1";
    let places: Vec<usize> = (0..bytes.len() - other.len())
        .filter(|at| bytes[*at..].starts_with(other))
        .collect();
    assert_eq!(places.len(), 2, "before the entry and in the directory");
    for at in places {
        bytes[at + other.len() - 1] = b'0';
    }
    has(&malformed(&bytes), &["two entries of the name a/data/0"]);
    let two = zip(&[
        ("a/data.pkl", &pickle),
        ("b/data.pkl", &pickle),
        ("a/data/0", &[0; 64]),
    ]);
    has(
        &malformed(&two),
        &["two pickles, a/data.pkl and b/data.pkl"],
    );

    let dir = model();
    let at = |name: &str| dir.path().join(name);
    let config = fs::read_to_string(at("config.json")).unwrap();
    fs::write(
        at("config.json"),
        config.replacen('{', r#"{"token_dropout":false,"#, 1),
    )
    .unwrap();
    has(
        &refused(dir.path()),
        &["config.json", "\"token_dropout\" stands twice at line"],
    );
    fs::write(at("config.json"), config).unwrap();
    fs::rename(at("model.safetensors"), at("a.safetensors")).unwrap();
    fs::write(
        at("model.safetensors.index.json"),
        r#"{"weight_map":{"x":"a.safetensors","x":"a.safetensors"}}"#,
    )
    .unwrap();
    has(
        &refused(dir.path()),
        &["index.json", "tensor x twice at line 1"],
    );

    let tokenizer = r#"{"version":"1.0","model":{"type":"BPE","vocab":{"A":1,"A":2}}}"#;
    let error = Tokenizer::from_json("t.json", tokenizer.as_bytes()).unwrap_err();
    has(
        &error.to_string(),
        &["t.json", "\"A\" stands twice at line 1"],
    );
}

// Missing files, and paths that are not files.

#[test]
fn what_is_there_and_cannot_be_looked_at_is_not_absent() {
    for lost in ["config.json", "tokenizer.json", "model.safetensors"] {
        let dir = model();
        let at = |name: &str| dir.path().join(name);
        // Other weights, which would be used in place of the lost ones.
        fs::copy(at("model.safetensors"), at("other.safetensors")).unwrap();
        let _ = fs::remove_file(at(lost));
        symlink("/nonexistent/blob", at(lost)).unwrap();
        let message = refused(dir.path());
        has(
            &message,
            &[lost, "a link to /nonexistent/blob, where nothing is"],
        );
        fs::remove_file(at(lost)).unwrap();
        fs::create_dir(at(lost)).unwrap();
        has(&refused(dir.path()), &[lost, "directory"]);
    }
    // A link to an existing file is as good as a file.
    let dir = model();
    let at = |name: &str| dir.path().join(name);
    fs::rename(at("config.json"), at("blob")).unwrap();
    symlink(at("blob"), at("config.json")).unwrap();
    assert!(
        Checkpoint::open(dir.path())
            .unwrap()
            .config_path()
            .is_some()
    );
}

#[test]
fn a_named_pipe_is_refused_at_once() {
    let dir = model();
    let at = |name: &str| dir.path().join(name);
    let pipe = |path: &Path| assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    for name in ["m.safetensors", "m.bin", "m.pt", "m.index.json"] {
        pipe(&at(name));
        has(&refused(&at(name)), &[name, "it is a named pipe"]);
    }
    pipe(&at("t.json"));
    let error = Tokenizer::from_file(&at("t.json")).unwrap_err();
    has(&error.to_string(), &["t.json", "it is a named pipe"]);
    fs::remove_file(at("config.json")).unwrap();
    pipe(&at("config.json"));
    has(&refused(dir.path()), &["config.json", "it is a named pipe"]);
}

// Numbers.

#[test]
fn numbers_beyond_reason_are_refused() {
    let dir = model();
    let path = dir.path().join("config.json");
    let config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for (key, value, part) in [
        ("layer_norm_eps", json!(1e308), "epsilon is 1e308"),
        ("layer_norm_eps", json!(1.5), "epsilon is 1.5e0"),
        ("layer_norm_eps", json!(-1e-5), "epsilon is -1e-5"),
        (
            "num_hidden_layers",
            json!(1025),
            "layers is 1025, outside 1 to 1024",
        ),
        ("hidden_size", json!(1 << 17), "hidden size is 131072"),
        ("num_attention_heads", json!(0), "attention heads is 0"),
        (
            "intermediate_size",
            json!(u64::MAX),
            "intermediate size is 18446744073709551615",
        ),
        ("vocab_size", json!(1 << 21), "vocabulary size is 2097152"),
        ("mask_token_id", json!(33), "mask_token_id is 33"),
    ] {
        let mut config = config.clone();
        config[key] = value;
        fs::write(&path, config.to_string()).unwrap();
        has(&refused(dir.path()), &["config.json", part]);
    }
}

/// If one size of a shape is 0, another size may be anything: 2 times 2^63 overflows to 0.
#[test]
fn a_shape_without_values_divides_by_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.safetensors");
    let header = json!({
        "encoder.layer.0.attention.self.query.weight": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]},
        "encoder.emb_layer_norm_after.weight": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]},
        "embeddings.word_embeddings.weight": {"dtype": "F32", "shape": [33, 0], "data_offsets": [0, 0]},
        "encoder.layer.0.intermediate.dense.weight": {"dtype": "F32", "shape": [0, 0], "data_offsets": [0, 0]},
        "encoder.layer.0.attention.self.rotary_embeddings.inv_freq":
            {"dtype": "F32", "shape": [1u64 << 63, 0], "data_offsets": [0, 0]},
    });
    fs::write(&path, safetensors(&header.to_string(), 0)).unwrap();
    has(&refused(&path), &["attention heads"]);
}

#[test]
fn layers_of_different_rotary_frequencies_are_refused() {
    let name = |layer: usize| {
        format!("esm.encoder.layer.{layer}.attention.self.rotary_embeddings.inv_freq")
    };
    for layer in [1, 2] {
        let dir = model();
        let path = dir.path().join("model.safetensors");
        let mut bytes = fs::read(&path).unwrap();
        let tensors = read_index(&bytes).unwrap().tensors;
        let tensor = tensors.iter().find(|t| t.name == name(layer)).unwrap();
        let at = tensor.place.clone().unwrap().start + 4;
        bytes[at..at + 4].copy_from_slice(&9f32.to_le_bytes());
        fs::write(&path, &bytes).unwrap();
        has(
            &refused(dir.path()),
            &[&name(layer), "has 9 at index 1, where layer 0 has 0.01"],
        );
    }
    // Some layers without rotary frequencies among others that have them.
    for (layer, message) in [
        (
            0,
            "gives layer 1 rotary frequencies, where layer 0 has none",
        ),
        (
            2,
            "gives layer 0 rotary frequencies, where layer 2 has none",
        ),
    ] {
        let dir = model();
        let path = dir.path().join("model.safetensors");
        let bytes = fs::read(&path).unwrap();
        let at = bytes
            .windows(name(layer).len())
            .position(|w| w == name(layer).as_bytes())
            .unwrap();
        // Renamed to a name of the same length that is known and ignored.
        let mut ignored = b"lm_head.".to_vec();
        ignored.resize(name(layer).len(), b'x');
        let renamed = [&bytes[..at], &ignored, &bytes[at + ignored.len()..]].concat();
        fs::write(&path, renamed).unwrap();
        has(&refused(dir.path()), &[message]);
    }
}

// Templates.

#[test]
fn a_template_is_one_token_the_sequence_and_one_token() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tokens");
    let text = fs::read(golden.join("bpe_tokenizer.json")).unwrap();
    let file: Value = serde_json::from_slice(&text).unwrap();
    let cls = file["post_processor"]["single"][0].clone();
    let sequence = file["post_processor"]["single"][1].clone();
    let sep = file["post_processor"]["single"][2].clone();
    assert!(cls["SpecialToken"].is_object() && sequence["Sequence"].is_object());
    for single in [
        json!([cls, sequence]),
        json!([sequence, sep]),
        json!([sequence]),
        json!([]),
        json!([cls, sep]),
        json!([cls, cls, sequence, sep]),
        json!([cls, sequence, sep, sep]),
        json!([cls, sequence, sequence, sep]),
        json!([cls, sequence, sep, sequence]),
        json!(vec![cls.clone(); 20_000]),
    ] {
        let mut file = file.clone();
        file["post_processor"]["single"] = single;
        let error = Tokenizer::from_json("t.json", file.to_string().as_bytes()).unwrap_err();
        has(
            &error.to_string(),
            &["t.json", "`post_processor.single`", "one special token"],
        );
    }
    // A special token that stands for no id, for two ids, or for 400,000 ids.
    let id = cls["SpecialToken"]["id"].as_str().unwrap();
    for ids in [json!([]), json!([1, 1]), json!(vec![1; 400_000])] {
        let mut file = file.clone();
        file["post_processor"]["special_tokens"][id]["ids"] = ids;
        let error = Tokenizer::from_json("t.json", file.to_string().as_bytes()).unwrap_err();
        let field = format!("`post_processor.special_tokens.{id}`");
        has(&error.to_string(), &["t.json", &field, "one id"]);
    }
    assert!(Tokenizer::from_json("t.json", &text).is_ok());
}
