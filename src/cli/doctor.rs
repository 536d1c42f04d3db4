//! `seqstream doctor`: shows this machine, and what this build supports on it.

use serde_json::json;

use super::args::DoctorArgs;
use super::progress::bytes;
use super::{Console, Failure, machine, options};
use seqstream::backend::{self, cuda};
use seqstream::gpu::{cublaslt, driver};

/// Describes the CUDA kernels of this build.
fn kernels() -> String {
    match cuda::kernels::NVCC {
        Some(nvcc) => format!(
            "{}, for {} (nvcc {nvcc})",
            cuda::kernels::FATBINS.len(),
            cuda::kernels::ARCHITECTURES.join(", ")
        ),
        None => format!("none: {}", cuda::Unavailable::NoKernels.hint()),
    }
}

/// Describes the CUDA driver and its devices.
fn driver() -> String {
    let (library, devices) = match cuda::devices() {
        Ok(found) => found,
        Err(missing) => return missing.to_string(),
    };
    let version = driver::driver_version();
    let version = version.map_or_else(
        |e| e.to_string(),
        |(major, minor)| format!("{major}.{minor}"),
    );
    let devices = devices.iter().map(|d| {
        let (major, minor) = d.capability;
        format!(
            "{}: {}, sm_{major}{minor}, {}",
            d.ordinal,
            d.name,
            bytes(d.memory)
        )
    });
    format!(
        "{library}, CUDA {version}; {}",
        devices.collect::<Vec<_>>().join("; ")
    )
}

/// Describes the cuBLASLt library.
fn cublaslt() -> String {
    match cublaslt::cublaslt() {
        Ok((library, version)) => format!("{version}, {library}"),
        Err(missing) => missing.to_string(),
    }
}

/// Says whether `--device cuda` would work.
fn cuda_answer() -> String {
    match cuda::require() {
        Ok(_) => "yes, in f16, bf16 and f32".into(),
        Err(missing) => format!("no: {missing}"),
    }
}

/// Runs `seqstream doctor`.
pub fn run(args: &DoctorArgs, console: &Console) -> Result<(), Failure> {
    let cores = options::cores();
    let caches = machine::caches();
    if args.json {
        let value = json!({
            "seqstream": env!("CARGO_PKG_VERSION"),
            "target": format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
            "devices": [{
                "device": "cpu",
                "name": machine::processor(),
                "cores": cores,
                "simd": backend::simd_name(),
                "dtypes": ["f32"],
                "caches": caches.iter().map(|(n, s)| (n.clone(), json!(s))).collect::<serde_json::Map<_, _>>(),
            }],
            "cuda": cuda::require().is_ok(),
            "cuda_kernels": {"nvcc": cuda::kernels::NVCC, "architectures": cuda::kernels::ARCHITECTURES},
            "cublaslt": cublaslt::cublaslt().ok().map(|(library, version)| json!({"library": library, "version": version})),
            "cuda_devices": cuda::devices().map(|(_, d)| d).unwrap_or_default().iter().map(|d| json!({
                "device": d.ordinal,
                "name": d.name,
                "capability": [d.capability.0, d.capability.1],
                "multiprocessors": d.multiprocessors,
                "memory": d.memory,
            })).collect::<Vec<_>>(),
            "memory": machine::total_memory(),
        });
        return console.print(|out| writeln!(out, "{value}").map_err(Failure::Stdout));
    }
    let unknown = || "unknown".to_owned();
    let caches: Vec<String> = caches
        .into_iter()
        .map(|(name, size)| format!("{name} {size}"))
        .collect();
    let lines = [
        (
            "seqstream",
            format!(
                "{}, {}-{}",
                env!("CARGO_PKG_VERSION"),
                std::env::consts::ARCH,
                std::env::consts::OS
            ),
        ),
        ("processor", machine::processor().unwrap_or_else(unknown)),
        (
            "cores",
            format!("{cores} usable, so --threads is {cores} unless given"),
        ),
        ("SIMD", backend::simd_name().to_owned()),
        (
            "caches",
            if caches.is_empty() {
                unknown()
            } else {
                caches.join(", ")
            },
        ),
        (
            "memory",
            machine::total_memory().map_or_else(unknown, bytes),
        ),
        (
            "--device cpu",
            "yes, in f32, from weights stored in f32, f16 or bf16".to_owned(),
        ),
        ("--device cuda", cuda_answer()),
        ("CUDA kernels", kernels()),
        ("CUDA driver", driver()),
        ("cuBLASLt", cublaslt()),
        (
            "models",
            "ESM-2 of any size, DNABERT-S, DNABERT-2".to_owned(),
        ),
        (
            "weights",
            "safetensors and torch .bin (one file or sharded), fair-esm .pt".to_owned(),
        ),
        (
            "sequences",
            "FASTA, FASTQ; plain, gzip, bzip2, xz, zstd".to_owned(),
        ),
    ];
    console.print(|out| {
        for (name, value) in lines {
            writeln!(out, "{name:<14} {value}").map_err(Failure::Stdout)?;
        }
        Ok(())
    })
}
