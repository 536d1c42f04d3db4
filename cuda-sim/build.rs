//! Compiles the kernels of `../kernels` for the host, as `emu/` emulates their machine, into this library. Where
//! neither stands the simulator has no kernels but those that a test registers.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a build script fails by panicking

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo:rustc-check-cfg=cfg(emulated_kernels, sanitized_kernels)");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=SEQSTREAM_SIM_SANITIZE");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("linux") {
        return;
    }
    let emulator = Path::new("emu");
    // Kernels of the program, and kernels for tests of the emulator.
    let kernels = [Path::new("../kernels"), Path::new("tests/kernels")];
    // A folder that is named notices files that come and go; each file, what is in it.
    for folder in [emulator].iter().chain(&kernels) {
        println!("cargo:rerun-if-changed={}", folder.display());
        for file in files(folder, &["h", "cuh", "cpp", "cu", "in"]) {
            println!("cargo:rerun-if-changed={}", file.display());
        }
    }
    if !emulator.join("registry.h").is_file() {
        return;
    }
    let mut objects = compiler()
        .files(files(emulator, &["cpp"]))
        .compile_intermediates();
    for source in kernels.iter().flat_map(|folder| files(folder, &["cu"])) {
        objects.push(kernel(&source));
    }
    let mut library = cc::Build::new();
    library
        .objects(objects)
        .cpp(true)
        // Kernels register themselves in constructors that nothing refers to.
        .link_lib_modifier("+whole-archive")
        .compile("seqstream_emulated_kernels");
    if sanitizes_addresses() {
        // rustc keeps the compiler from adding its own libraries.
        println!("cargo:rustc-link-arg=-lasan");
        println!("cargo:rustc-cfg=sanitized_kernels");
    }
    println!("cargo:rustc-cfg=emulated_kernels");
}

fn compiler() -> cc::Build {
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        .define("CUDA_EMU", None)
        .flag("-fno-strict-aliasing")
        .flag("-ffp-contract=off")
        // The pragmas of nvcc.
        .flag("-Wno-unknown-pragmas")
        .warnings(false)
        // Not Cargo's level: kernels make the same sums in every build.
        .opt_level(2)
        .include("emu")
        .include("../kernels");
    // The kernels alone are instrumented. (Not for races: to ThreadSanitizer the uninstrumented Rust around them is
    // full of those. `emu/race/` is for that.)
    if sanitizes_addresses() {
        build
            .define("EMU_ADDRESS_SANITIZER", None)
            .flag("-fsanitize=address")
            .flag("-g")
            .flag("-fno-omit-frame-pointer");
    }
    build
}

/// One kernel file, in an anonymous namespace, with its static shared memory in a section of the file's own.
fn kernel(source: &Path) -> PathBuf {
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("Cargo sets it"));
    let name = source
        .file_stem()
        .expect("found by its extension")
        .to_string_lossy();
    let source = source.canonicalize().expect("found just now");
    let section = format!("emu_shared_{name}");
    let wrapper = out.join(format!("{name}.cpp"));
    let text = std::fs::read_to_string("emu/kernel_file.in")
        .expect("part of the emulator")
        .replace("@SECTION@", &section)
        .replace("@FILE@", &source.to_string_lossy());
    std::fs::write(&wrapper, text).expect("Cargo's folder can be written");
    let mut build = compiler();
    let objects = build
        .flag("-fno-data-sections")
        .file(&wrapper)
        .compile_intermediates();
    let [object] = objects.as_slice() else {
        panic!("one file gives one object");
    };
    // A variable of a function template takes no section attribute (g++'s bug 70435).
    let renamed = Command::new("objcopy")
        .arg("--rename-section")
        .arg(format!(".bss={section}"))
        .arg(object)
        .status();
    assert!(
        renamed.as_ref().is_ok_and(|status| status.success()),
        "objcopy, of the binutils: {renamed:?}"
    );
    object.clone()
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
