//! `seqstream doctor`: this machine, and what this build can do on it.

use serde_json::json;

use super::args::DoctorArgs;
use super::progress::bytes;
use super::{Console, Failure, machine, options};
use crate::backend;

const CUDA: &str = "no: this build has no CUDA kernels";

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
            "cuda": false,
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
        ("--device cuda", CUDA.to_owned()),
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
