//! Tests of `seqstream embed` and its environment, run from outside as a program.

use crate::support::cli::*;
use seqstream::architecture::ModelConfig;
use std::process::Stdio;

#[test]
fn one_command_gives_rows_ids_and_a_manifest() {
    let place = Place::new(50);
    let summary = place.embed_ok("out", "");
    assert_eq!(
        (&summary["complete"], &summary["sequences"]),
        (&true.into(), &50.into())
    );
    let files = tree(&place.path("out"));
    let ids: Vec<u8> = (0..4)
        .flat_map(|b| files[&format!("shard-00000{b}/ids.txt")].clone())
        .collect();
    let expected: String = (0..50).map(|i| format!("protein{i}\n")).collect();
    assert_eq!(String::from_utf8(ids).unwrap(), expected);
    assert_eq!(files["shard-000003/layer_2.npy"].len(), 128 + 2 * 32 * 4);
    let manifest: serde_json::Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
    assert_eq!(manifest["records"], 50);
    assert_eq!(manifest["tokens"], summary["tokens"]);
    assert_eq!(manifest["job"]["pool"], "mean");
    assert_eq!(manifest["job"]["layers"], serde_json::json!([2]));
    assert_eq!(manifest["job"]["inputs"][0]["name"], "in.fa");
    let input = std::fs::read(place.path("in.fa")).unwrap();
    assert_eq!(
        manifest["job"]["inputs"][0]["blake3"],
        blake3::hash(&input).to_hex().as_str()
    );
    assert_eq!(manifest["shards"].as_array().unwrap().len(), 4);
}

#[test]
fn the_bytes_are_the_same_however_it_runs() {
    jobs::the_bytes_are_the_same_however_it_runs(&Place::new(40));
}

#[test]
fn shares_merge_to_the_whole() {
    jobs::shares_merge_to_the_whole(&Place::new(50));
}

#[test]
fn resume_refuses_what_is_not_the_same_job() {
    let place = Place::new(20);
    place.embed_ok("out", "");
    let before = tree(&place.path("out"));
    place.embed_fails("out", "", 6, &["already holds a job", "--resume"]);
    place.embed_fails(
        "out",
        "--resume --pool cls",
        6,
        &["pool was \"mean\", now \"cls\""],
    );
    place.embed_fails(
        "out",
        "--resume --layers 1",
        6,
        &["layers was [2], now [1]"],
    );
    place.embed_fails(
        "out",
        "--resume --share 1/2",
        6,
        &["share was \"1/1\", now \"1/2\""],
    );
    place.model("other", ModelConfig::esm2(2, 32, 4), 2);
    assert_eq!(tree(&place.path("out")), before);
    std::fs::rename(place.path("model"), place.path("first")).unwrap();
    std::fs::rename(place.path("other"), place.path("model")).unwrap();
    place.embed_fails("out", "--resume", 6, &["model.blake3 was"]);
    std::fs::rename(place.path("model"), place.path("other")).unwrap();
    std::fs::rename(place.path("first"), place.path("model")).unwrap();
    let mut text = fasta(20);
    text.push_str(">more\nMKV\n");
    std::fs::write(place.path("in.fa"), text).unwrap();
    place.embed_fails("out", "--resume", 6, &["inputs.1.blake3 was"]);
    assert_eq!(tree(&place.path("out")), before);
}

#[test]
fn what_is_wrong_has_its_code_and_its_place() {
    let place = Place::new(5);
    place.embed_fails("out", "--layers 3", 2, &["no layer 3", "from 0 to 2"]);
    // This uses whatever driver this machine has. The reason depends on the build: see
    // `cuda_program.rs`.
    let mut nowhere = place.embed("out", "--device cuda");
    nowhere.env("SEQSTREAM_LIBCUDA", "/nowhere/libcuda.so.1");
    fails(nowhere, 7, &["--device cuda: ", "hint: "]);
    place.embed_fails("out", "--dtype f16", 2, &["computes in f32"]);
    place.embed_fails(
        "out",
        "--per-token --max-length 5 --long window",
        2,
        &["--per-token"],
    );
    place.embed_fails("model", "", 6, &["config.json"]);
    place.embed_fails("in.fa/out", "", 5, &["in.fa/out"]);
    std::fs::write(place.path("in.fa"), ">a\nMKV\n>empty\n>b\nMKV\n").unwrap();
    place.embed_fails(
        "out",
        "",
        3,
        &["in.fa, record 2 ('empty'), line 3", "empty"],
    );
    std::fs::write(place.path("in.fa"), ">a\nMKV\n>b\nMkV\n").unwrap();
    place.embed_fails(
        "out",
        "--strict",
        3,
        &["in.fa, record 2 ('b'), line 4", "lower-case"],
    );
    std::fs::write(place.path("in.fa"), ">a\nMKV\n>b\nMKVMKV\n").unwrap();
    place.embed_fails(
        "long",
        "--max-length 3 --long error",
        3,
        &["record 2 ('b')", "6 tokens", "allows 3"],
    );
    std::fs::write(place.path("model/model.safetensors"), "no").unwrap();
    place.embed_fails("out", "", 4, &["model.safetensors"]);
    assert!(
        !place.path("out").exists(),
        "nothing is begun before all is checked"
    );
}

#[test]
fn windows_are_averaged_by_their_residues() {
    jobs::windows_are_averaged_by_their_residues(&Place::new(0));
}

#[test]
fn a_pipe_is_an_input_too() {
    jobs::a_pipe_is_an_input_too(&Place::new(40));
}

#[test]
fn standard_output_is_data_and_standard_error_is_not_a_terminal() {
    let place = Place::new(5);
    let output = place.embed("out", "").output().unwrap();
    assert!(output.stdout.is_empty());
    let text = stderr(&output);
    assert!(
        text.contains("complete: 5 sequences in out; 1 shard computed"),
        "{text}"
    );
    assert!(
        text.contains("tokens/s") && text.contains("of the time computing"),
        "{text}"
    );
    assert!(!text.contains('\x1b'), "{text:?}");
    assert_eq!(stderr(&place.embed("quiet", "-q").output().unwrap()), "");
    let error = stderr(&place.embed("out", "--color always").output().unwrap());
    assert!(error.contains("\x1b[31;1merror:\x1b[0m"), "{error:?}");
}

#[test]
fn a_reader_that_has_had_enough_is_no_failure() {
    let place = Place::new(2000);
    let mut command = seqstream();
    command
        .current_dir(place.path(""))
        .args(["tokenize", "in.fa", "-m", "model"]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        (output.status.code(), stderr(&output).as_str()),
        (Some(0), "")
    );
}

#[test]
fn token_ids_as_json_lines() {
    let place = Place::new(0);
    std::fs::write(place.path("in.fa"), ">a b\nMKV\n>c\nmj*\n").unwrap();
    let ids = |options: &[&str]| {
        let mut command = seqstream();
        command
            .current_dir(place.path(""))
            .args(["tokenize", "in.fa", "-m", "model"])
            .args(options);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(
        ids(&[]),
        "{\"id\":\"a\",\"ids\":[0,20,15,7,2]}\n{\"id\":\"c\",\"ids\":[0,20,3,2]}\n"
    );
    assert_eq!(ids(&["--clean", "off"]).lines().count(), 2);
}

#[test]
fn inspect_doctor_completions_and_help() {
    let place = Place::new(0);
    let said = |args: &[&str]| {
        let output = seqstream()
            .current_dir(place.path(""))
            .args(args)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let text = said(&["inspect", "model"]);
    assert!(
        text.contains("ESM-2, 2 layers, width 32, 4 heads of 8"),
        "{text}"
    );
    assert!(
        text.contains("encoder.layer.1.attention.self.query.weight"),
        "{text}"
    );
    let value: serde_json::Value =
        serde_json::from_str(&said(&["inspect", "model", "--json"])).unwrap();
    assert_eq!(value["model"]["hidden"], 32);
    assert!(said(&["doctor"]).contains("--device cuda"));
    let value: serde_json::Value = serde_json::from_str(&said(&["doctor", "--json"])).unwrap();
    assert_eq!(value["devices"][0]["device"], "cpu");
    for shell in ["bash", "zsh", "fish"] {
        assert!(said(&["completions", shell]).contains("seqstream"));
    }
    let help = said(&["embed", "--help"]);
    assert!(
        help.contains("Examples:")
            && help.contains("6  resume, merge, export, report or algorithm table refused"),
        "{help}"
    );
    assert_eq!(
        seqstream().arg("--no-such-option").status().unwrap().code(),
        Some(2)
    );
}

#[test]
fn a_bench_without_a_workload_is_a_usage_error() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = seqstream()
        .args(["bench", "--model"])
        .arg(root.join("examples/tiny-esm2"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("--lengths"), "{}", stderr(&output));
}

/// A path on Linux is bytes. In JSON, bytes that are not UTF-8 are replaced.
#[cfg(target_os = "linux")]
#[test]
fn a_model_whose_path_is_not_text_is_inspected() {
    use std::os::unix::ffi::OsStrExt;
    let place = Place::new(0);
    let name = std::ffi::OsStr::from_bytes(b"m\xff");
    std::fs::rename(place.path("model"), place.path("").join(name)).unwrap();
    for (options, says) in [
        (&[] as &[&str], "ESM-2, 2 layers"),
        (&["--json"], "\"file\":\"m\u{fffd}/model.safetensors\""),
    ] {
        let mut command = seqstream();
        command.current_dir(place.path("")).arg("inspect").arg(name);
        let output = command.args(options).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains(says), "{text}");
    }
}

#[test]
fn a_bench_prints_its_report_as_a_table_or_as_json() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let said = |json: &[&str]| {
        let mut command = seqstream();
        command
            .current_dir(root)
            .args(["bench", "--model", "examples/tiny-esm2"]);
        command.args(["--lengths", "12", "--fasta", "examples/proteins.fasta"]);
        command
            .args(["--tokens", "100", "--rounds", "3"])
            .args(json);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let table = said(&[]);
    let lines: Vec<&str> = table.lines().collect();
    assert!(
        lines.len() == 3
            && lines[0].starts_with("ESM-2 4x48, ")
            && lines[1].starts_with("length 12 ")
            && lines[2].starts_with("proteins.fasta ")
            && lines[2].ends_with(" tokens/s"),
        "{table}"
    );
    let value: serde_json::Value = serde_json::from_str(&said(&["--json"])).unwrap();
    let keys: Vec<&String> = value.as_object().unwrap().keys().collect();
    assert_eq!(
        keys,
        ["model", "place", "simd", "token_budget", "workloads"]
    );
    let workload = &value["workloads"][0];
    let keys: Vec<&String> = workload.as_object().unwrap().keys().collect();
    let right = [
        "workload",
        "tokens",
        "batches",
        "tokens_per_second",
        "rounds",
    ];
    assert_eq!(keys, right);
    assert_eq!(
        (&workload["tokens"], &workload["batches"]),
        (&108.into(), &1.into())
    );
    assert_eq!(workload["rounds"].as_array().unwrap().len(), 3);
}

#[test]
fn dnabert_reads_its_own_tokenizer() {
    jobs::dnabert_reads_its_own_tokenizer(&Place::new(0));
}
