//! The program as a user runs it: outputs, messages, exit codes.

#![allow(clippy::unwrap_used)] // in helpers too, which clippy does not take for tests

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use seqstream::architecture::ModelConfig;
use seqstream::architecture::layout;
use seqstream::dtype::DType;
use seqstream::virnucpro::Classifier;
use seqstream::weights::Checkpoint;
use seqstream::weights::random::write_random;

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_weights-tools"))
        .args(args)
        .output()
        .unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Exit code, standard output, standard error.
fn outcome(args: &[&str]) -> (i32, String, String) {
    let output = run(args);
    let string = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code().unwrap(),
        string(output.stdout),
        string(output.stderr),
    )
}

fn model(config: ModelConfig) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_random(&config.into(), 3, DType::F32, dir.path()).unwrap();
    dir
}

fn small() -> ModelConfig {
    ModelConfig::esm2(2, 32, 4)
}

#[test]
fn random_makes_what_the_library_makes() {
    let reference = model(small());
    let dir = tempfile::tempdir().unwrap();
    let sizes = [
        "--layers", "2", "--hidden", "32", "--heads", "4", "--seed", "3",
    ];
    let args = [
        &["random", "--kind", "esm2", "--out", text(dir.path())],
        &sizes[..],
    ]
    .concat();
    let (code, stdout, stderr) = outcome(&args);
    assert_eq!((code, stdout.as_str()), (0, ""), "{stderr}");
    for file in ["model.safetensors", "config.json"] {
        assert_eq!(
            fs::read(dir.path().join(file)).unwrap(),
            fs::read(reference.path().join(file)).unwrap()
        );
    }
    let sharded = tempfile::tempdir().unwrap();
    let args = [
        "random",
        "--arch",
        "8m",
        "--dtype",
        "bf16",
        "--max-shard-size",
        "4MB",
        "--out",
        text(sharded.path()),
    ];
    assert_eq!(outcome(&args).0, 0);
    let checkpoint = Checkpoint::open(sharded.path()).unwrap();
    assert!(checkpoint.files().count() >= 4, "14.8 MB in files of 4 MB");
    for file in checkpoint.files() {
        let header = 20_000;
        assert!(
            fs::metadata(file).unwrap().len() <= 4_000_000 + header,
            "{}",
            file.display()
        );
    }
    assert_eq!(checkpoint.config(), &ModelConfig::preset("8M").unwrap());
}

#[test]
fn inspect_shows_architecture_and_tensors() {
    let dir = model(small());
    let (code, stdout, _) = outcome(&["inspect", text(dir.path())]);
    assert_eq!(code, 0);
    for part in [
        "ESM-2: 2 layers, width 32, 4 heads of 8",
        "encoder.layer.1.LayerNorm.bias",
        "[32, 32]",
    ] {
        assert!(stdout.contains(part), "no {part} in {stdout}");
    }
    let (code, stdout, _) = outcome(&["inspect", "--json", text(dir.path())]);
    assert_eq!(code, 0);
    let json: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(json["config"]["hidden"], 32);
    assert_eq!(
        json["tensors"].as_array().unwrap().len(),
        layout::expected(&small()).len()
    );
}

#[test]
fn convert_keeps_every_value_unless_told_otherwise() {
    let torch = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/torch/fair_esm.pt");
    let dnabert = model(ModelConfig::dnabert(2, 32, 4));
    let out = tempfile::tempdir().unwrap();
    for (name, source) in [("a", torch.as_path()), ("b", dnabert.path())] {
        let file = out.path().join(name).join("model.safetensors");
        let (code, stdout, stderr) = outcome(&["convert", text(source), "--out", text(&file)]);
        assert_eq!(code, 0, "{stderr}");
        assert!(stdout.contains("all values are exact"), "{stdout}");
        let (before, after) = (
            Checkpoint::open(source).unwrap(),
            Checkpoint::open(file.parent().unwrap()).unwrap(),
        );
        assert_eq!(before.config(), after.config());
        for e in layout::expected(before.config()) {
            let (x, y) = (
                before.tensor(&e.name).unwrap(),
                after.tensor(&e.name).unwrap(),
            );
            assert_eq!((x.bytes(), x.dtype()), (y.bytes(), y.dtype()), "{}", e.name);
        }
    }
    let tokenizer = |dir: &Path| fs::read(dir.join("tokenizer.json")).unwrap();
    assert_eq!(tokenizer(dnabert.path()), tokenizer(&out.path().join("b")));
}

/// A vocabulary with more tokens than ESM-2's, and a head of one's own.
#[test]
fn a_converted_model_still_opens() {
    let mut config = small();
    config.vocab = 40;
    let dir = model(config.clone());
    let path = dir.path().join("model.safetensors");
    // The last tensor gets a name outside the model.
    let bytes = fs::read(&path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header = String::from_utf8(bytes[8..8 + length].to_vec()).unwrap();
    let mut header: serde_json::Value = serde_json::from_str(&header).unwrap();
    let end = bytes.len() - 8 - length;
    header["regressor.bias"] =
        serde_json::json!({"dtype": "F32", "shape": [1], "data_offsets": [end, end + 4]});
    let header = header.to_string();
    let more = [
        &(header.len() as u64).to_le_bytes()[..],
        header.as_bytes(),
        &bytes[8 + length..],
        &[0; 4],
    ];
    fs::write(&path, more.concat()).unwrap();
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("new").join("model.safetensors");
    let args = ["convert", text(dir.path()), "--out", text(&file)];
    let (code, _, stderr) = outcome(&args);
    assert!(code == 4 && stderr.contains("has 40 tokens"), "{stderr}");
    let tokens = seqstream::sequence::tokenizer::esm::VOCABULARY.join("\n");
    fs::write(dir.path().join("vocab.txt"), &tokens).unwrap();
    let (code, _, stderr) = outcome(&args);
    assert_eq!(code, 0, "{stderr}");
    assert!(
        stderr.contains("left out: regressor.bias, which is no part of the model"),
        "{stderr}"
    );
    let copied = fs::read_to_string(out.path().join("new/vocab.txt")).unwrap();
    assert_eq!(copied, tokens);
    let converted = Checkpoint::open(file.parent().unwrap()).unwrap();
    assert_eq!(converted.config(), &config);
    assert_eq!(converted.warnings(), &[] as &[String]);
    for command in ["inspect", "verify"] {
        let (code, stdout, stderr) = outcome(&[command, text(dir.path())]);
        assert_eq!(code, 0);
        let said = format!("{stdout}{stderr}");
        assert!(
            said.contains("warning: a tensor beside the model is not used: regressor.bias [1]"),
            "{said}"
        );
    }
}

#[test]
fn convert_prints_the_error_it_introduces() {
    let dir = model(small());
    for (dtype, least, most) in [("f16", 1e-4, 4e-4), ("bf16", 1e-3, 3e-3)] {
        let out = tempfile::tempdir().unwrap();
        let file = out.path().join("model.safetensors");
        let (code, stdout, _) = outcome(&[
            "convert",
            text(dir.path()),
            "--dtype",
            dtype,
            "--out",
            text(&file),
        ]);
        assert_eq!(code, 0);
        let line = stdout.lines().find(|l| l.contains("all tensors")).unwrap();
        let printed: f64 = line.split_whitespace().last().unwrap().parse().unwrap();
        assert!((least..most).contains(&printed), "{dtype}: {printed}");

        let (before, after) = (
            Checkpoint::open(dir.path()).unwrap(),
            Checkpoint::open(&file).unwrap(),
        );
        let (mut error, mut norm) = (0.0, 0.0);
        for e in layout::expected(before.config()) {
            let (x, y) = (
                before.tensor(&e.name).unwrap().to_f32(),
                after.tensor(&e.name).unwrap().to_f32(),
            );
            if e.role == layout::TensorRole::InvFreq {
                assert_eq!(*x, *y, "rotary frequencies stay exact");
            }
            error += x
                .iter()
                .zip(y.iter())
                .map(|(x, y)| f64::from(x - y).powi(2))
                .sum::<f64>();
            norm += x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
        }
        assert!((f64::sqrt(error / norm) / printed - 1.0).abs() < 1e-3);
    }
}

/// Sets one value of `tensor` in the model's file.
fn set(dir: &Path, tensor: &str, index: usize, value: f32) {
    let path = dir.join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let tensors = seqstream::weights::read_safetensors_header(&bytes).unwrap();
    let range = tensors
        .into_iter()
        .find(|t| t.name == tensor)
        .unwrap()
        .place
        .unwrap();
    bytes[range.start + 4 * index..][..4].copy_from_slice(&value.to_le_bytes());
    fs::write(&path, bytes).unwrap();
}

#[test]
fn convert_refuses_values_beyond_f16() {
    let dir = model(small());
    set(dir.path(), "esm.encoder.layer.1.output.dense.bias", 7, 1e6);
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("model.safetensors");
    let args = [
        "convert",
        text(dir.path()),
        "--dtype",
        "f16",
        "--out",
        text(&file),
    ];
    let (code, _, stderr) = outcome(&args);
    assert_eq!(code, 4);
    assert!(
        stderr.contains("index 7 of tensor encoder.layer.1.output.dense.bias"),
        "{stderr}"
    );
    assert!(stderr.contains("hint:"), "{stderr}");
    assert!(
        !file.exists(),
        "nothing half-written is left under the final name"
    );
}

#[test]
fn convert_replaces_no_other_model() {
    let (one, other) = (model(small()), model(ModelConfig::esm2(1, 32, 4)));
    let into_other = other.path().join("new.safetensors");
    let (code, _, stderr) = outcome(&["convert", text(one.path()), "--out", text(&into_other)]);
    assert_eq!(code, 5);
    assert!(stderr.contains("config.json is already there"), "{stderr}");
    let itself = one.path().join("model.safetensors");
    let (code, _, stderr) = outcome(&["convert", text(one.path()), "--out", text(&itself)]);
    assert_eq!(code, 2);
    assert!(stderr.contains("is the file to be converted"), "{stderr}");
}

#[test]
fn verify_finds_values_that_are_not_finite() {
    let dir = model(small());
    let (code, stdout, _) = outcome(&["verify", text(dir.path())]);
    assert_eq!(code, 0);
    assert!(
        stdout.contains(&Checkpoint::open(dir.path()).unwrap().hash().unwrap()),
        "{stdout}"
    );
    set(
        dir.path(),
        "esm.encoder.layer.0.intermediate.dense.weight",
        1234,
        f32::NAN,
    );
    set(
        dir.path(),
        "esm.encoder.layer.0.intermediate.dense.weight",
        2000,
        f32::INFINITY,
    );
    let (code, _, stderr) = outcome(&["verify", text(dir.path())]);
    assert_eq!(code, 4);
    let expected = "esm.encoder.layer.0.intermediate.dense.weight has 2 values that are not finite, the first NaN at index 1234";
    assert!(stderr.contains(expected), "{stderr}");
}

#[test]
fn errors_have_their_codes_and_remedies() {
    let dir = tempfile::tempdir().unwrap();
    let place = text(dir.path());
    for (args, expected) in [
        (&["inspect", place][..], 4),
        (&["verify", "/nowhere/at/all"], 4),
        (&["random", "--arch", "9M", "--out", place], 2),
        (
            &[
                "random", "--kind", "esm2", "--layers", "1", "--hidden", "33", "--heads", "2",
                "--out", place,
            ],
            2,
        ),
        (&["random", "--arch", "8M", "--out", "/dev/null/x"], 5),
        (&["convert", place, "--out", "model.bin"], 4),
        (&["frobnicate"], 2),
    ] {
        let (code, stdout, stderr) = outcome(args);
        assert_eq!(code, expected, "{args:?}: {stderr}");
        assert_eq!(stdout, "");
        assert!(stderr.starts_with("error: "), "{stderr}");
    }
}

/// The model's files, by name.
fn contents(dir: &Path) -> std::collections::BTreeMap<std::ffi::OsString, Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap().map(Result::unwrap);
    entries
        .map(|entry| (entry.file_name(), fs::read(entry.path()).unwrap()))
        .collect()
}

#[test]
fn random_replaces_a_model_only_if_told_to() {
    let random = |dir: &Path, more: &[&str]| {
        let sizes = ["--layers", "1", "--hidden", "32", "--heads", "4"];
        let args = ["random", "--kind", "esm2", "--out", text(dir)];
        outcome(&[&args[..], &sizes[..], more].concat())
    };
    // Each file of a model is one that stands there.
    for file in [
        "model.safetensors",
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
        "esm2.pt",
        "config.json",
        "tokenizer.json",
    ] {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("notes.txt"), "mine").unwrap();
        fs::write(dir.path().join(file), "precious").unwrap();
        let before = contents(dir.path());
        let (code, _, stderr) = random(dir.path(), &[]);
        assert_eq!(code, 5, "{file}: {stderr}");
        assert!(
            stderr.contains(&format!("{file} stands there already")) && stderr.contains("--force"),
            "{stderr}"
        );
        assert_eq!(contents(dir.path()), before);
    }
    let dir = model(small());
    let (code, _, stderr) = random(dir.path(), &["--force"]);
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(Checkpoint::open(dir.path()).unwrap().config().layers, 1);
}

#[test]
fn convert_replaces_a_file_only_if_told_to() {
    let (one, other) = (model(small()), model(ModelConfig::esm2(1, 32, 4)));
    let file = other.path().join("model.safetensors");
    let before = contents(other.path());
    let convert = |more: &[&str]| {
        let args = ["convert", text(one.path()), "--out", text(&file)];
        outcome(&[&args[..], more].concat())
    };
    let (code, _, stderr) = convert(&[]);
    assert_eq!(code, 5, "{stderr}");
    assert!(
        stderr.contains("model.safetensors stands there already") && stderr.contains("--force"),
        "{stderr}"
    );
    assert_eq!(contents(other.path()), before);
    let (code, _, stderr) = convert(&["--force"]);
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(Checkpoint::open(other.path()).unwrap().config().layers, 2);
}

#[cfg(unix)]
#[test]
fn convert_replaces_no_file_that_it_cannot_read() {
    let one = model(small());
    let out = tempfile::tempdir().unwrap();
    let lost = out.path().join("config.json");
    std::os::unix::fs::symlink("/nonexistent/blob", &lost).unwrap();
    let file = out.path().join("model.safetensors");
    let (code, _, stderr) = outcome(&["convert", text(one.path()), "--out", text(&file)]);
    assert_eq!(code, 4, "{stderr}");
    assert!(
        stderr.contains("config.json") && stderr.contains("where nothing is"),
        "{stderr}"
    );
    assert!(fs::symlink_metadata(&lost).unwrap().is_symlink() && !file.exists());
}

#[test]
fn verify_finds_a_byte_that_was_flipped_in_an_archive() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/torch/fair_esm.pt");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fair_esm.pt");
    let mut bytes = fs::read(golden).unwrap();
    fs::write(&path, &bytes).unwrap();
    let (code, stdout, stderr) = outcome(&["verify", text(&path)]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("checksums ok: "), "{stdout}");

    let tensors = seqstream::weights::read_torch_index(&bytes)
        .unwrap()
        .tensors;
    for tensor in &tensors {
        // Layers of different rotary frequencies are refused before any checksum is compared.
        if tensor.name.ends_with("inv_freq") {
            continue;
        }
        // The lowest bit of a mantissa: as finite as before.
        let at = tensor.place.clone().unwrap().start;
        bytes[at] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let (code, stdout, stderr) = outcome(&["verify", text(&path)]);
        assert_eq!(code, 4, "{}: {stdout}", tensor.name);
        assert!(
            stderr.contains(&format!("tensor {},", tensor.name)) && stderr.contains("checksum"),
            "{stderr}"
        );
        bytes[at] ^= 1;
    }
}

/// Standard output that is full is an error with its code; a reader that has gone is no failure.
#[cfg(target_os = "linux")]
#[test]
fn standard_output_that_fails_is_no_panic() {
    use std::process::Stdio;
    let model = model(small());
    let out = tempfile::tempdir().unwrap();
    let converted = out.path().join("model.safetensors");
    let verify = ["verify", text(model.path())];
    let convert = ["convert", text(model.path()), "--out", text(&converted)];
    for args in [&verify[..], &convert[..]] {
        let run = |stdout: Stdio| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_weights-tools"));
            command.args(args).stdout(stdout).output().unwrap()
        };
        let full = std::fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .unwrap();
        let output = run(full.into());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(5), "{args:?}: {said}");
        assert!(said.contains("standard output cannot be written"), "{said}");
        let _ = std::fs::remove_file(&converted);
        let _ = std::fs::remove_file(out.path().join("config.json"));
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = run(writer.into());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{args:?}: {said}");
    }
}

#[test]
fn models_are_taken_by_their_names_from_the_cache() {
    let commit = "c731040fcd8d73dceaa04b0a8e6329b345b0f5df";
    let cache = tempfile::tempdir().unwrap();
    let folder = cache.path().join("models--facebook--esm2_t6_8M_UR50D");
    let snapshot = folder.join("snapshots").join(commit);
    write_random(&small().into(), 3, DType::F32, &snapshot).unwrap();
    fs::create_dir(folder.join("refs")).unwrap();
    fs::write(folder.join("refs/main"), commit).unwrap();
    let out = cache.path().join("out/model.safetensors");
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weights-tools"));
        command.args(args).env("HF_HUB_CACHE", cache.path());
        // No request may leave this machine.
        command
            .env("HF_HUB_OFFLINE", "1")
            .env("HF_ENDPOINT", "http://127.0.0.1:9");
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (
            output.status.code(),
            text(output.stdout),
            text(output.stderr),
        )
    };
    for args in [
        &["inspect", "esm2_8m"][..],
        &["verify", "facebook/esm2_t6_8M_UR50D"],
        &["convert", "esm2_t6_8M_UR50D@main", "--out", text(&out)],
    ] {
        let (code, _, stderr) = run(args);
        assert_eq!(code, Some(0), "{args:?}: {stderr}");
    }
    let hash = |path: &Path| Checkpoint::open(path).unwrap().hash().unwrap();
    let verified = run(&["verify", "esm2_8m"]).1;
    assert!(verified.contains(&hash(&snapshot)), "{verified}");
    let (code, _, stderr) = run(&["verify", "esm2_35m"]);
    assert_eq!(code, Some(4), "{stderr}");
    assert!(
        stderr.contains("HF_HUB_OFFLINE forbids to download it"),
        "{stderr}"
    );
    assert!(
        stderr.contains("hint: download facebook/esm2_t12_35M_UR50D into the same cache"),
        "{stderr}"
    );
}

#[test]
fn convert_turns_every_layout_of_a_classifier_into_safetensors() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/classifier");
    let out = tempfile::tempdir().unwrap();
    let wanted = Classifier::open(&golden.join("classifier.safetensors")).unwrap();
    let tensors = |classifier: &Classifier| -> Vec<_> {
        let tensors = classifier.tensors();
        tensors.map(|(n, s, v)| (n, s, v.to_vec())).collect()
    };
    for name in [
        "module.pth",
        "state_dict.pth",
        "checkpoint.pth",
        "classifier.safetensors",
    ] {
        let file = out.path().join(name).join("c.safetensors");
        let source = golden.join(name);
        let (code, stdout, stderr) = outcome(&["convert", text(&source), "--out", text(&file)]);
        assert_eq!(code, 0, "{stderr}");
        assert!(
            stdout.contains("c.safetensors: 8 tensors of a classifier of 12 values"),
            "{stdout}"
        );
        let found = Classifier::open(&file).unwrap();
        assert_eq!(tensors(&found), tensors(&wanted), "{name}");
        // A file is replaced only where that is asked for, and a format is not chosen.
        let again = ["convert", text(&source), "--out", text(&file)];
        let (code, _, stderr) = outcome(&again);
        assert!(
            code == 5 && stderr.contains("stands there already"),
            "{stderr}"
        );
        assert_eq!(outcome(&[&again[..], &["--force"]].concat()).0, 0);
        let (code, _, stderr) = outcome(&[&again[..], &["--force", "--dtype", "f16"]].concat());
        assert!(code == 2 && stderr.contains("stay in f32"), "{stderr}");
    }
    let three = out.path().join("foreign.safetensors");
    let foreign = golden.join("foreign.pth");
    let (code, _, stderr) = outcome(&["convert", text(&foreign), "--out", text(&three)]);
    assert_eq!(code, 4);
    assert!(stderr.contains("asks for posix.system"), "{stderr}");
}
