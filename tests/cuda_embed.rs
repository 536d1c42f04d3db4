//! `seqstream embed --device cuda` on simulated devices: what the main job promises holds there too.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)] // the helpers of tests are tests

mod cli_support;
mod cuda_support;

use cli_support::{Place, fails, stderr, tree as files};
use seqstream::backend::cuda::kernels;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A place whose commands find `devices` simulated devices; none, said aloud, in a build without kernels.
struct Simulated {
    place: Place,
    devices: u32,
}

impl Simulated {
    fn new(sequences: usize, devices: u32) -> Option<Self> {
        if kernels::FATBINS.is_empty() {
            eprintln!("not run: this build has no kernels (no nvcc)");
            return None;
        }
        Some(Self {
            place: Place::new(sequences),
            devices,
        })
    }

    fn embed(&self, out: &str, options: &str) -> Command {
        let mut command = self.place.embed(out, options);
        command
            .env("SEQSTREAM_LIBCUDA", cuda_support::library())
            .env("SEQSTREAM_LIBCUBLASLT", cuda_support::library())
            .env("SEQSTREAM_CACHE", self.place.path("cache"))
            .env("SEQSTREAM_SIM_DEVICES", self.devices.to_string());
        command
    }

    #[track_caller]
    fn ok(&self, out: &str, options: &str) -> String {
        let output = self.embed(out, options).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        stderr(&output)
    }

    /// The rows of an output, in order, of the last layer.
    fn rows(&self, out: &str) -> Vec<u8> {
        let mut all = Vec::new();
        for (path, bytes) in files(&self.place.path(out)) {
            if Path::new(&path).extension().is_some_and(|e| e == "npy") {
                all.extend_from_slice(&bytes[128..]);
            }
        }
        assert!(!all.is_empty(), "{out}");
        all
    }
}

fn floats(bytes: &[u8]) -> Vec<f64> {
    let words = bytes.chunks_exact(4);
    words
        .map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap())))
        .collect()
}

#[test]
fn the_gpu_computes_what_the_cpu_does() {
    let Some(gpu) = Simulated::new(40, 1) else {
        return;
    };
    assert!(gpu.place.embed("cpu", "").status().unwrap().success());
    let want = floats(&gpu.rows("cpu"));
    // 40 rows of 32: the tolerances of `cuda_models.rs`.
    for (dtype, bar) in [("f32", 1e-5), ("f16", 2e-3), ("bf16", 1.5e-2)] {
        gpu.ok(dtype, &format!("--device cuda --dtype {dtype}"));
        let got = floats(&gpu.rows(dtype));
        for (i, (got, want)) in got.chunks(32).zip(want.chunks(32)).enumerate() {
            let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
            let off = norm(&mut got.iter().zip(want).map(|(g, w)| g - w));
            let error = off / norm(&mut want.iter().copied());
            assert!(error <= bar, "{dtype}, row {i}: {error:e}");
        }
    }
}

#[test]
fn the_same_bytes_on_one_device_and_on_three_with_streams_and_without() {
    let Some(gpu) = Simulated::new(60, 3) else {
        return;
    };
    gpu.ok("one", "--device cuda:0");
    let want = files(&gpu.place.path("one"));
    for (out, options) in [
        ("three", "--device cuda --token-budget 300"),
        ("off", "--device cuda:2 --streams off"),
        ("narrow", "--device cuda:1,0 --token-budget 130"),
    ] {
        gpu.ok(out, options);
        assert_eq!(files(&gpu.place.path(out)), want, "{out}: {options}");
    }
    let refused = gpu.embed("no", "--device cuda:0,3");
    fails(refused, 7, &["there is no device 3", "0 to 2"]);
    let refused = gpu.embed("no", "--device cuda:1,1");
    fails(refused, 2, &["named twice"]);
}

/// Waits until a finished shard stands; the child must not have ended.
fn wait_for(path: &Path, child: &mut Child) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !path.exists() {
        assert!(
            Instant::now() < deadline,
            "{} does not come",
            path.display()
        );
        assert!(child.try_wait().unwrap().is_none(), "it has ended");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn killed_and_resumed_the_output_is_that_of_a_run_that_was_not() {
    let Some(gpu) = Simulated::new(96, 2) else {
        return;
    };
    let options = "--device cuda --token-budget 400";
    gpu.ok("whole", options);
    for shard in ["shard-000000", "shard-000002", "shard-000004"] {
        let mut child = gpu
            .embed("killed", options)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_for(&gpu.place.path("killed").join(shard), &mut child);
        child.kill().unwrap();
        child.wait().unwrap();
        let said = gpu.ok("killed", &format!("{options} --resume"));
        assert!(said.contains("resuming"), "{said}");
        let (whole, killed) = (gpu.place.path("whole"), gpu.place.path("killed"));
        assert_eq!(files(&whole), files(&killed), "killed after {shard}");
        std::fs::remove_dir_all(killed).unwrap();
    }
    // Another dtype is another job.
    let refused = gpu.embed("whole", "--device cuda --dtype f32 --resume");
    fails(refused, 6, &["dtype was \"f16\", now \"f32\""]);
}

/// A device that fails ends the job with its own code; finished shards stay, and the job goes on from there.
#[test]
fn a_device_that_fails_ends_the_job_and_keeps_its_shards() {
    let Some(gpu) = Simulated::new(96, 2) else {
        return;
    };
    let options = "--device cuda --token-budget 400";
    gpu.ok("whole", options);
    for fault in [
        "cuEventSynchronize#6:700:sticky",
        "cuLaunchKernel#90:719:async",
        "cublasLtMatmul#60:13",
        "cuMemcpyHtoDAsync_v2#30:999",
    ] {
        let mut command = gpu.embed("failed", options);
        command.env("SEQSTREAM_SIM_FAULT", fault);
        let output = command.output().unwrap();
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(8), "{fault}: {said}");
        assert!(
            said.contains("error: ") && said.contains("device "),
            "{fault}: {said}"
        );
        assert!(!said.contains("panicked"), "{fault}: {said}");
        gpu.ok("failed", &format!("{options} --resume"));
        let (whole, failed) = (gpu.place.path("whole"), gpu.place.path("failed"));
        assert_eq!(files(&whole), files(&failed), "{fault}");
        std::fs::remove_dir_all(failed).unwrap();
    }
    // Too little memory for the model.
    let mut command = gpu.embed("failed", options);
    command.env("SEQSTREAM_SIM_MEMORY", "560000000");
    fails(command, 8, &["bytes free, and the model needs"]);
}

#[test]
fn dirty_and_long_input_has_the_same_outcomes() {
    let Some(gpu) = Simulated::new(1, 1) else {
        return;
    };
    let long: String = (0..1500)
        .map(|i| char::from(b"ACDEFGHIKLMNPQRSTVWY"[i * 7 % 20]))
        .collect();
    let text = format!(">lower\nacdef\n>stop\nMKV*\n>odd\nMJ*K\n>long\n{long}\n>one\nM\n");
    std::fs::write(gpu.place.path("in.fa"), text).unwrap();
    let said = gpu.ok("dirty", "--device cuda");
    for part in [
        "5 lower-case letters",
        "1 stops dropped",
        "outside the alphabet",
    ] {
        assert!(said.contains(part), "{said}");
    }
    assert_eq!(gpu.rows("dirty").len(), 5 * 32 * 4);
    // A sequence that fits in no pass is named, with what helps.
    let mut command = gpu.embed("small", "--device cuda");
    command.env("SEQSTREAM_SIM_MEMORY", "571520000");
    fails(command, 3, &["long", "1502 tokens", "--long window"]);
    std::fs::write(gpu.place.path("in.fa"), ">a\nMKV\n>b\n\n").unwrap();
    fails(gpu.embed("bad", "--device cuda"), 3, &["record 2"]);
}
