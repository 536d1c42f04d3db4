//! Compiles the kernels of `../kernels` for the host, as `emu/` emulates their machine, into this library. Where
//! neither stands the simulator has no kernels but those that a test registers.

use std::path::{Path, PathBuf};

fn main() {
    println!("cargo:rustc-check-cfg=cfg(emulated_kernels, sanitized_kernels)");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=SEQSTREAM_SIM_SANITIZE");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("linux") {
        return;
    }
    let emulator = Path::new("emu");
    let kernels = Path::new("../kernels");
    // A folder that is named notices files that come and go; each file, what is in it.
    for folder in [emulator, kernels] {
        println!("cargo:rerun-if-changed={}", folder.display());
    }
    if !emulator.join("registry.h").is_file() {
        return;
    }
    for file in files(emulator, &["h", "cuh", "hpp", "cpp"])
        .iter()
        .chain(&files(kernels, &["h", "cuh", "cu"]))
    {
        println!("cargo:rerun-if-changed={}", file.display());
    }
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        .define("CUDA_EMU", None)
        .flag("-fno-strict-aliasing")
        .flag("-ffp-contract=off")
        // Intrinsics of CUDA that a kernel includes and the emulator does not need are unknown to g++.
        .flag("-Wno-unknown-pragmas")
        .warnings(false)
        // Not Cargo's level: the emulator's fibers and its tests are tuned to this one.
        .opt_level(1)
        .include(emulator)
        .include(kernels)
        // Kernels register themselves in constructors that nothing refers to.
        .link_lib_modifier("+whole-archive");
    // The kernels alone are instrumented. (Not for races: to ThreadSanitizer the uninstrumented Rust around them is
    // full of those.)
    if sanitizes_addresses() {
        build
            .flag("-fsanitize=address")
            .flag("-g")
            .flag("-fno-omit-frame-pointer");
        // rustc keeps the compiler from adding its own libraries.
        println!("cargo:rustc-link-arg=-lasan");
        println!("cargo:rustc-cfg=sanitized_kernels");
    }
    // A `.cu` is C++ here.
    build.flag("-xc++");
    build
        .files(files(emulator, &["cpp"]))
        .files(files(kernels, &["cu"]));
    build.compile("seqstream_emulated_kernels");
    println!("cargo:rustc-cfg=emulated_kernels");
}

fn sanitizes_addresses() -> bool {
    let wanted = std::env::var("SEQSTREAM_SIM_SANITIZE").unwrap_or_default();
    assert!(
        ["", "address"].contains(&wanted.as_str()),
        "SEQSTREAM_SIM_SANITIZE is address, or not set"
    );
    !wanted.is_empty()
}

fn files(folder: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.extension()
                .is_some_and(|found| extensions.iter().any(|wanted| found == *wanted))
        })
        .collect();
    files.sort();
    files
}
