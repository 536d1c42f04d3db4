//! The program with and without a driver: its messages, and that it starts.
#![cfg(target_os = "linux")]

use crate::support::cli::{Place, seqstream};
use crate::support::cuda;
use seqstream::backend::cuda::kernels;

/// Returns the program's standard output.
fn said(driver: &str, devices: &str, arguments: &[&str]) -> String {
    let environment = [
        ("SEQSTREAM_LIBCUDA", driver),
        ("SEQSTREAM_SIM_DEVICES", devices),
    ];
    said_with(&environment, arguments)
}

fn said_with(environment: &[(&str, &str)], arguments: &[&str]) -> String {
    let output = seqstream()
        .args(arguments)
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Returns the answer of `embed --device cuda`: exit code 7, and a reason.
fn refused(driver: &str, devices: &str) -> String {
    let place = Place::new(1);
    let mut command = place.embed("out", "--device cuda");
    command
        .env("SEQSTREAM_LIBCUDA", driver)
        .env("SEQSTREAM_SIM_DEVICES", devices);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert!(!place.path("out").exists());
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn without_a_driver_it_starts_and_says_so() {
    let nowhere = "/nowhere/libcuda.so.1";
    assert!(said(nowhere, "1", &["--version"]).contains("seqstream"));
    let doctor = said(nowhere, "1", &["doctor"]);
    assert!(
        doctor.contains("there is no CUDA driver: /nowhere/libcuda.so.1"),
        "{doctor}"
    );
    let reason = if kernels::NVCC.is_some() {
        "there is no CUDA driver"
    } else {
        "this build has no CUDA kernels"
    };
    let error = refused(nowhere, "1");
    assert!(
        error.contains(reason) && error.contains("hint: "),
        "{error}"
    );
}

#[test]
fn devices_are_listed_and_not_passed_over() {
    let simulator = cuda::library();
    let simulator = simulator.to_str().unwrap();
    let doctor = said(simulator, "4", &["doctor"]);
    for device in ["0: ", "1: ", "2: ", "3: "] {
        assert!(doctor.contains(device), "{doctor}");
    }
    assert!(doctor.contains("sm_90"), "{doctor}");
    let json: serde_json::Value =
        serde_json::from_str(&said(simulator, "4", &["doctor", "--json"])).unwrap();
    assert_eq!(json["cuda_devices"].as_array().unwrap().len(), 4);
    assert_eq!(
        json["cuda_devices"][3]["capability"],
        serde_json::json!([9, 0])
    );
    assert_eq!(
        json["cuda_kernels"]["nvcc"].is_string(),
        kernels::NVCC.is_some()
    );
    // With kernels `embed` works (`cuda_embed.rs`); without them, nothing falls back to the CPU.
    if kernels::NVCC.is_none() {
        let error = refused(simulator, "4");
        assert!(error.contains("this build has no CUDA kernels"), "{error}");
    }
}

#[test]
fn a_driver_without_cublaslt_is_no_device() {
    if kernels::NVCC.is_none() {
        return;
    }
    let place = Place::new(1);
    let mut command = place.embed("out", "--device cuda");
    command
        .env("SEQSTREAM_LIBCUDA", cuda::library())
        .env("SEQSTREAM_LIBCUBLASLT", "/nowhere/libcublasLt.so");
    let output = command.output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(7), "{error}");
    assert!(
        error.contains("/nowhere/libcublasLt.so") && error.contains("hint: "),
        "{error}"
    );
    // The doctor reports it beforehand.
    let simulator = cuda::library();
    let simulator = simulator.to_str().unwrap();
    let doctor = |cublaslt| -> serde_json::Value {
        let environment = [
            ("SEQSTREAM_LIBCUDA", simulator),
            ("SEQSTREAM_LIBCUBLASLT", cublaslt),
        ];
        serde_json::from_str(&said_with(&environment, &["doctor", "--json"])).unwrap()
    };
    let without = doctor("/nowhere/libcublasLt.so");
    assert_eq!(without["cuda"], false);
    assert!(without["cublaslt"].is_null());
    let with = doctor(simulator);
    assert_eq!(with["cuda"], true);
    assert!(with["cublaslt"]["version"].is_string(), "{with}");
}

#[test]
fn a_driver_without_devices_is_named_with_its_code() {
    let simulator = cuda::library();
    let doctor = said(simulator.to_str().unwrap(), "0", &["doctor"]);
    assert!(
        doctor.contains("cuInit failed with 100 (CUDA_ERROR_NO_DEVICE"),
        "{doctor}"
    );
}
