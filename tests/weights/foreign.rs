//! Models, packagings and files of others: what is computed, what is refused, and by what name.
//!
//! `docs/models.md` lists the outcomes for users. This file has the helpers, which make models and
//! files.

mod adapters;
mod checkpoints;
mod esm1;
mod names;
mod other_models;
mod paths;
mod vocabularies;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use seqstream::architecture::ModelConfig;
use seqstream::architecture::layout;
use seqstream::dtype::DType;
use seqstream::weights::random::write_random;
use seqstream::weights::{Checkpoint, read_index};
use serde_json::{Value, json};

// Helpers that make models.

/// A tensor in f32, or in another format of safetensors.
#[derive(Clone)]
struct T {
    name: String,
    dtype: &'static str,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl T {
    /// A tensor of ones.
    fn new(name: &str, shape: &[usize]) -> Self {
        let values: usize = shape.iter().product();
        Self {
            name: name.to_owned(),
            dtype: "F32",
            shape: shape.to_vec(),
            bytes: 1f32.to_le_bytes().repeat(values),
        }
    }
}

/// A folder with a model whose files can be changed.
struct Model {
    dir: tempfile::TempDir,
    tensors: Vec<T>,
}

impl Model {
    fn new(config: ModelConfig) -> Self {
        let dir = tempfile::tempdir().unwrap();
        write_random(&config.into(), 1, DType::F32, dir.path()).unwrap();
        let bytes = fs::read(dir.path().join("model.safetensors")).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let tensors = file.iter().map(|(name, view)| T {
            name: name.to_owned(),
            dtype: "F32",
            shape: view.shape().to_vec(),
            bytes: view.data().to_vec(),
        });
        let tensors = tensors.collect();
        Self { dir, tensors }
    }

    fn esm2() -> Self {
        Self::new(ModelConfig::esm2(2, 32, 4))
    }

    fn dnabert() -> Self {
        Self::new(ModelConfig::dnabert(2, 32, 4))
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Gives the tensors other names, and writes the file again.
    fn rename(mut self, rename: impl Fn(&str) -> String) -> Self {
        for t in &mut self.tensors {
            t.name = rename(&t.name);
        }
        self.write()
    }

    /// Adds tensors, and writes the file again.
    fn with(mut self, more: impl IntoIterator<Item = T>) -> Self {
        self.tensors.extend(more);
        self.write()
    }

    /// Removes tensors, and writes the file again.
    fn without(mut self, part: &str) -> Self {
        self.tensors.retain(|t| !t.name.contains(part));
        self.write()
    }

    fn write(self) -> Self {
        write_safetensors(&self.at("model.safetensors"), &self.tensors);
        self
    }

    /// Sets a key of config.json.
    fn set(self, key: &str, value: Value) -> Self {
        let path = self.at("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        config[key] = value;
        fs::write(path, config.to_string()).unwrap();
        self
    }

    /// Writes a file beside the weights.
    fn beside(self, name: &str, text: impl AsRef<[u8]>) -> Self {
        fs::write(self.at(name), text).unwrap();
        self
    }

    fn open(&self) -> Checkpoint {
        Checkpoint::open(self.path()).unwrap()
    }

    /// Opening fails with a message and a remedy, which are returned.
    #[track_caller]
    fn refused(&self) -> (String, String) {
        refused(self.path())
    }
}

fn write_safetensors(path: &Path, tensors: &[T]) {
    let mut header = serde_json::Map::new();
    let mut data: Vec<u8> = Vec::new();
    for t in tensors {
        let start = data.len();
        data.extend(&t.bytes);
        let info = json!({"dtype": t.dtype, "shape": t.shape, "data_offsets": [start, data.len()]});
        header.insert(t.name.clone(), info);
    }
    let header = Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.bytes());
    file.extend(data);
    fs::write(path, file).unwrap();
}

#[track_caller]
fn refused(path: &Path) -> (String, String) {
    let error = Checkpoint::open(path).unwrap_err();
    let what = error.to_string();
    let hint = error.remedy().unwrap().to_string();
    println!("{what}\n    hint: {hint}");
    assert!(
        what.starts_with(path.to_str().unwrap()),
        "no place in: {what}"
    );
    assert!(!hint.is_empty(), "no remedy for: {what}");
    (what, hint)
}

#[track_caller]
fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no {part:?} in: {text}");
    }
}

/// Asserts that both models have the same values of every tensor.
#[track_caller]
fn same(a: &Checkpoint, b: &Checkpoint) {
    assert_eq!(a.config(), b.config());
    for e in layout::expected(a.config()) {
        let (x, y) = (a.tensor(&e.name).unwrap(), b.tensor(&e.name).unwrap());
        assert_eq!(x.bytes(), y.bytes(), "{}", e.name);
    }
}

// Helpers that make PyTorch checkpoints.

/// A value of a pickle.
enum P {
    Int(u8),
    Text(&'static str),
    True,
    Dict(Vec<(String, P)>),
    /// `argparse.Namespace`.
    Namespace(Vec<(String, P)>),
    Tensor(T),
}

fn dict(pairs: impl IntoIterator<Item = (&'static str, P)>) -> P {
    P::Dict(pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
}

fn state(tensors: &[T]) -> P {
    let pair = |t: &T| (t.name.clone(), P::Tensor(t.clone()));
    P::Dict(tensors.iter().map(pair).collect())
}

fn pickle(value: &P, storages: &mut Vec<Vec<u8>>, out: &mut Vec<u8>) {
    let text = |text: &str, out: &mut Vec<u8>| {
        out.push(b'X');
        out.extend((text.len() as u32).to_le_bytes());
        out.extend(text.as_bytes());
    };
    let int = |n: usize, out: &mut Vec<u8>| {
        out.push(b'J');
        out.extend((n as u32).to_le_bytes());
    };
    match value {
        P::Int(n) => out.extend([b'K', *n]),
        P::Text(t) => text(t, out),
        P::True => out.push(0x88),
        P::Dict(pairs) | P::Namespace(pairs) => {
            let object = matches!(value, P::Namespace(_));
            if object {
                out.extend(b"cargparse\nNamespace\n)\x81");
            }
            out.extend(b"}(");
            for (key, value) in pairs {
                text(key, out);
                pickle(value, storages, out);
            }
            out.push(b'u');
            if object {
                out.push(b'b');
            }
        }
        P::Tensor(t) => {
            out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
            text("storage", out);
            out.extend(b"ctorch\nFloatStorage\n");
            text(&storages.len().to_string(), out);
            text("cpu", out);
            int(t.bytes.len() / 4, out);
            out.extend(b"tQK\0(");
            for size in &t.shape {
                int(*size, out);
            }
            out.extend(b"t(");
            for i in 0..t.shape.len() {
                int(t.shape[i + 1..].iter().product(), out);
            }
            out.extend(b"t\x89}tR");
            storages.push(t.bytes.clone());
        }
    }
}

/// Writes a PyTorch checkpoint, as `torch.save` does.
fn torch_save(path: &Path, value: &P) {
    let mut storages = Vec::new();
    let mut bytes = b"\x80\x02".to_vec();
    pickle(value, &mut storages, &mut bytes);
    bytes.push(b'.');
    let mut zip = zip::ZipWriter::new(fs::File::create(path).unwrap());
    let stored =
        zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    zip.start_file("a/data.pkl", stored).unwrap();
    zip.write_all(&bytes).unwrap();
    for (key, storage) in storages.iter().enumerate() {
        zip.start_file(format!("a/data/{key}"), stored).unwrap();
        zip.write_all(storage).unwrap();
    }
    zip.finish().unwrap();
}

/// Gives the tensors of an ESM-2 fair-esm's names, with this prefix.
fn fair_esm(tensors: &[T], prefix: &str) -> Vec<T> {
    const NAMES: [(&str, &str); 12] = [
        ("esm.", ""),
        ("encoder.layer.", "layers."),
        ("attention.LayerNorm", "self_attn_layer_norm"),
        ("attention.self.query", "self_attn.q_proj"),
        ("attention.self.key", "self_attn.k_proj"),
        ("attention.self.value", "self_attn.v_proj"),
        ("attention.self.rotary_embeddings", "self_attn.rot_emb"),
        ("attention.output.dense", "self_attn.out_proj"),
        ("intermediate.dense", "fc1"),
        ("output.dense", "fc2"),
        ("encoder.emb_layer_norm_after", "emb_layer_norm_after"),
        ("embeddings.word_embeddings", "embed_tokens"),
    ];
    let renamed = |t: &T| {
        let name = NAMES
            .iter()
            .fold(t.name.clone(), |name, (from, to)| name.replace(from, to));
        let name = name.replace(".LayerNorm", ".final_layer_norm");
        T {
            name: format!("{prefix}{name}"),
            ..t.clone()
        }
    };
    tensors.iter().map(renamed).collect()
}

const SENTENCE: &str = "encoder.sentence_encoder.";

fn args(arch: &'static str) -> P {
    let pairs = [
        ("arch", P::Text(arch)),
        ("encoder_layers", P::Int(2)),
        ("encoder_embed_dim", P::Int(32)),
        ("encoder_attention_heads", P::Int(4)),
        ("token_dropout", P::True),
    ];
    P::Namespace(pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
}

/// The tokens of ESM-2.
fn vocabulary() -> Vec<&'static str> {
    seqstream::sequence::tokenizer::esm::VOCABULARY.to_vec()
}
