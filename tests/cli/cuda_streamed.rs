//! `--weights` and `--plan` of `embed` and `bench` on simulated CUDA devices.
#![cfg(target_os = "linux")]

use std::fs::File;
use std::path::Path;
use std::process::Command;

use crate::support::cli::{Place, fails, stderr, tree};
use crate::support::cuda;
use crate::support::cuda::real::{absent, not_run, wants_real};
use seqstream::architecture::{ModelConfig, config_json, layout};
use seqstream::backend::cuda::kernels;
use seqstream::dtype::DType;

/// Returns a place with a model of this many layers, whose jobs compute on simulated devices; `None`
/// in a build without kernels.
fn place(sequences: usize, layers: usize, devices: u32) -> Option<Place> {
    if wants_real() {
        not_run("this test is of the simulated driver");
        return None;
    }
    if kernels::FATBINS.is_empty() {
        absent("this build has no kernels (no nvcc)");
        return None;
    }
    let place = Place::new(sequences).on_cuda(&cuda::library(), devices);
    std::fs::remove_dir_all(place.path("model")).unwrap();
    place.model("model", ModelConfig::esm2(layers, 32, 4), 1);
    Some(place)
}

/// Runs a command, which must succeed; returns its standard output and standard error.
#[track_caller]
fn ok(mut command: Command) -> (String, String) {
    let output = command.output().unwrap();
    let said = stderr(&output);
    assert!(output.status.success(), "{said}");
    (String::from_utf8(output.stdout).unwrap(), said)
}

fn bench(place: &Place, options: &str) -> Command {
    let mut command = place.command(env!("CARGO_BIN_EXE_seqstream"));
    command.args(["bench", "--model", "model", "--device", "cuda:0"]);
    command.args(["--tokens", "300", "--rounds", "1", "--lengths", "40"]);
    command.args(options.split_whitespace());
    command
}

#[test]
fn a_streamed_job_writes_the_bytes_of_a_resident_one() {
    let Some(place) = place(20, 5, 3) else {
        return;
    };
    for (name, wanted) in [
        ("last", "--per-token --layers=0,-1"),
        ("middle", "--layers 4 --pool cls"),
    ] {
        let resident = format!("{name}-resident");
        ok(place.embed(
            &resident,
            &format!("{wanted} --weights resident --device cuda:0"),
        ));
        let want = tree(&place.path(&resident));
        for (out, options) in [
            (
                "two",
                "--weights streamed:2 --device cuda:1 --token-budget 300",
            ),
            ("three", "--weights streamed:3 --token-budget 200"),
            (
                "usual",
                "--weights streamed --device cuda:0,2 --token-budget 150",
            ),
            ("off", "--weights streamed:2 --streams off --device cuda:0"),
            ("many", "--weights streamed:900 --device cuda:0"),
        ] {
            let out = format!("{name}-{out}");
            ok(place.embed(&out, &format!("{wanted} {options}")));
            assert_eq!(tree(&place.path(&out)), want, "{out}: {options}");
        }
    }
}

#[test]
fn a_streamed_job_whose_device_fails_keeps_its_shards() {
    let Some(place) = place(40, 5, 2) else {
        return;
    };
    let options = "--weights streamed:2 --token-budget 400";
    ok(place.embed("whole", options));
    let want = tree(&place.path("whole"));
    for (devices, fault) in [
        ("cuda:0", "cuMemcpyHtoDAsync_v2#40:719"),
        ("cuda", "cuMemcpyHtoDAsync_v2#50:719"),
        ("cuda", "cuLaunchKernel#150:700:sticky"),
        ("cuda", "cuStreamWaitEvent#60:999"),
    ] {
        let options = format!("{options} --device {devices}");
        let mut command = place.embed("failed", &options);
        command.env("SEQSTREAM_SIM_FAULT", fault);
        fails(command, 8, &["error: ", "device ", "--resume"]);
        assert!(!place.path("failed/manifest.json").exists(), "{fault}");
        ok(place.embed("failed", &format!("{options} --resume")));
        assert_eq!(tree(&place.path("failed")), want, "{fault}");
        std::fs::remove_dir_all(place.path("failed")).unwrap();
    }
}

#[test]
fn a_card_that_is_too_small_streams_and_says_so_in_one_line() {
    let Some(place) = place(4, 24, 1) else {
        return;
    };
    ok(place.embed("resident", "--token-budget 128"));
    let (json, said) = ok(place.embed("none", "--token-budget 128 --plan --json"));
    assert!(!said.contains("streamed"), "{said}");
    let plan: serde_json::Value = serde_json::from_str(&json).unwrap();
    let plan = &plan["devices"][0];
    let bytes = |key: &str| plan[key].as_u64().unwrap();
    assert_eq!((&plan["streamed"], bytes("slots")), (&false.into(), 24));
    let memory = bytes("weight_bytes") + bytes("pass_bytes") + bytes("reserved_bytes")
        - 12 * bytes("layer_bytes");
    let small = |out: &str, options: &str| {
        let mut command = place.embed(out, &format!("--token-budget 128 {options}"));
        command.env("SEQSTREAM_SIM_MEMORY", memory.to_string());
        command
    };
    let (_, said) = ok(small("auto", ""));
    let lines = said.lines().filter(|line| line.contains("streamed"));
    let [line] = lines.collect::<Vec<_>>()[..] else {
        panic!("not one line: {said}");
    };
    assert!(line.starts_with("device 0: the weights ("), "{line}");
    assert!(
        line.ends_with("so layers are streamed through 3 slots"),
        "{line}"
    );
    let (resident, auto) = (place.path("resident"), place.path("auto"));
    assert_eq!(tree(&resident), tree(&auto));
    let (_, said) = ok(small("verbose", "-v"));
    assert!(
        said.contains("plan for device 0 (Simulated H100): 24 layers of "),
        "{said}"
    );
    fails(
        small("refused", "--weights resident"),
        8,
        &[
            "MiB free, and the model needs ",
            "hint: use --weights streamed, or",
        ],
    );
    fails(
        small("refused", "--weights streamed:23"),
        8,
        &[
            "23 slots for layers of ",
            "hint: use --weights streamed:2, or",
        ],
    );
    assert!(!place.path("refused").exists());
}

#[test]
fn a_plan_alone_computes_and_writes_nothing() {
    let Some(place) = place(3, 7, 2) else {
        return;
    };
    for command in [
        place.embed("out", "--plan --weights streamed:2"),
        bench(&place, "--plan --weights streamed:2"),
    ] {
        let (plan, said) = ok(command);
        assert!(
            plan.starts_with("plan for device 0 (Simulated H100): 7 layers of "),
            "{plan}"
        );
        for part in [
            "are streamed through 2 slots, as asked",
            "  memory: of ",
            "  tokens per pass: ",
            "  per layer, estimated: ",
            " bounds the job; all hides from ",
            "  one more slot: takes ",
            ": assumed for compute capability 9.0, 4 multiprocessors, f16",
        ] {
            assert!(plan.contains(part), "{part}: {plan}");
        }
        assert!(!said.contains("tokens/s"), "{said}");
    }
    assert!(!place.path("out").exists());
    // One plan per device.
    let (json, _) = ok(place.embed("out", "--plan --json"));
    let plan: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(plan["devices"].as_array().unwrap().len(), 2);
    assert_eq!(plan["devices"][1]["device"], 1);
    // The directory of a job that stands there is left alone.
    ok(place.embed("out", ""));
    let before = tree(&place.path("out"));
    ok(place.embed("out", "--plan"));
    assert_eq!(tree(&place.path("out")), before);
}

#[test]
fn bench_measures_streamed_layers() {
    let Some(place) = place(0, 7, 1) else {
        return;
    };
    let (text, said) = ok(bench(&place, "--weights streamed:2 -v"));
    assert!(
        text.contains(", layers streamed through 2 slots\n"),
        "{text}"
    );
    assert!(text.contains("% of the products alone"), "{text}");
    assert!(said.contains("plan for device 0"), "{said}");
    let (json, _) = ok(bench(&place, "--weights streamed:2 --json"));
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(report["plan"][0]["slots"], 2);
    assert!(
        report["workloads"][0]["tokens_per_second"]
            .as_f64()
            .unwrap()
            > 0.0
    );
    let (text, _) = ok(bench(&place, "--weights resident"));
    assert!(!text.contains("streamed"), "{text}");
    let refused = bench(&place, "--weights streamed --cold");
    fails(refused, 2, &["--cold measures", "--weights resident"]);
}

#[test]
fn wrong_weights_are_refused_before_anything_runs() {
    let place = Place::new(3);
    for (options, says) in [
        ("--weights streamed:0", "streaming needs at least 2 slots"),
        ("--weights streamed:1", "streaming needs at least 2 slots"),
        ("--weights streamed:x", "write a number of slots"),
        ("--weights paged", "write auto, resident, streamed"),
        (
            "--weights streamed --device cpu",
            "--weights is for CUDA devices",
        ),
        ("--weights resident", "--weights is for CUDA devices"),
        ("--plan", "--plan is for CUDA devices"),
    ] {
        let bench = format!("bench --model model --lengths 9 {options}");
        let mut bench_command = place.command(env!("CARGO_BIN_EXE_seqstream"));
        bench_command.args(bench.split_whitespace());
        for mut command in [place.embed("out", options), bench_command] {
            let output = command.output().unwrap();
            let said = stderr(&output);
            assert_eq!(output.status.code(), Some(2), "{options}: {said}");
            assert!(said.contains(says), "{options}: {said}");
            assert!(!place.path("out").exists());
        }
    }
}

/// Writes a model of these sizes in f16 whose values are all zero, as a sparse file that takes no
/// space on the disk.
fn hollow_model(config: &ModelConfig, dir: &Path) {
    std::fs::create_dir_all(dir).unwrap();
    let (mut header, mut end) = (serde_json::Map::new(), 0u64);
    for tensor in layout::expected(config) {
        let start = end;
        end += 2 * tensor.shape.iter().map(|n| *n as u64).product::<u64>();
        let entry = serde_json::json!({
            "dtype": "F16", "shape": tensor.shape, "data_offsets": [start, end]
        });
        header.insert(format!("esm.{}", tensor.name), entry);
    }
    let mut header = serde_json::to_vec(&header).unwrap();
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header);
    let path = dir.join("model.safetensors");
    std::fs::write(&path, &bytes).unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    file.set_len(bytes.len() as u64 + end).unwrap();
    let config = config_json::write(config, DType::F16);
    std::fs::write(dir.join("config.json"), config).unwrap();
}

/// The largest ESM-2 on a card of 24 GB: 48 layers of 630 MB are planned, and not loaded.
#[test]
fn the_largest_model_is_planned_on_a_card_of_24_gb() {
    let Some(place) = place(3, 1, 1) else {
        return;
    };
    let config = ModelConfig::esm2(48, 5120, 40);
    std::fs::remove_dir_all(place.path("model")).unwrap();
    hollow_model(&config, &place.path("model"));
    let plan = |options: &str| -> serde_json::Value {
        let mut command = place.embed("out", &format!("--plan --json {options}"));
        command.env("SEQSTREAM_SIM_MEMORY", 24_000_000_000u64.to_string());
        serde_json::from_str(&ok(command).0).unwrap()
    };
    let whole = plan("");
    let device = &whole["devices"][0];
    let number = |key: &str| device[key].as_f64().unwrap();
    assert_eq!(
        (&device["streamed"], &device["automatic"]),
        (&true.into(), &true.into())
    );
    assert_eq!((number("layers"), number("slots")), (48.0, 3.0));
    assert!((629e6..631e6).contains(&number("layer_bytes")), "{device}");
    assert!(
        (30.2e9..30.4e9).contains(&number("resident_bytes")),
        "{device}"
    );
    assert!(number("weight_bytes") < 1.9e9, "{device}");
    let used = number("weight_bytes") + number("pass_bytes") + number("reserved_bytes");
    assert_eq!(used + number("unused_bytes"), number("free_bytes"));
    let estimates = &device["estimates"];
    let load = estimates["load_milliseconds_per_layer"].as_f64().unwrap();
    let compute = estimates["compute_milliseconds_per_layer"]
        .as_f64()
        .unwrap();
    assert!(load >= 11.4 && compute > 0.0, "{device}");
    // The tokens per pass are enough to hide the loading, if the machine's threads copy fast enough.
    let hides = number("tokens_per_pass") >= estimates["tokens_to_hide"].as_f64().unwrap();
    assert_eq!(
        estimates["bound"],
        if hides { "computing" } else { "loading" }
    );
    // Half of the layers fit.
    let half = plan("--layers 24");
    assert_eq!(half["devices"][0]["layers"], 24);
    assert_eq!(half["devices"][0]["streamed"], false);
    // On a card on which no two layers fit, the error says so.
    let mut command = place.embed("out", "--plan");
    command.env("SEQSTREAM_SIM_MEMORY", 1_200_000_000u64.to_string());
    fails(
        command,
        8,
        &[
            "even if its layers are streamed",
            "2 slots for layers of 600.",
            "hint: use a device with ",
        ],
    );
}
