//! Kernels under ThreadSanitizer, each CUDA thread a thread to it, and under AddressSanitizer: by a program of C++
//! alone (`emu/race/`), which this test builds.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)] // the helpers of tests are tests

use std::path::{Path, PathBuf};
use std::process::Command;

/// The kernel files whose kernels have cases in `emu/race/cases.cpp`.
const KERNELS: [&str; 15] = [
    "tests/kernels/planted.cu",
    "../kernels/conformance.cu",
    "../kernels/norm/layer_norm.cu",
    "../kernels/norm/represent.cu",
    "../kernels/attention/instances/attention_64.cu",
    "../kernels/attention/instances/attention_16.cu",
    "../kernels/attention/instances/attention_128.cu",
    "../kernels/attention/attention_f32.cu",
    "../kernels/attention/instances/attention90_64.cu",
    "../kernels/attention/instances/attention90_24.cu",
    "../kernels/attention/instances/attention90_128.cu",
    "../kernels/attention/rotate_keys.cu",
    "../kernels/gemm/gemm_gelu.cu",
    "../kernels/gemm/gemm_qkv.cu",
    "../kernels/gemm/gemm_short.cu",
];

/// Cases without a mistake.
const CLEAN: [&str; 32] = [
    "reverse",
    "copy",
    "pipeline",
    "ring",
    "layer_norm_narrow",
    "layer_norm_wide",
    "layer_norm_odd",
    "represent_narrow",
    "represent_wide",
    "represent_odd",
    "represent_f32",
    "represent_half",
    "represent_half_odd",
    "attention_item",
    "attention_items",
    "attention_wide",
    "attention_narrow",
    "attention_short",
    "attention_plain",
    "attention_hopper",
    "attention_hopper_whole",
    "attention_hopper_long",
    "attention_hopper_narrow",
    "attention_tensor",
    "attention_tensor_narrow",
    "rotate_keys",
    "gemm_gelu",
    "gemm_gelu_gated",
    "gemm_qkv_16",
    "gemm_qkv_64",
    "gemm_qkv_128",
    "gemm_short",
];

/// What a case ended with, and all that it said.
struct Report {
    good: bool,
    text: String,
}

struct Runner(PathBuf);

impl Runner {
    fn build(sanitizer: &str) -> Self {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("race-{sanitizer}"));
        let status = Command::new("sh")
            .arg(here.join("emu/race/build"))
            .args([sanitizer.as_ref(), folder.as_os_str()])
            .args(KERNELS.map(|kernel| here.join(kernel)))
            .status()
            .unwrap();
        assert!(status.success(), "emu/race/build {sanitizer}: {status}");
        Self(folder.join("runner"))
    }

    fn run(&self, case: &str) -> Report {
        // ThreadSanitizer's memory has fixed places, which a random layout of the address space may take.
        let fixed = Command::new("setarch").args(["-R", "true"]).status();
        let mut command = if fixed.is_ok_and(|status| status.success()) {
            let mut command = Command::new("setarch");
            command.arg("-R").arg(&self.0);
            command
        } else {
            Command::new(&self.0)
        };
        let output = command.arg(case).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        Report {
            good: output.status.success(),
            text: String::from_utf8_lossy(&text).into_owned(),
        }
    }

    fn clean(&self) {
        for case in CLEAN {
            let report = self.run(case);
            assert!(report.good, "{case}:\n{}", report.text);
        }
    }

    fn reports(&self, case: &str, words: &[&str]) {
        let report = self.run(case);
        assert!(!report.good, "{case}: nothing found");
        for word in words {
            assert!(
                report.text.contains(word),
                "{case}, no {word:?} in:\n{}",
                report.text
            );
        }
    }
}

/// The line of `planted.cu` that has this text, as a report names it.
fn line(text: &str) -> String {
    let source = include_str!("kernels/planted.cu");
    let at = source.lines().position(|line| line.contains(text)).unwrap();
    format!("planted.cu:{}", at + 1)
}

#[test]
fn races_for_shared_memory() {
    let runner = Runner::build("thread");
    runner.clean();
    let read = line("= values[n - 1 - threadIdx.x]");
    runner.reports("reverse_without_barrier", &["data race", &read]);
    let read = line("= values[n * 4 - 1");
    runner.reports("copy_without_barrier", &["data race", &read]);
}

#[test]
fn accesses_beside_memory() {
    let runner = Runner::build("address");
    runner.clean();
    let read = line("values[threadIdx.x] = from_u32(p)");
    runner.reports("reverse_too_much", &["heap-buffer-overflow", &read]);
    let write = line("values[n] = 1");
    runner.reports("reverse_past_shared", &["AddressSanitizer", &write]);
    runner.reports("copy_too_much", &["heap-buffer-overflow", "planted.cu:"]);
}
