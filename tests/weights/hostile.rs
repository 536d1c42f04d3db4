//! Model files made to harm: small files that need much memory, text that controls a terminal,
//! duplicate names, numbers out of range, and files that exist but cannot be read.

#![cfg(unix)]

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

// Memory.

/// Runs the program under a limit of its address space that is too small for anything whose size a
/// file only promises. More memory would end the program by SIGABRT, or it would be killed.
fn in_300_mb(arguments: &[&str], file: &Path) -> Output {
    limited(300_000, arguments, file)
}

/// Runs the program under a limit in kilobytes, in which a mapped file counts entirely.
fn limited(kilobytes: u64, arguments: &[&str], file: &Path) -> Output {
    Command::new("sh")
        .args(["-c", &format!("ulimit -v {kilobytes}; exec \"$@\""), "sh"])
        .arg(env!("CARGO_BIN_EXE_seqstream"))
        .args(arguments)
        .arg(file)
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap()
}

#[track_caller]
fn refused_in_300_mb(arguments: &[&str], file: &Path, parts: &[&str]) {
    let output = in_300_mb(arguments, file);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(4), "{said}");
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines.len() == 2 && lines[1].starts_with("hint: "), "{said}");
    fit_for_a_terminal(lines[0]);
    has(lines[0], parts);
}

#[test]
fn a_small_pickle_takes_little_memory() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.bin");
    let name = path.to_str().unwrap().to_owned();
    let check = |pickle: &[u8], parts: &[&str]| {
        fs::write(&path, torch(pickle)).unwrap();
        refused_in_300_mb(&["inspect"], &path, &[&[name.as_str()], parts].concat());
    };
    // One name of a megabyte under 8000 pairs: 8 GB of copies.
    let long = [
        kept(&"n".repeat(1 << 20)),
        b"h\x00h\x01s".repeat(8000),
        b".".to_vec(),
    ]
    .concat();
    check(&long, &["tensor's name, nnnn", "1048576 bytes"]);
    // One tensor seven million times: 2.5 GB.
    let many = [
        kept("n"),
        b"(".to_vec(),
        b"h\x00h\x01".repeat(7 << 20),
        b"u.".to_vec(),
    ]
    .concat();
    check(&many, &["at its byte", "instructions"]);
    // Memo entries, marks, stack entries and values, each made by one byte.
    for instruction in [0x94, b'(', b'2', b'N', b')', b'}'] {
        let pickle = [vec![b'N'], vec![instruction; 30 << 20], vec![b'.']].concat();
        check(&pickle, &["at its byte 104", "instructions"]);
    }
    // The same number of one-element lists, nested in each other.
    let nested = [vec![b')'], vec![0x85; 30 << 20], vec![b'.']].concat();
    check(&nested, &["at its byte 104", "instructions"]);
}

#[test]
fn a_small_header_takes_little_memory() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.safetensors");
    let check = |header: &str, data: usize, parts: &[&str]| {
        fs::write(&path, safetensors(header, data)).unwrap();
        refused_in_300_mb(&["inspect"], &path, parts);
    };
    // A million tensors without values.
    let mut header = String::from("{");
    for i in 0..1_000_000 {
        write!(
            header,
            r#""{i}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}},"#
        )
        .unwrap();
    }
    header.pop();
    header.push('}');
    check(&header, 0, &["more than 65536 tensors", "at line 1 column"]);
    // A shape of 20 million sizes.
    let shape = format!("[{}1]", "1,".repeat(20_000_000));
    check(
        &one_tensor("a", "F32", &shape),
        4,
        &["more than 64 dimensions", "at line 1 column"],
    );
    // A name of 20 MB.
    let name = "n".repeat(20_000_000);
    check(
        &one_tensor(&name, "F32", "[1]"),
        4,
        &["20000000 bytes", "at line 1 column"],
    );
}

/// The end record of an archive may promise as many entries as the file has bytes.
#[test]
fn an_archive_that_promises_entries_takes_no_memory_for_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.bin");
    let length: u64 = 8 << 30; // a sparse file, of which almost nothing is stored
    let entries: u64 = 100_000_000;
    let start = length - 46 * entries;
    let mut file = fs::File::create(&path).unwrap();
    file.write_all(b"PK\x03\x04").unwrap();
    file.set_len(length).unwrap();
    file.seek(SeekFrom::Start(start)).unwrap();
    file.write_all(b"PK\x01\x02").unwrap();
    let mut end = Vec::new();
    end.extend(b"PK\x06\x06");
    end.extend(44u64.to_le_bytes());
    end.extend([45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    for n in [entries, entries, 46 * entries, start] {
        end.extend(n.to_le_bytes());
    }
    end.extend(b"PK\x06\x07\0\0\0\0");
    end.extend(length.to_le_bytes());
    end.extend([1, 0, 0, 0]);
    end.extend(b"PK\x05\x06\0\0\0\0");
    end.extend([0xff; 12]);
    end.extend([0, 0]);
    file.seek(SeekFrom::End(0)).unwrap();
    file.write_all(&end).unwrap();
    drop(file);
    let output = limited(9_500_000, &["inspect"], &path);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(4), "{said}");
    has(
        &said,
        &["m.bin", "gives itself 100000000 entries", "hint: "],
    );
}

#[test]
fn small_json_files_take_little_memory() {
    let dir = model();
    let at = |name: &str| dir.path().join(name);
    let empty_keys = |bytes: usize| format!(r#"{{"x":[{}0],"#, r#"{"":0},"#.repeat(bytes / 7));
    let config = fs::read_to_string(at("config.json")).unwrap();
    // Parts that are not needed are skipped ...
    fs::write(
        at("config.json"),
        config.replacen('{', &empty_keys(1_000_000), 1),
    )
    .unwrap();
    let output = in_300_mb(&["inspect"], dir.path());
    assert!(output.status.success());
    // ... and a longer file is not read at all.
    fs::write(
        at("config.json"),
        config.replacen('{', &empty_keys(63 << 20), 1),
    )
    .unwrap();
    refused_in_300_mb(
        &["inspect"],
        dir.path(),
        &["config.json", "1048576 are read"],
    );
    fs::write(at("config.json"), config).unwrap();

    fs::rename(at("model.safetensors"), at("a.safetensors")).unwrap();
    let index = at("model.safetensors.index.json");
    let mut map = String::from(r#"{"weight_map":{"#);
    for i in 0..400_000 {
        write!(map, r#""{i}":"b","#).unwrap();
    }
    map.push_str(r#""x":"b"}}"#);
    fs::write(&index, &map).unwrap();
    refused_in_300_mb(
        &["inspect"],
        dir.path(),
        &["index.json", "more than 65536 tensors"],
    );
    fs::write(&index, " ".repeat(9 << 20)).unwrap();
    refused_in_300_mb(
        &["inspect"],
        dir.path(),
        &["index.json", "9437184 bytes are too many"],
    );

    let tokenizer = at("t.json");
    fs::write(&tokenizer, format!("[{}0]", r#"{"":0},"#.repeat(2_000_000))).unwrap();
    let fasta = dir.path().join("x.fa");
    fs::write(&fasta, ">a\nACGT\n").unwrap();
    let name = tokenizer.to_str().unwrap();
    refused_in_300_mb(
        &["tokenize", "--model", name],
        &fasta,
        &["t.json", "more values"],
    );
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

// The text of messages.

#[test]
fn no_file_writes_on_the_terminal() {
    let name = HOSTILE;
    let long = "n".repeat(900);
    for name in [name, &long] {
        for (dtype, shape) in [
            ("F32", "[2]"),
            ("F32", "[18446744073709551615,2]"),
            ("U8", "[7]"),
        ] {
            malformed(&safetensors(&one_tensor(name, dtype, shape), 4));
        }
        let apart = one_tensor(name, "F32", "[1]").replace("[0,4]", "[4,8]");
        malformed(&safetensors(&apart, 8));
        let cut = malformed(&safetensors(&one_tensor(name, "F32", "[2]"), 4));
        assert!(!cut.contains(&"n".repeat(81)), "{cut}");
    }
    // Text that a parser quotes.
    let text = Value::from(format!("{HOSTILE}{}", "y".repeat(5_000_000))).to_string();
    let with = |at: &str| one_tensor("a", "F32", "[1]").replace(at, &text);
    has(
        &malformed(&safetensors(&with("[0,4]"), 4)),
        &["at line 1 column"],
    );
    has(
        &malformed(&safetensors(&with("[1]"), 4)),
        &["at line 1 column"],
    );

    // Pickles: the name of a global, of a tensor and of a storage.
    let huge = "g".repeat(31 << 20);
    for name in ["os\u{1b}[2J", huge.as_str()] {
        has(
            &malformed(&torch(format!("c{name}\nsystem\n.").as_bytes())),
            &[".system", "byte 0"],
        );
    }
    let pickle = |name: &str, key: &str, values: u8| {
        let parts = [
            b"\x80\x02}".to_vec(),
            string(name),
            tensor(key, values),
            b"s.".to_vec(),
        ];
        parts.concat()
    };
    has(
        &malformed(&torch(&pickle(HOSTILE, "0", 200))),
        &["beyond its storage"],
    );
    has(
        &malformed(&torch(&pickle(HOSTILE, HOSTILE, 1))),
        &["no entry"],
    );
    has(&malformed(&torch(&pickle("a", &huge, 1))), &["no entry"]);

    // Models.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.safetensors");
    fs::write(&path, safetensors(&one_tensor(HOSTILE, "F32", "[1]"), 4)).unwrap();
    has(
        &refused(&path),
        &["neither an ESM-2's", r"x\n\u{1b}[36;1mhint:"],
    );
    let dir = model();
    let at = |name: &str| dir.path().join(name);
    let bytes = fs::read(at("model.safetensors")).unwrap();
    let config: Value = serde_json::from_slice(&fs::read(at("config.json")).unwrap()).unwrap();
    for (key, value) in [
        ("model_type", json!(HOSTILE)),
        ("model_type", json!("m".repeat(900_000))),
        ("position_embedding_type", json!(HOSTILE)),
        ("position_embedding_type", json!(["p".repeat(900_000)])),
        ("hidden_size", json!(HOSTILE)),
        ("hidden_act", json!({HOSTILE: HOSTILE})),
        ("rope_scaling", json!({"type": "\u{9b}2J"})),
    ] {
        let mut config = config.clone();
        config[key] = value;
        fs::write(at("config.json"), config.to_string()).unwrap();
        has(&refused(dir.path()), &["config.json", key]);
    }
    fs::write(at("config.json"), config.to_string()).unwrap();
    // A tensor that the model does not have, then one of another shape.
    let rename = |from: &str, to: &str| {
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header = std::str::from_utf8(&bytes[8..8 + length]).unwrap();
        assert!(header.contains(from));
        let header = header.replacen(from, to, 1);
        let start = (header.len() as u64).to_le_bytes();
        let file = [&start[..], header.as_bytes(), &bytes[8 + length..]].concat();
        fs::write(at("model.safetensors"), file).unwrap();
    };
    let escaped = Value::from(HOSTILE).to_string();
    rename(r#""esm.encoder.layer.0.output.dense.bias""#, &escaped);
    has(&refused(dir.path()), &["missing"]);
    let first = |name: &str| {
        let name = Value::from(name);
        format!(r#"{{{name}:{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}},"#)
    };
    rename("{", &first(&format!("esm.{HOSTILE}")));
    has(
        &refused(dir.path()),
        &["no place in this model", r"esm.x\n\u{1b}[36;1m"],
    );
    // Beside the model it is no error, and a warning names it.
    rename("{", &first(HOSTILE));
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let warning = &checkpoint.warnings()[0];
    fit_for_a_terminal(warning);
    has(warning, &["not used", r"x\n\u{1b}[36;1m"]);
    rename("[16,64]", "[64,16]");
    has(
        &refused(dir.path()),
        &["has shape [64, 16], expected [16, 64]"],
    );

    // An index with hostile file names.
    fs::rename(at("model.safetensors"), at("a.safetensors")).unwrap();
    for file in [HOSTILE, &"f".repeat(300_000), "..", "\u{1b}/x"] {
        let index = json!({"weight_map": {HOSTILE: file}}).to_string();
        fs::write(at("model.safetensors.index.json"), index).unwrap();
        has(&refused(dir.path()), &[]);
    }
    fs::write(at("a.safetensors"), &bytes).unwrap();
    let index = json!({"weight_map": {HOSTILE: "a.safetensors"}}).to_string();
    fs::write(at("model.safetensors.index.json"), index).unwrap();
    has(&refused(dir.path()), &["missing, which the index has"]);
    fs::remove_file(at("model.safetensors.index.json")).unwrap();
    fs::write(at("\u{1b}[2J.safetensors"), &bytes).unwrap();
    has(
        &refused(dir.path()),
        &["several .safetensors files", r"\u{1b}[2J.safetensors"],
    );

    // A tokenizer.json.
    for text in [
        json!({HOSTILE: 1, "model": {"type": "BPE"}}),
        json!({"model": {"type": format!("{HOSTILE}{long}")}}),
        json!({"model": {"type": "BPE", "k".repeat(5_000_000): 1}, "pre_tokenizer": {"type": "Whitespace"}}),
        json!({"model": {"type": "BPE"}, "normalizer": {"type": "\u{9b}2J"}}),
    ] {
        let error = Tokenizer::from_json("t.json", text.to_string().as_bytes()).unwrap_err();
        fit_for_a_terminal(&error.to_string());
    }

    // Ids from a FASTA file.
    for id in [HOSTILE, &long] {
        let error = JobError::NonFinite {
            id: id.into(),
            record: 1,
            layer: 4,
            dimension: 0,
            value: f32::NAN,
            f16: false,
        };
        fit_for_a_terminal(&error.to_string());
        has(&error.to_string(), &["layer 4 gave NaN"]);
        assert!(!error.to_string().contains(&"n".repeat(81)));
        let error = OutputError::F16Overflow {
            id: id.into(),
            layer: 4,
            value: 1e6,
        };
        fit_for_a_terminal(&error.to_string());
        assert!(!error.to_string().contains(&"n".repeat(81)));
    }
}

#[test]
fn inspect_shows_no_name_as_it_is() {
    let dir = model();
    let path = dir.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header = std::str::from_utf8(&bytes[8..8 + length]).unwrap();
    // A name that is known by its prefix, and therefore ignored.
    let name = Value::from(format!("lm_head.{HOSTILE}{}", "n".repeat(500))).to_string();
    let more = format!(
        r#"{{{name}:{{"dtype":"U8","shape":[0,{}1],"data_offsets":[0,0]}},"#,
        "1,".repeat(40)
    );
    let header = header.replacen('{', &more, 1);
    let start = (header.len() as u64).to_le_bytes();
    fs::write(
        &path,
        [&start[..], header.as_bytes(), &bytes[8 + length..]].concat(),
    )
    .unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_seqstream"))
        .arg("inspect")
        .arg(dir.path())
        .output()
        .unwrap();
    assert!(output.status.success());
    let table = String::from_utf8(output.stdout).unwrap();
    let line = table.lines().find(|l| l.contains("lm_head")).unwrap();
    has(
        line,
        &[r"lm_head.x\n\u{1b}[36;1mhint:", "(42 sizes)", "(not used)"],
    );
    table.lines().for_each(fit_for_a_terminal);
    let shown = seqstream::weights::Summary::of(&Checkpoint::open(dir.path()).unwrap()).to_string();
    shown.lines().for_each(fit_for_a_terminal);
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
