//! Models, packagings and files of others: what is computed, what is refused, and by what name.
//!
//! `docs/models.md` lists the outcomes for users.

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

// F1: ESM-1b and ESM-1v under fair-esm's names.

/// ESM-1v has the tensors of an ESM-2, but for its positions.
#[test]
fn an_esm1v_is_not_computed_as_an_esm2() {
    let model = Model::esm2();
    let tensors = fair_esm(&model.tensors, SENTENCE);
    let without: Vec<T> = tensors
        .iter()
        .filter(|t| !t.name.contains("inv_freq"))
        .cloned()
        .collect();
    let positions = T::new(&format!("{SENTENCE}embed_positions.weight"), &[1026, 32]);
    let sinusoidal = T::new(&format!("{SENTENCE}embed_positions._float_tensor"), &[1]);
    let before = T::new(&format!("{SENTENCE}emb_layer_norm_before.weight"), &[32]);
    let path = model.at("esm1v.pt");
    let published = |more: &[T]| {
        let tensors = [without.as_slice(), more].concat();
        torch_save(
            &path,
            &dict([("args", args("roberta_large")), ("model", state(&tensors))]),
        );
        refused(&path)
    };
    let (what, _) = published(std::slice::from_ref(&positions));
    let said = "this is an ESM-1b or ESM-1v (learned absolute positions, arch roberta_large); of these \
                models only ESM-2 is computed";
    assert_eq!(what, format!("{}: {said}", path.display()));
    let (what, hint) = published(&[positions.clone(), before.clone()]);
    has(&what, &["ESM-1b or ESM-1v"]);
    assert!(!hint.contains("config.json"), "{hint}");
    has(&published(&[sinusoidal]).0, &["ESM-1b or ESM-1v"]);
    has(
        &published(&[before]).0,
        &["ESM-1b or ESM-1v", "a LayerNorm before the layers"],
    );
    // Without a table, the architecture and the absence of rotary frequencies show it.
    has(
        &published(&[]).0,
        &[
            "ESM-1b or ESM-1v",
            "no rotary positions, arch roberta_large",
        ],
    );
    // The table alone shows it in any file, whatever stands before the names.
    for prefix in ["", "module.", "encoder.", "model.encoder.sentence_encoder."] {
        let mut tensors = fair_esm(&model.tensors, prefix);
        tensors.push(T::new(
            &format!("{prefix}embed_positions.weight"),
            &[1026, 32],
        ));
        let path = model.at("esm1v.safetensors");
        write_safetensors(&path, &tensors);
        has(
            &refused(&path).0,
            &["ESM-1b or ESM-1v (learned absolute positions)"],
        );
    }
}

#[test]
fn esm2_of_fair_esm_and_of_hugging_face_goes_on_working() {
    let model = Model::esm2();
    let reference = model.open();
    let tensors = fair_esm(&model.tensors, SENTENCE);
    let path = model.at("esm2.pt");
    // The architecture of fair-esm's file is the name of a training script's setting.
    for arch in ["esm2", "roberta_large"] {
        let mut tensors = tensors.clone();
        tensors.push(T::new("encoder.lm_head.bias", &[33]));
        tensors.push(T::new("contact_head.regression.weight", &[1, 8]));
        let cfg = dict([("model", args(arch))]);
        torch_save(&path, &dict([("cfg", cfg), ("model", state(&tensors))]));
        let torch = Checkpoint::open(&path).unwrap();
        same(&reference, &torch);
        assert_eq!(torch.warnings(), &[] as &[String]);
    }
    // Hugging Face's files of ESM-2 have a table of positions that is not used.
    let published = Model::esm2().with([
        T::new("esm.embeddings.position_embeddings.weight", &[1026, 32]),
        T::new("esm.contact_head.regression.weight", &[1, 8]),
        T::new("lm_head.bias", &[33]),
        T::new("classifier.dense.weight", &[32, 32]),
    ]);
    let published = published.beside("vocab.txt", vocabulary().join("\n"));
    same(&reference, &published.open());
    assert_eq!(published.open().warnings(), &[] as &[String]);
    assert_eq!(
        published.open().vocabulary_paths(),
        [published.at("vocab.txt")]
    );
}

/// The program says the same, whatever it is asked to do.
#[test]
fn the_program_refuses_it_with_the_code_of_bad_weights() {
    let model = Model::esm2();
    let mut tensors = fair_esm(&model.tensors, "");
    tensors.push(T::new("embed_positions.weight", &[1026, 32]));
    let path = model.at("esm1v.pt");
    torch_save(
        &path,
        &dict([("args", args("roberta_large")), ("model", state(&tensors))]),
    );
    fs::write(model.at("a.fasta"), ">a\nMKTLLVAGGA\n").unwrap();
    for arguments in [
        &["embed", "a.fasta", "--model", "esm1v.pt", "--out", "o"][..],
        &["inspect", "esm1v.pt"],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_seqstream"))
            .args(arguments)
            .current_dir(model.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(4), "{said}");
        has(
            &said,
            &[
                "error: esm1v.pt: this is an ESM-1b or ESM-1v",
                "hint: give an ESM-2",
            ],
        );
    }
    assert!(!model.at("o").exists());
}

// F2: other vocabularies.

fn vocabulary() -> Vec<&'static str> {
    seqstream::sequence::tokenizer::esm::VOCABULARY.to_vec()
}

#[test]
fn a_vocabulary_of_another_size_is_refused() {
    let saprot = || {
        let mut config = ModelConfig::esm2(2, 32, 4);
        config.vocab = 446;
        Model::new(config)
    };
    let (what, hint) = saprot().set("mask_token_id", json!(445)).refused();
    has(
        &what,
        &[
            "config.json: mask_token_id is 445, and ESM-2's is 32",
            "this is a SaProt",
        ],
    );
    has(&hint, &["give an ESM-2"]);
    let (what, hint) = saprot().refused();
    has(
        &what,
        &[
            "config.json: the vocabulary has 446 tokens",
            "this is a SaProt",
            "no padding",
        ],
    );
    has(&hint, &["only ESM-2's own tokens"]);
    let mut tokens = vec!["<cls>", "<pad>", "<eos>", "<unk>", "<mask>", "Ap", "Aq"];
    tokens.resize(446, "Ay");
    let (what, _) = saprot().beside("vocab.txt", tokens.join("\n")).refused();
    has(
        &what,
        &[
            "vocab.txt: line 5 of it is \"<mask>\", and ESM-2 has L there",
            "SaProt",
        ],
    );
    let (what, _) = Model::esm2().set("pad_token_id", json!(0)).refused();
    has(&what, &["config.json: pad_token_id is 0, and ESM-2's is 1"]);

    // Rows of zeros are no tokens; rows of values may be, unless vocab.txt says otherwise.
    let mut config = ModelConfig::esm2(2, 32, 4);
    config.vocab = 40;
    let (what, hint) = Model::new(config.clone()).refused();
    has(&what, &["the vocabulary has 40 tokens", "rows 33 to 39"]);
    has(&hint, &["put the model's vocab.txt beside"]);
    let mut padded = Model::new(config.clone());
    for t in &mut padded.tensors {
        if t.name.ends_with("word_embeddings.weight") {
            t.bytes[33 * 32 * 4..].fill(0);
        }
    }
    let padded = padded.write();
    assert_eq!(padded.open().config().vocab, 40);
    let listed = Model::new(config.clone()).beside("vocab.txt", vocabulary().join("\n"));
    assert_eq!(listed.open().warnings(), &[] as &[String]);
    // Every row counts, up to the last byte.
    let mut almost = padded;
    for t in &mut almost.tensors {
        if t.name.ends_with("word_embeddings.weight") {
            *t.bytes.last_mut().unwrap() = 1;
        }
    }
    has(&almost.write().refused().0, &["rows 33 to 39"]);
    config.vocab = 25;
    config.mask_token = 24;
    let (what, _) = Model::new(config)
        .set("mask_token_id", Value::Null)
        .refused();
    has(
        &what,
        &["config.json: the vocabulary has 25 tokens, and ESM-2's has 33"],
    );
}

#[test]
fn fair_esm_files_have_the_tokens_of_esm2() {
    let model = Model::esm2();
    let mut tensors = fair_esm(&model.tensors, "");
    let table = tensors
        .iter_mut()
        .find(|t| t.name == "embed_tokens.weight")
        .unwrap();
    table.shape[0] = 35;
    table.bytes.extend([0; 2 * 32 * 4]);
    let path = model.at("esm2.safetensors");
    write_safetensors(&path, &tensors);
    // A vocab.txt in this folder is another model's.
    fs::write(model.at("vocab.txt"), "A\nC\n").unwrap();
    assert_eq!(Checkpoint::open(&path).unwrap().config().vocab, 35);
    let table = tensors
        .iter_mut()
        .find(|t| t.name == "embed_tokens.weight")
        .unwrap();
    *table.bytes.last_mut().unwrap() = 1;
    write_safetensors(&path, &tensors);
    has(&refused(&path).0, &["the vocabulary has 35 tokens"]);
}

#[test]
fn the_first_33_lines_of_vocab_txt_are_esm2s() {
    let with = |text: &[u8]| Model::esm2().beside("vocab.txt", text);
    let lines = |change: &dyn Fn(&mut Vec<&'static str>)| {
        let mut tokens = vocabulary();
        change(&mut tokens);
        tokens.join("\n").into_bytes()
    };
    let text = lines(&|_| {});
    for text in [
        text.clone(),
        [text.as_slice(), b"\n"].concat(),
        [b"\xef\xbb\xbf", text.as_slice()].concat(),
        String::from_utf8(text.clone())
            .unwrap()
            .replace('\n', "\r\n")
            .into_bytes(),
        String::from_utf8(text.clone())
            .unwrap()
            .replace('\n', "\r")
            .into_bytes(),
        lines(&|tokens| tokens.extend(["<new>", "[NEW]"])),
    ] {
        assert_eq!(with(&text).open().warnings(), &[] as &[String]);
    }
    let refused = |text: Vec<u8>, parts: &[&str]| {
        let (what, hint) = with(&text).refused();
        has(&what, &[&["vocab.txt: "], parts].concat());
        assert!(!hint.is_empty());
    };
    refused(
        lines(&|tokens| tokens.swap(4, 5)),
        &["line 5 of it is \"A\", and ESM-2 has L there: the model reads other tokens than ESM-2"],
    );
    refused(
        lines(&|tokens| tokens.sort_unstable()),
        &["line 1 of it is \"-\""],
    );
    refused(
        lines(&|tokens| tokens.insert(4, "")),
        &["line 5 of it is \"\""],
    );
    refused(
        lines(&|tokens| tokens.truncate(20)),
        &["it has 20 tokens", "missing is M"],
    );
    refused(vec![], &["it has 0 tokens", "missing is <cls>"]);
    refused(
        lines(&|tokens| tokens.push("L")),
        &["line 34 of it is L once more"],
    );
    refused(
        [text.as_slice(), b"\n\xff"].concat(),
        &["line 34 is not UTF-8 text"],
    );
    refused(
        b"\xff\xfe<\0c\0l\0s\0>\0\n\0".to_vec(),
        &["line 1 is not UTF-8 text"],
    );
    refused(vec![b'\n'; 2 << 20], &["2097152 bytes are too many"]);
    // A token for a letter that ESM-2 does not know would be read as unknown.
    let warned = with(&lines(&|tokens| tokens.extend(["J", "<x>", "s"])));
    has(
        &warned.open().warnings()[0],
        &["\"J\" in vocab.txt", "2 such tokens"],
    );
}

#[test]
fn other_files_that_list_tokens() {
    let word_level = |change: &[(&'static str, Option<usize>)]| {
        let tokens = vocabulary();
        let mut ids: BTreeMap<&str, usize> = tokens
            .iter()
            .enumerate()
            .map(|(id, token)| (*token, id))
            .collect();
        for (token, id) in change {
            match id {
                Some(id) => ids.insert(*token, *id),
                None => ids.remove(token),
            };
        }
        json!({"version": "1.0", "model": {"type": "WordLevel", "vocab": ids}}).to_string()
    };
    let open = |name: &str, text: String| Model::esm2().beside(name, text);
    open("tokenizer.json", word_level(&[])).open();
    let refused = |name: &str, text: String, parts: &[&str]| {
        has(&open(name, text).refused().0, &[&[name], parts].concat());
    };
    refused(
        "tokenizer.json",
        word_level(&[("L", Some(5)), ("A", Some(4))]),
        &["gives \"A\" the id 4, which is L in ESM-2"],
    );
    refused(
        "tokenizer.json",
        word_level(&[("O", None)]),
        &["no token O"],
    );
    refused(
        "tokenizer.json",
        word_level(&[("L", Some(40))]),
        &["gives L the id 40, and ESM-2 has 4"],
    );
    refused(
        "tokenizer.json",
        r#"{"model": {"vocab": []}}"#.into(),
        &["another kind"],
    );
    refused("tokenizer.json", "{".into(), &["cannot be read"]);
    open("added_tokens.json", r#"{"<mask>": 32, "<new>": 33}"#.into()).open();
    refused(
        "added_tokens.json",
        r#"{"<mask>": 33}"#.into(),
        &["gives <mask> the id 33, and ESM-2 has 32"],
    );
    refused(
        "added_tokens.json",
        r#"{"J": 7}"#.into(),
        &["the id 7, which is V in ESM-2"],
    );
    refused(
        "added_tokens.json",
        r#"{"J": "7"}"#.into(),
        &["\"J\" is no number"],
    );
    refused("added_tokens.json", "[]".into(), &["no list of tokens"]);
    let warned = open("added_tokens.json", r#"{"J": 33}"#.into());
    has(
        &warned.open().warnings()[0],
        &["\"J\" in added_tokens.json"],
    );

    let mut list = vocabulary();
    Model::esm2().set("vocab_list", json!(list)).open();
    list.swap(5, 6);
    let (what, _) = Model::esm2().set("vocab_list", json!(list)).refused();
    has(
        &what,
        &["config.json: entry 6 of vocab_list is \"G\", and ESM-2 has A there"],
    );
    let (what, _) = Model::esm2().set("vocab_list", json!("A")).refused();
    has(&what, &["config.json: its vocab_list is no list"]);
    // DNABERT's tokens are those of its tokenizer.json, whatever else is there.
    Model::dnabert().beside("vocab.txt", "A\n").open();
}

// F7: prefixes of wrappers.

#[test]
fn names_behind_wrappers_are_read() {
    let stem = |name: &str| name.strip_prefix("esm.").unwrap_or(name).to_owned();
    for model in [Model::esm2, Model::dnabert] {
        let reference = model().open();
        for prefix in [
            "module.",
            "model.",
            "_orig_mod.",
            "backbone.",
            "module.model.",
            "_orig_mod.module.",
            "module._orig_mod.model.esm.",
            "net.0.bert.",
            "_fsdp_wrapped_module.esm.",
        ] {
            let wrapped = model().rename(|name| format!("{prefix}{}", stem(name)));
            same(&reference, &wrapped.open());
            assert_eq!(wrapped.open().warnings(), &[] as &[String]);
            // Heads behind the same wrapper, and beside it, do not matter.
            let head = format!("{}lm_head.bias", prefix.trim_end_matches("esm."));
            let heads = [T::new(&head, &[33]), T::new("classifier.weight", &[2, 32])];
            let wrapped = wrapped.with(heads);
            same(&reference, &wrapped.open());
            assert_eq!(wrapped.open().warnings(), &[] as &[String], "{prefix}");
        }
        let inside = model()
            .rename(|name| name.replace("attention.", "_checkpoint_wrapped_module.attention."));
        same(&reference, &inside.open());
    }
}

#[test]
fn fair_esms_names_behind_wrappers_are_read() {
    let model = Model::esm2();
    let reference = model.open();
    for prefix in [
        "",
        "module.",
        "model.encoder.",
        "module.encoder.sentence_encoder.",
    ] {
        let tensors = fair_esm(&model.tensors, prefix);
        let path = model.at("wrapped.pt");
        torch_save(&path, &dict([("model", state(&tensors))]));
        same(&reference, &Checkpoint::open(&path).unwrap());
    }
}

#[test]
fn a_missing_tensor_behind_a_wrapper_is_missed_by_its_name() {
    let whole = |name: &str| format!("module.{name}");
    let (what, _) = Model::esm2()
        .without("layer.1.output.dense.bias")
        .rename(whole)
        .refused();
    has(
        &what,
        &["tensor encoder.layer.1.output.dense.bias is missing, expected shape [32]"],
    );
    assert!(!what.contains("more like it"), "{what}");
    let (what, _) = Model::esm2()
        .without("word_embeddings")
        .rename(whole)
        .refused();
    has(
        &what,
        &["tensor embeddings.word_embeddings.weight is missing"],
    );
    assert!(!what.contains("more like it"), "{what}");
    // Parts of the model that have lost their prefix are not mixed with those that have it.
    let (what, _) = Model::esm2()
        .rename(|name| match name.contains("layer.1.") {
            true => name.replace("esm.", ""),
            false => name.to_owned(),
        })
        .refused();
    has(&what, &["encoder.layer.1.", "missing"]);
}

#[test]
fn two_models_in_one_file_are_not_mixed() {
    let model = Model::esm2();
    let copy = |prefix: &str| {
        let renamed = |t: &T| T {
            name: format!("{prefix}{}", t.name),
            ..t.clone()
        };
        model.tensors.iter().map(renamed).collect::<Vec<_>>()
    };
    let both = [copy("student."), copy("teacher.")].concat();
    write_safetensors(&model.at("model.safetensors"), &both);
    let (what, hint) = model.refused();
    has(
        &what,
        &["several models: one under student.esm., one under teacher.esm."],
    );
    has(&hint, &["state_dict()"]);
    write_safetensors(
        &model.at("model.safetensors"),
        &[copy(""), copy("ema.")].concat(),
    );
    has(&model.refused().0, &["one under ema.esm., one under esm."]);
}

// F8: keys of training scripts.

#[test]
fn the_dict_of_tensors_is_found_by_its_key() {
    let model = Model::esm2();
    let reference = model.open();
    fs::remove_file(model.at("model.safetensors")).unwrap();
    let path = model.at("pytorch_model.bin");
    let tensors = || state(&model.tensors);
    let open = |value: &P| {
        torch_save(&path, value);
        Checkpoint::open(model.path())
    };
    for key in [
        "model",
        "state_dict",
        "model_state_dict",
        "model_state",
        "module",
    ] {
        let value = dict([
            ("epoch", P::Int(3)),
            (key, tensors()),
            (
                "optimizer_state_dict",
                dict([("state", dict([("step", P::Int(1))]))]),
            ),
        ]);
        same(&reference, &open(&value).unwrap());
    }
    // A key may lead to another one, or to settings.
    let nested = dict([("model", dict([("state_dict", tensors())]))]);
    same(&reference, &open(&nested).unwrap());
    let settings = dict([
        ("model", dict([("name", P::Text("esm2"))])),
        ("model_state_dict", tensors()),
    ]);
    same(&reference, &open(&settings).unwrap());
    same(&reference, &open(&tensors()).unwrap());

    let refused = |value: P, parts: &[&str]| {
        let error = open(&value).unwrap_err();
        println!("{error}\n    hint: {}", error.remedy().unwrap());
        has(
            &error.to_string(),
            &[&["pytorch_model.bin: "], parts].concat(),
        );
        error.remedy().unwrap().to_string()
    };
    let averages = dict([
        ("epoch", P::Int(1)),
        ("ema", tensors()),
        ("swa", tensors()),
        ("optimizer", dict([("x", P::Int(1))])),
    ]);
    let hint = refused(
        averages,
        &[
            "holds tensors under ema, swa, and under none of the keys",
            "model_state_dict",
        ],
    );
    has(&hint, &["torch.load(path)[\"ema\"]"]);
    let two = dict([
        ("model", tensors()),
        ("state_dict", state(&model.tensors[..3])),
    ]);
    refused(two, &["holds tensors under model and under state_dict"]);
    refused(dict([("epoch", P::Int(1))]), &["holds no dict of tensors"]);
    refused(
        dict([("model", P::Text("x"))]),
        &["holds no dict of tensors"],
    );
    let many = ["a", "b", "c", "d", "e", "f", "g"].map(|key| (key, state(&model.tensors[..1])));
    refused(dict(many), &["a, b, c, d, e and 2 more keys"]);
}

// F9: adapters.

fn lora(prefix: &str) -> [T; 2] {
    let name = |part| format!("{prefix}encoder.layer.0.attention.self.query.{part}.weight");
    [
        T::new(&name("lora_A"), &[4, 32]),
        T::new(&name("lora_B"), &[32, 4]),
    ]
}

#[test]
fn an_adapter_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let config =
        json!({"peft_type": "LORA", "base_model_name_or_path": "facebook/esm2_t6_8M_UR50D"});
    fs::write(at("adapter_config.json"), config.to_string()).unwrap();
    write_safetensors(
        &at("adapter_model.safetensors"),
        &lora("base_model.model.esm."),
    );
    let (what, hint) = refused(dir.path());
    let said =
        "this is a LoRA adapter for facebook/esm2_t6_8M_UR50D (adapter_config.json), not a model";
    assert_eq!(what, format!("{}: {said}", dir.path().display()));
    has(&hint, &["merge_and_unload()"]);
    let (what, hint) = refused(&at("adapter_model.safetensors"));
    has(
        &what,
        &["this is an adapter, not a model", "query.lora_A.weight"],
    );
    has(&hint, &["merge_and_unload()"]);
    for (config, said) in [
        ("{", "this is an adapter (adapter_config.json), not a model"),
        (r#"{"peft_type": "IA3"}"#, "this is an adapter (IA3)"),
    ] {
        fs::write(at("adapter_config.json"), config).unwrap();
        has(&refused(dir.path()).0, &[said]);
    }
    // Nothing tells whether an adapter beside weights is merged into them.
    let model = Model::esm2().beside("adapter_config.json", config.to_string());
    let (what, hint) = model.refused();
    has(
        &what,
        &["beside model.safetensors stands a LoRA adapter for facebook/esm2_t6_8M_UR50D"],
    );
    has(&hint, &["give that file by its path", "merge_and_unload()"]);
    Checkpoint::open(&model.at("model.safetensors")).unwrap();
}

#[test]
fn adapters_and_quantizations_inside_a_model_are_refused() {
    let merged = |name: &str| match name.contains("query.weight") {
        true => format!(
            "base_model.model.{}",
            name.replace("query.", "query.base_layer.")
        ),
        false => format!("base_model.model.{name}"),
    };
    let (what, hint) = Model::esm2().rename(merged).refused();
    has(&what, &["adapter that is not merged", "base_layer.weight"]);
    has(&hint, &["merge_and_unload()"]);
    let (what, _) = Model::esm2().with(lora("esm.")).refused();
    has(
        &what,
        &["a LoRA adapter that is not merged", "lora_A.weight"],
    );
    let inside = |part: &str| T::new(&format!("esm.encoder.layer.0.output.dense.{part}"), &[32]);
    for (part, said) in [
        ("SCB", "quantized to int8 by bitsandbytes"),
        ("weight.absmax", "quantized to 4 bits by bitsandbytes"),
        ("qweight", "quantized by GPTQ or AWQ"),
        ("adapters.x.adapter_down.0.weight", "adapter layers"),
        ("parametrizations.weight.original0", "parametrized weights"),
        ("weight_orig", "pruned"),
    ] {
        let (what, hint) = Model::esm2().with([inside(part)]).refused();
        has(&what, &[said, "encoder.layer.0.output.dense."]);
        assert!(!hint.contains("config.json"), "{hint}");
    }
    let (what, _) = Model::esm2()
        .set("quantization_config", json!({"load_in_8bit": true}))
        .refused();
    has(&what, &["config.json: the weights are quantized"]);
    // An adapter of a head changes nothing in the model.
    let head = Model::esm2().with([T::new("classifier.lora_A.default.weight", &[4, 32])]);
    assert_eq!(head.open().config(), Model::esm2().open().config());
}

// F10: heads of one's own.

#[test]
fn a_head_of_ones_own_is_passed_over_with_a_warning() {
    let regressor = || {
        [
            T::new("regressor.weight", &[1, 32]),
            T::new("regressor.bias", &[1]),
        ]
    };
    let reference = Model::esm2().open();
    let with = Model::esm2().with(regressor());
    same(&reference, &with.open());
    assert_eq!(
        with.open().warnings(),
        ["2 tensors beside the model are not used: regressor.weight [1, 32], regressor.bias [1]"]
    );
    assert!(with.open().is_beside("regressor.bias") && !with.open().is_beside("lm_head.bias"));
    let listed = with.open().tensors();
    let regressor_info = listed
        .iter()
        .find(|t| t.name == "regressor.weight")
        .unwrap();
    assert!(!regressor_info.used);
    // A bare model, in which the names of the head begin like those of the model.
    let bare = Model::esm2()
        .rename(|name| name.replace("esm.", ""))
        .with(regressor());
    same(&reference, &bare.open());
    has(&bare.open().warnings()[0], &["2 tensors beside the model"]);
    let wrapped = Model::esm2()
        .with(regressor())
        .rename(|name| format!("module.{name}"));
    same(&reference, &wrapped.open());
    has(&wrapped.open().warnings()[0], &["module.regressor.weight"]);
    let dnabert = Model::dnabert().with([T::new("head.weight", &[2, 32])]);
    same(&Model::dnabert().open(), &dnabert.open());
    assert_eq!(
        dnabert.open().warnings(),
        ["a tensor beside the model is not used: head.weight [2, 32]"]
    );
    let many = (0..9).map(|i| T::new(&format!("head.{i}"), &[1]));
    let many = Model::esm2().with(many).open();
    has(&many.warnings()[0], &["9 tensors", "head.2 [1] and 6 more"]);
    // In fair-esm's names, and where averages of weights are counted beside them.
    let path = bare.at("head.pt");
    let mut tensors = fair_esm(&Model::esm2().tensors, "module.");
    tensors.extend([
        T::new("n_averaged", &[]),
        T::new("module.regressor.bias", &[1]),
    ]);
    torch_save(&path, &state(&tensors));
    has(
        &Checkpoint::open(&path).unwrap().warnings()[0],
        &["2 tensors", "n_averaged []"],
    );
}

#[test]
fn what_is_inside_a_model_is_not_passed_over() {
    for name in [
        "esm.regressor.weight",
        "esm.encoder.layer.0.gate.weight",
        "esm.encoder.layer.2.output.dense.bias",
        "encoder.layer.0.gate.weight",
        "esm.embeddings.gate.weight",
        "bert.encoder.layer.0.gate.weight",
    ] {
        let (what, _) = Model::esm2().with([T::new(name, &[32])]).refused();
        has(
            &what,
            &[&format!(
                "tensor {name} of shape [32] has no place in this model"
            )],
        );
    }
    let bare = || Model::esm2().rename(|name| name.replace("esm.", ""));
    for name in [
        "encoder.norm.weight",
        "embeddings.gate",
        "encoder.layer.0.gate",
    ] {
        let (what, _) = bare().with([T::new(name, &[32])]).refused();
        has(
            &what,
            &[&format!(
                "tensor {name} of shape [32] has no place in this model"
            )],
        );
    }
}

// F15: paths and files that are no model.

#[test]
fn a_name_on_the_hub_is_no_path() {
    let error = |path: &str| {
        let error = Checkpoint::open(Path::new(path)).unwrap_err();
        println!("{error}\n    hint: {}", error.remedy().unwrap());
        (error.to_string(), error.remedy().unwrap().to_string())
    };
    let (what, hint) = error("facebook/esm2_t33_650M_UR50D");
    has(
        &what,
        &[
            "facebook/esm2_t33_650M_UR50D: there is no such file or folder",
            "Hugging Face Hub",
        ],
    );
    has(
        &hint,
        &[
            "download facebook/esm2_t33_650M_UR50D",
            "such as esm2_t33_650M_UR50D",
        ],
    );
    has(
        &error("DNABERT-S").1,
        &["download zhihan1996/DNABERT-S", "such as DNABERT-S"],
    );
    // A path that is no name of a model is a mistyped path.
    for path in ["./facebook/esm2", "esm2.pt", "models/esm2.safetensors"] {
        let (what, hint) = error(path);
        has(&what, &["cannot be read"]);
        has(&hint, &["check the path"]);
    }
}

#[test]
fn a_folder_of_the_hubs_cache() {
    let model = Model::esm2();
    let reference = model.open();
    let cache = tempfile::tempdir().unwrap();
    let folder = cache.path().join("models--facebook--esm2_t6_8M_UR50D");
    for name in ["blobs", "refs", "snapshots/0a1b", "snapshots/2c3d"] {
        fs::create_dir_all(folder.join(name)).unwrap();
    }
    for name in ["config.json", "model.safetensors"] {
        fs::copy(model.at(name), folder.join("snapshots/2c3d").join(name)).unwrap();
    }
    let (what, hint) = refused(&folder);
    has(
        &what,
        &["a folder of the Hugging Face Hub's cache with 2 snapshots and no refs/main"],
    );
    has(&hint, &["snapshots/0a1b"]);
    for text in ["2c3d", "2c3d\n"] {
        fs::write(folder.join("refs/main"), text).unwrap();
        let cached = Checkpoint::open(&folder).unwrap();
        same(&reference, &cached);
        assert_eq!(cached.hash().unwrap(), reference.hash().unwrap());
    }
    for text in ["4e5f", "../2c3d", "", ".", "snapshots/2c3d"] {
        fs::write(folder.join("refs/main"), text).unwrap();
        has(&refused(&folder).0, &["refs/main names the snapshot"]);
    }
    fs::remove_file(folder.join("refs/main")).unwrap();
    fs::remove_dir(folder.join("snapshots/0a1b")).unwrap();
    same(&reference, &Checkpoint::open(&folder).unwrap());
    let (what, hint) = refused(cache.path());
    has(
        &what,
        &["the folder itself holds no weights, but folders in it do"],
    );
    has(&hint, &["models--facebook--esm2_t6_8M_UR50D"]);
    has(&refused(&folder.join("snapshots")).1, &["such as 2c3d"]);
}

#[test]
fn files_that_hold_no_weights_are_named() {
    let mut tar = vec![0; 1024];
    tar[257..262].copy_from_slice(b"ustar");
    let gzip = |bytes: &[u8]| {
        let mut writer = flate2::write::GzEncoder::new(vec![], flate2::Compression::default());
        writer.write_all(bytes).unwrap();
        writer.finish().unwrap()
    };
    for (bytes, said, remedy) in [
        (tar.clone(), "this is a tar archive, and", "tar xf"),
        (
            gzip(&tar),
            "this is a tar archive compressed with gzip",
            "tar xzf",
        ),
        (gzip(&[7; 99]), "compressed with gzip", "gunzip"),
        (
            gzip(b">a\nMKT\n"),
            "a FASTA file, and no weights file (compressed with gzip)",
            "sequences are the input",
        ),
        (
            b">sp|P1 x\nMKT\n".to_vec(),
            "a FASTA file",
            "sequences are the input",
        ),
        (
            b"@r1\nACGT\n+\nIIII\n".to_vec(),
            "a FASTQ file",
            "sequences are the input",
        ),
        (
            b"<!DOCTYPE html><html></html>".to_vec(),
            "a web page",
            "download the model again",
        ),
        (
            b"\n  <?xml version='1.0'?><Error/>".to_vec(),
            "a web page",
            "download",
        ),
        (
            b"{\"model_type\": \"esm\"}".to_vec(),
            "a JSON file",
            "give the folder",
        ),
        (
            b"\xef\xbb\xbfid,sequence\n1,MKT\n".to_vec(),
            "a table (CSV)",
            "give a model folder",
        ),
        (
            b"id\tsequence\n1\tMKT\n".to_vec(),
            "a table (TSV)",
            "give a model folder",
        ),
        (
            b"##gff-version 3\n".to_vec(),
            "a GFF file",
            "give a model folder",
        ),
        (
            b"# ESM-2\n\nA model.\n".to_vec(),
            "begins with \"# ESM-2\"",
            "give a model folder",
        ),
        (
            b"\x28\xb5\x2f\xfdabcdefgh".to_vec(),
            "a zstd file",
            "zstd -d",
        ),
        (
            b"\x89HDF\r\n\x1a\n........".to_vec(),
            "an HDF5 file",
            "safetensors",
        ),
        (
            b"GGUF\x03\0\0\0........".to_vec(),
            "a GGUF file",
            "safetensors",
        ),
    ] {
        let malformed = read_index(&bytes).unwrap_err();
        println!("{}\n    hint: {}", malformed.what, malformed.hint);
        has(&malformed.what, &[said]);
        has(&malformed.hint, &[remedy]);
        // Any part of the file is no weights file either, and no reason to panic.
        for length in 0..bytes.len().min(64) {
            assert!(read_index(&bytes[..length]).is_err());
        }
    }
    let model = Model::esm2();
    let (what, hint) = refused(&model.at("config.json"));
    has(
        &what,
        &["config.json: this is no index of a sharded checkpoint: missing field `weight_map`"],
    );
    has(&hint, &["give the folder that holds the weights"]);
}

#[test]
fn a_missing_shard_is_named() {
    let model = Model::esm2();
    fs::remove_file(model.at("model.safetensors")).unwrap();
    let name = |n: usize| format!("model-0000{n}-of-00008.safetensors");
    let map: serde_json::Map<_, _> = model
        .tensors
        .iter()
        .enumerate()
        .map(|(i, t)| (t.name.clone(), name(i % 8 + 1).into()))
        .collect();
    let index = json!({"metadata": {}, "weight_map": map}).to_string();
    let model = model.beside("model.safetensors.index.json", index);
    let shard = |n: usize| {
        let tensors = model
            .tensors
            .iter()
            .enumerate()
            .filter(|(i, _)| i % 8 + 1 == n);
        let tensors: Vec<T> = tensors.map(|(_, t)| t.clone()).collect();
        write_safetensors(&model.at(&name(n)), &tensors);
    };
    (1..=8).for_each(shard);
    model.open();
    fs::remove_file(model.at(&name(3))).unwrap();
    let said = "model.safetensors.index.json: the index lists 8 files, \
                model-00003-of-00008.safetensors is not there";
    let (what, hint) = refused(&model.at("model.safetensors.index.json"));
    assert!(what.ends_with(said), "{what}");
    has(&hint, &["every file of a sharded model is needed"]);
    fs::remove_file(model.at(&name(5))).unwrap();
    let error = Checkpoint::open(model.path()).unwrap_err().to_string();
    has(
        &error,
        &["model-00003-of-00008.safetensors and 1 more are not there"],
    );
}

// Other models by name.

/// A folder with a config.json and tensors of ones.
fn published(config: Value, tensors: &[(&str, &[usize])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let tensors: Vec<T> = tensors
        .iter()
        .map(|(name, shape)| T::new(name, shape))
        .collect();
    write_safetensors(&dir.path().join("model.safetensors"), &tensors);
    dir
}

#[test]
fn other_models_are_named() {
    let bert = |rows: usize| -> (Value, Vec<(&'static str, Vec<usize>)>) {
        (
            json!({"model_type": "bert", "vocab_size": rows}),
            vec![
                ("bert.embeddings.word_embeddings.weight", vec![rows, 8]),
                ("bert.embeddings.LayerNorm.weight", vec![8]),
                (
                    "bert.encoder.layer.0.attention.self.query.weight",
                    vec![8, 8],
                ),
            ],
        )
    };
    let (protbert, protbert_tensors) = bert(30);
    let (plain, plain_tensors) = bert(30522);
    let (kmers, kmers_tensors) = bert(4101);
    let of = |list: &[(&'static str, &[usize])]| -> Vec<(&'static str, Vec<usize>)> {
        list.iter()
            .map(|(name, shape)| (*name, shape.to_vec()))
            .collect()
    };
    for (config, tensors, name) in [
        (protbert, protbert_tensors, "ProtBert"),
        (plain, plain_tensors, "plain BERT"),
        (kmers, kmers_tensors, "first DNABERT"),
        (
            json!({"model_type": "t5"}),
            of(&[
                ("shared.weight", &[128, 8]),
                ("encoder.block.0.layer.0.SelfAttention.q.weight", &[8, 8]),
            ]),
            "ProtT5",
        ),
        (
            json!({"model_type": "hyenadna"}),
            of(&[
                ("backbone.embeddings.word_embeddings.weight", &[16, 8]),
                ("backbone.layers.0.mixer.filter_fn.bias", &[8]),
            ]),
            "HyenaDNA",
        ),
        (
            json!({"model_type": "ESMplusplus"}),
            of(&[
                ("embed.weight", &[64, 8]),
                ("transformer.blocks.0.attn.layernorm_qkv.1.weight", &[24, 8]),
            ]),
            "ESM C",
        ),
        (
            json!({"model_type": "esm", "position_embedding_type": "absolute"}),
            of(&[
                ("esm.embeddings.word_embeddings.weight", &[4105, 8]),
                ("esm.encoder.layer.0.attention.self.query.weight", &[8, 8]),
                ("esm.encoder.emb_layer_norm_after.weight", &[8]),
            ]),
            "Nucleotide Transformer",
        ),
        (
            json!({"model_type": "gpt2"}),
            of(&[("transformer.h.0.attn.c_attn.weight", &[8, 24])]),
            "ProtGPT2",
        ),
    ] {
        let borrowed: Vec<(&str, &[usize])> = tensors
            .iter()
            .map(|(name, shape)| (*name, shape.as_slice()))
            .collect();
        let dir = published(config, &borrowed);
        let (what, hint) = refused(dir.path());
        has(&what, &["config.json: ", name]);
        has(&hint, &["give an ESM-2, DNABERT-S or DNABERT-2 model"]);
        // The tensors alone are enough.
        fs::remove_file(dir.path().join("config.json")).unwrap();
        let (what, _) = refused(dir.path());
        has(&what, &[name, "not computed here"]);
    }
    // An MSA Transformer and an ESM C, as fair-esm and EvolutionaryScale publish them.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.pt");
    for (tensor, name) in [
        (
            "encoder.sentence_encoder.layers.0.row_self_attention.layer.q_proj.weight",
            "MSA Transformer",
        ),
        ("transformer.blocks.0.attn.layernorm_qkv.1.weight", "ESM C"),
        ("decoder.layers.0.self_attn.bias_k", "ESM-1 of 2019"),
    ] {
        torch_save(&path, &dict([("model", state(&[T::new(tensor, &[8, 8])]))]));
        has(&refused(&path).0, &["model.pt: ", name]);
    }
}

#[test]
fn a_nucleotide_transformer_v2_is_named() {
    let narrow =
        |name: &str| name.contains("intermediate.dense.bias") || name.contains("output.dense.bias");
    let mut model = Model::esm2();
    model
        .tensors
        .retain(|t| !narrow(&t.name) || t.name.contains("attention.output"));
    for t in &mut model.tensors {
        if t.name.ends_with("intermediate.dense.weight") {
            *t = T::new(&t.name, &[256, 32]);
        }
    }
    let model = model.write();
    let (what, hint) = model.refused();
    has(
        &what,
        &["by its tensors this is a Nucleotide Transformer v2, which is not computed here"],
    );
    assert!(!hint.contains("config.json"), "{hint}");
    let model = model.set("add_bias_fnn", json!(false));
    has(
        &model.refused().0,
        &[
            "config.json: add_bias_fnn is false",
            "a Nucleotide Transformer v2",
        ],
    );
}

#[test]
fn an_esm1b_in_hugging_faces_names_is_named() {
    let with = || {
        let table = T::new("esm.embeddings.position_embeddings.weight", &[1026, 32]);
        let norm = ["weight", "bias"]
            .map(|part| T::new(&format!("esm.embeddings.layer_norm.{part}"), &[32]));
        Model::esm2().without("inv_freq").with([table]).with(norm)
    };
    let (what, _) = with().refused();
    has(&what, &["by its tensors this is an ESM-1b"]);
    let (what, _) = with()
        .set("position_embedding_type", json!("absolute"))
        .refused();
    has(
        &what,
        &[
            "only rotary is computed (ESM-1b and ESM-1v have absolute ones)",
            "an ESM-1b",
        ],
    );
}
