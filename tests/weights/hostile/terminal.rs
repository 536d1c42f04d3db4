//! Text of a file that would control a terminal, in every message that repeats it.

use super::*;

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
