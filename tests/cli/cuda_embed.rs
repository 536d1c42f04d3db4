//! `seqstream embed --device cuda` on simulated and real devices: the guarantees of the main job
//! hold there too.
#![cfg(target_os = "linux")]

use crate::support::cli::tree as files;
use crate::support::cli::{
    Place, assert_same, fails, fasta, jobs, rows, states, stderr, wait_for, written,
};
use crate::support::cuda;
use crate::support::cuda::real::{absent, not_run, wants_real};
use seqstream::architecture::ModelConfig;
use seqstream::backend::cuda::kernels;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;

/// Returns a place whose jobs compute on `devices` simulated devices, or on the real ones; `None`,
/// with a message, in a build without kernels.
fn cuda(sequences: usize, devices: u32) -> Option<Place> {
    if kernels::FATBINS.is_empty() {
        absent("this build has no kernels (no nvcc)");
        return None;
    }
    let place = Place::new(sequences);
    Some(match wants_real() {
        true => place.on_gpus(),
        false => place.on_cuda(&cuda::library(), devices),
    })
}

/// Like `cuda`, for tests on simulated devices only, because a real device is too fast to be
/// stopped in the middle, or cannot be made to fail.
fn simulated(sequences: usize, devices: u32) -> Option<Place> {
    if wants_real() {
        not_run("this test is of the simulated driver");
        return None;
    }
    cuda(sequences, devices)
}

/// Runs a command, which must succeed; returns its output.
#[track_caller]
fn ok(place: &Place, out: &str, options: &str) -> String {
    let output = place.embed(out, options).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    stderr(&output)
}

/// Asserts that rows of 32 values agree with the CPU's rows, each within `times` the tolerance of
/// `tests/cuda/models.rs`.
#[track_caller]
fn near(dtype: &str, times: f64, got: &[f32], want: &[f32]) {
    let bar = match dtype {
        "f32" => 1e-5,
        "f16" => 2e-3,
        _ => 1.5e-2,
    } * times;
    assert_eq!(got.len(), want.len());
    for (i, (got, want)) in got.chunks(32).zip(want.chunks(32)).enumerate() {
        let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
        let off = norm(&mut got.iter().zip(want).map(|(g, w)| f64::from(g - w)));
        let error = off / norm(&mut want.iter().map(|w| f64::from(*w)));
        assert!(error <= bar, "{dtype}, row {i}: {error:e}");
    }
}

#[test]
fn the_gpu_computes_what_the_cpu_does() {
    let Some(place) = cuda(40, 1) else {
        return;
    };
    let options = "--per-token --layers=0,-1";
    ok(&place, "cpu", &format!("{options} --device cpu"));
    let cpu = place.path("cpu");
    for dtype in ["f32", "f16", "bf16"] {
        ok(&place, dtype, &format!("{options} --dtype {dtype}"));
        for layer in [0, 2] {
            let gpu = place.path(dtype);
            near(dtype, 1.0, &rows(&gpu, layer), &rows(&cpu, layer));
            // The state of one token is less exact than the mean of many.
            near(dtype, 3.0, &states(&gpu, layer), &states(&cpu, layer));
        }
    }
}

#[test]
fn dnabert_reads_its_own_tokenizer() {
    let Some(place) = cuda(0, 1) else {
        return;
    };
    jobs::dnabert_reads_its_own_tokenizer(&place);
    ok(&place, "cpu", "--layers=-1,0 --device cpu");
    for layer in [0, 2] {
        let (gpu, cpu) = (place.path("out"), place.path("cpu"));
        near("f16", 1.0, &rows(&gpu, layer), &rows(&cpu, layer));
    }
}

#[test]
fn the_bytes_are_the_same_however_it_runs() {
    if let Some(place) = cuda(40, 2) {
        jobs::the_bytes_are_the_same_however_it_runs(&place);
    }
}

#[test]
fn shares_merge_to_the_whole() {
    if let Some(place) = cuda(50, 2) {
        jobs::shares_merge_to_the_whole(&place);
    }
}

#[test]
fn windows_are_averaged_by_their_residues() {
    if let Some(place) = cuda(0, 1) {
        jobs::windows_are_averaged_by_their_residues(&place);
    }
}

#[test]
fn a_pipe_is_an_input_too() {
    if let Some(place) = cuda(40, 2) {
        jobs::a_pipe_is_an_input_too(&place);
    }
}

#[test]
fn sigterm_finishes_the_shard_in_hand_and_says_how_to_resume() {
    if let Some(place) = simulated(192, 2) {
        jobs::sigterm_finishes_the_shard_in_hand_and_says_how_to_resume(
            &place,
            "--token-budget 400",
        );
    }
}

#[test]
fn the_same_bytes_on_one_device_and_on_three_with_streams_and_without() {
    let Some(place) = simulated(60, 3) else {
        return;
    };
    ok(&place, "one", "--device cuda:0");
    let want = files(&place.path("one"));
    for (out, options) in [
        ("three", "--token-budget 300"),
        ("off", "--device cuda:2 --streams off"),
        ("narrow", "--device cuda:1,0 --token-budget 130"),
    ] {
        ok(&place, out, options);
        assert_eq!(files(&place.path(out)), want, "{out}: {options}");
    }
    let refused = place.embed("no", "--device cuda:0,3");
    fails(refused, 7, &["there is no device 3", "0 to 2"]);
    let refused = place.embed("no", "--device cuda:1,1");
    fails(refused, 2, &["named twice"]);
}

#[test]
fn killed_and_resumed_the_output_is_that_of_a_run_that_was_not() {
    let Some(place) = simulated(96, 2) else {
        return;
    };
    let options = "--token-budget 400";
    ok(&place, "whole", options);
    for shard in ["shard-000000", "shard-000002", "shard-000004"] {
        let mut child = place
            .embed("killed", options)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_for(&place.path("killed").join(shard), &mut child);
        child.kill().unwrap();
        child.wait().unwrap();
        let said = ok(&place, "killed", &format!("{options} --resume"));
        assert!(said.contains("resuming"), "{said}");
        let (whole, killed) = (place.path("whole"), place.path("killed"));
        assert_eq!(files(&whole), files(&killed), "killed after {shard}");
        std::fs::remove_dir_all(killed).unwrap();
    }
    // A job with another dtype is another job.
    let refused = place.embed("whole", "--dtype f32 --resume");
    fails(refused, 6, &["dtype was \"f16\", now \"f32\""]);
}

/// Returns the files of finished shards; the result is empty if the directory does not exist.
fn shards(out: &Path) -> BTreeMap<String, Vec<u8>> {
    if !out.exists() {
        return BTreeMap::new();
    }
    let mut all = files(out);
    all.retain(|name, _| name.starts_with("shard-"));
    all
}

/// A failing device ends the job with its own exit code; finished shards stay, and the job
/// continues from there.
#[test]
fn a_device_that_fails_ends_the_job_and_keeps_its_shards() {
    let Some(place) = simulated(96, 2) else {
        return;
    };
    let options = "--token-budget 400";
    let all = place.embed_ok("whole", options)["shards_computed"].as_u64();
    let all = all.unwrap();
    let (whole, failed) = (place.path("whole"), place.path("failed"));
    // Calls in the middle of the job, and one call while weights load, before anything is finished.
    for (fault, says, finished) in [
        (
            "cuEventSynchronize#20:700:sticky",
            "700 (CUDA_ERROR_ILLEGAL_ADDRESS",
            1..all,
        ),
        (
            "cuLaunchKernel#120:719:async",
            "719 (CUDA_ERROR_LAUNCH_FAILED",
            1..all,
        ),
        (
            "cublasLtMatmul#90:13",
            "13 (CUBLAS_STATUS_EXECUTION_FAILED",
            1..all,
        ),
        (
            "cuMemcpyHtoDAsync_v2#22:999",
            "999 (CUDA_ERROR_UNKNOWN",
            1..all,
        ),
        (
            "cuMemcpyDtoHAsync_v2#15:2",
            "2 (CUDA_ERROR_OUT_OF_MEMORY",
            1..all,
        ),
        (
            "cuMemcpyHtoDAsync_v2#3:999",
            "999 (CUDA_ERROR_UNKNOWN",
            0..1,
        ),
    ] {
        let mut command = place.embed("failed", options);
        command.env("SEQSTREAM_SIM_FAULT", fault);
        let output = command.output().unwrap();
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(8), "{fault}: {said}");
        let error = said.lines().find(|line| line.starts_with("error: "));
        let error = error.unwrap_or_else(|| panic!("{fault}: {said}"));
        assert!(
            error.contains(says) && error.contains("device "),
            "{fault}: {said}"
        );
        assert!(!said.contains("panicked"), "{fault}: {said}");
        let hint = said.lines().rfind(|line| line.starts_with("hint: "));
        assert!(
            hint.is_some_and(|hint| hint.contains("--resume")),
            "{fault}: {said}"
        );
        assert!(!failed.join("manifest.json").exists(), "{fault}");
        // Finished shards are complete, and are not written again.
        let (kept, before) = (shards(&failed), written(&failed));
        let stood = kept.keys().filter(|n| n.ends_with("/shard.json")).count() as u64;
        assert!(
            finished.contains(&stood),
            "{fault}: {stood} of {all} shards"
        );
        let mut right = shards(&whole);
        right.retain(|name, _| name[..] < *format!("shard-{stood:06}"));
        assert!(kept == right, "{fault}: {:?}", kept.keys());
        let summary = place.embed_ok("failed", &format!("{options} --resume"));
        assert_eq!(summary["shards_computed"], all - stood, "{fault}");
        assert_eq!(summary["sequences_reused"], 16 * stood, "{fault}");
        let after = written(&failed);
        assert!(
            before.iter().all(|(name, was)| after[name] == *was),
            "{fault}"
        );
        assert_same(&whole, &failed);
        std::fs::remove_dir_all(&failed).unwrap();
    }
    // Too little memory for the model.
    let mut command = place.embed("failed", options);
    command.env("SEQSTREAM_SIM_MEMORY", "560000000");
    fails(command, 8, &["MiB free, and the model needs "]);
}

#[test]
fn dirty_and_long_input_has_the_same_outcomes() {
    let Some(place) = simulated(1, 1) else {
        return;
    };
    let long: String = (0..1500)
        .map(|i| char::from(b"ACDEFGHIKLMNPQRSTVWY"[i * 7 % 20]))
        .collect();
    let text = format!(">lower\nacdef\n>stop\nMKV*\n>odd\nMJ*K\n>long\n{long}\n>one\nM\n");
    std::fs::write(place.path("in.fa"), text).unwrap();
    let said = ok(&place, "dirty", "");
    for part in [
        "5 lower-case letters",
        "1 stops dropped",
        "outside the alphabet",
    ] {
        assert!(said.contains(part), "{said}");
    }
    assert_eq!(rows(&place.path("dirty"), 2).len(), 5 * 32);
    // A sequence that fits in no pass is named, with a remedy.
    let mut command = place.embed("small", "");
    command.env("SEQSTREAM_SIM_MEMORY", "571520000");
    fails(command, 3, &["long", "1502 tokens", "--long window"]);
    let mut command = place.embed("windows", "-q --max-length 400 --long window");
    command.env("SEQSTREAM_SIM_MEMORY", "571520000");
    assert!(command.status().unwrap().success());
    assert_eq!(rows(&place.path("windows"), 2).len(), 5 * 32);
    std::fs::write(place.path("in.fa"), ">a\nMKV\n>b\n\n").unwrap();
    fails(place.embed("bad", ""), 3, &["record 2"]);
}

/// One of 40 sequences overflows f16 in the middle of the model: the error names it and a remedy,
/// and no output looks complete.
#[test]
fn an_overflow_in_f16_is_named_with_its_remedy() {
    let Some(place) = cuda(0, 2) else {
        return;
    };
    const TRYPTOPHAN: usize = 22;
    // States of tryptophan lie along dimension 0, and the feed-forward reads only that dimension:
    // 15000 times the value after the layer norm, which is 5.6 for tryptophan and below 4.3 for all
    // other residues. The range of f16 ends at 65504.
    place.change_model(|name, values| match name {
        "esm.embeddings.word_embeddings.weight" => {
            let rows = values.chunks_mut(32).enumerate();
            rows.for_each(|(token, row)| row[0] = if token == TRYPTOPHAN { 1000.0 } else { 0.0 });
        }
        "esm.encoder.layer.0.LayerNorm.weight" => values.fill(1.0),
        "esm.encoder.layer.0.LayerNorm.bias" => values.fill(0.0),
        "esm.encoder.layer.0.intermediate.dense.weight" => {
            let dimensions = (0..32).cycle();
            (values.iter_mut().zip(dimensions))
                .for_each(|(w, d)| *w = if d == 0 { 15000.0 } else { 0.0 });
        }
        _ => {}
    });
    let without = fasta(40).replace('W', "Y");
    std::fs::write(place.path("in.fa"), &without).unwrap();
    place.embed_ok("without", "");
    let mut lines: Vec<&str> = without.lines().collect();
    lines[41] = "MKVLWAAGI";
    std::fs::write(place.path("in.fa"), lines.join("\n")).unwrap();
    let out = place.path("out");
    let says = [
        "\"protein20\" (record 21 of the input)",
        "layer ",
        "--dtype bf16 or f32",
    ];
    place.embed_fails("out", "", 4, &says);
    let (kept, without) = (files(&out), files(&place.path("without")));
    let mut shards: Vec<_> = kept.iter().filter(|(name, _)| name.contains('/')).collect();
    assert!(!shards.is_empty());
    shards.retain(|(name, bytes)| without.get(*name) != Some(bytes));
    assert!(shards.is_empty(), "{:?}", shards);
    for beyond in ["shard-000001", "shard-000002", "manifest.json"] {
        assert!(!out.join(beyond).exists(), "{beyond}");
    }
    // The error persists, and the finished part is not taken for the whole.
    place.embed_fails("out", "--resume", 4, &says);
    for dtype in ["bf16", "f32"] {
        place.embed_ok(dtype, &format!("--dtype {dtype}"));
        let rows = rows(&place.path(dtype), 2);
        assert!(
            rows.len() == 40 * 32 && rows.iter().all(|v| v.is_finite()),
            "{dtype}"
        );
    }
}

/// If a model does not fit, the advice really makes it fit: a dtype of 16 bits, or fewer tokens per
/// pass.
#[test]
fn advice_on_too_little_memory_is_true() {
    let Some(place) = simulated(0, 1) else {
        return;
    };
    std::fs::remove_dir_all(place.path("model")).unwrap();
    place.model("model", ModelConfig::esm2(2, 320, 20), 1);
    std::fs::write(place.path("in.fa"), ">a\nMKV\n").unwrap();
    // Runs with this many MB of memory; returns the message if the model does not fit.
    let run = |megabytes: u32, options: &str| {
        let _ = std::fs::remove_dir_all(place.path("out"));
        let mut command = place.embed("out", &format!("-q {options}"));
        command.env("SEQSTREAM_SIM_MEMORY", format!("{megabytes}000000"));
        let output = command.output().unwrap();
        let said = stderr(&output);
        match output.status.code() {
            Some(0) => None,
            code => {
                assert_eq!(code, Some(8), "{said}");
                assert!(said.contains(" MiB free, and the model needs "), "{said}");
                Some(said)
            }
        }
    };
    let least = |dtype: &str| {
        let (mut too_few, mut enough) = (540, 668);
        while enough - too_few > 1 {
            let middle = too_few + (enough - too_few) / 2;
            match run(middle, &format!("--dtype {dtype}")) {
                Some(_) => too_few = middle,
                None => enough = middle,
            }
        }
        enough
    };
    let (f16, f32) = (least("f16"), least("f32"));
    assert!(540 < f16 && f16 + 2 < f32 && f32 < 668, "{f16} {f32}");
    let said = run(f32 - 2, "--dtype f32").unwrap();
    assert!(said.contains("hint: use --dtype f16 or bf16"), "{said}");
    // The advice is not given if that would not fit either, nor if it was already followed.
    let said = run(f16 - 10, "--dtype f32").unwrap();
    assert!(
        said.contains("hint: use a device with ")
            && said.contains(" MiB free, or use --device cpu"),
        "{said}"
    );
    let said = run(f16 - 1, "--dtype f16").unwrap();
    assert!(!said.contains("--dtype"), "{said}");
    let (_, fewer) = said.split_once("hint: use --token-budget ").unwrap();
    let fewer = fewer.split_once(',').unwrap().0;
    let fewer = format!("--dtype f16 --token-budget {fewer}");
    assert_eq!(run(f16 - 1, &fewer), None);
}

#[test]
fn on_a_real_gpu() {
    cuda::real::again(module_path!());
}
