//! Compiles the kernels of `../kernels` for the host, as `emu/` emulates their machine, into this library. Where
//! neither stands the simulator has no kernels but those that a test registers.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a build script fails by panicking

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

fn main() {
    println!("cargo:rustc-check-cfg=cfg(emulated_kernels, sanitized_kernels)");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=SEQSTREAM_SIM_SANITIZE");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("linux") {
        return;
    }
    let emulator = Path::new("emu");
    // Kernels of the program, and kernels for tests of the emulator.
    let mut kernels = folders(Path::new("../kernels"));
    kernels.extend(folders(Path::new("tests/kernels")));
    // A folder that is named notices files that come and go; each file, what is in it.
    for folder in std::iter::once(emulator).chain(kernels.iter().map(PathBuf::as_path)) {
        println!("cargo:rerun-if-changed={}", folder.display());
        for file in files(folder, &["h", "cuh", "cpp", "cu", "in"]) {
            println!("cargo:rerun-if-changed={}", file.display());
        }
    }
    // For who builds only the tests that compile kernels themselves.
    println!("cargo:rerun-if-env-changed=SEQSTREAM_SIM_KERNELS");
    let none = std::env::var("SEQSTREAM_SIM_KERNELS").is_ok_and(|v| v == "none");
    if none || !emulator.join("registry.h").is_file() {
        return;
    }
    let mut objects = compiler()
        // Products of matrices take most of its time.
        .opt_level(3)
        .files(files(emulator, &["cpp"]))
        .compile_intermediates();
    let sources: Vec<PathBuf> = kernels
        .iter()
        .flat_map(|folder| files(folder, &["cu"]))
        .collect();
    objects.extend(compile_kernels(&sources, &common_state(emulator, &kernels)));
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
        .debug(false)
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

/// A hash of what every kernel's object is made from, beside its own source.
fn common_state(emulator: &Path, kernels: &[PathBuf]) -> DefaultHasher {
    let mut hasher = DefaultHasher::new();
    let headers = std::iter::once(emulator).chain(kernels.iter().map(PathBuf::as_path));
    for file in headers.flat_map(|folder| files(folder, &["h", "cuh", "in"])) {
        std::fs::read(file).unwrap().hash(&mut hasher);
    }
    std::fs::read("build.rs").unwrap().hash(&mut hasher);
    for variable in ["CXX", "CXXFLAGS", "TARGET", "SEQSTREAM_SIM_SANITIZE"] {
        std::env::var_os(variable).hash(&mut hasher);
    }
    hasher
}

/// Side by side, and only those that changed.
fn compile_kernels(sources: &[PathBuf], common: &DefaultHasher) -> Vec<PathBuf> {
    let queue = Mutex::new(sources.iter());
    let objects = Mutex::new(Vec::new());
    let workers = std::thread::available_parallelism().map_or(2, |n| n.get());
    std::thread::scope(|scope| {
        for _ in 0..workers.min(sources.len()) {
            scope.spawn(|| {
                loop {
                    let Some(source) = queue.lock().unwrap().next() else {
                        return;
                    };
                    let object = kernel(source, common.clone());
                    objects.lock().unwrap().push(object);
                }
            });
        }
    });
    let mut objects = objects.into_inner().unwrap();
    objects.sort();
    objects
}

/// One kernel file, in an anonymous namespace, with its static shared memory in a section of the file's own.
fn kernel(source: &Path, mut state: DefaultHasher) -> PathBuf {
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("Cargo sets it"));
    let name = source.file_stem().unwrap().to_string_lossy();
    let source = source.canonicalize().unwrap();
    let section = format!("emu_shared_{name}");
    let object = out.join(format!("kernel_{name}.o"));
    let stamp = object.with_extension("stamp");
    std::fs::read(&source).unwrap().hash(&mut state);
    let state = format!("{:016x}", state.finish());
    if object.is_file() && std::fs::read_to_string(&stamp).is_ok_and(|made| made == state) {
        return object;
    }
    let wrapper = out.join(format!("kernel_{name}.cpp"));
    let text = std::fs::read_to_string("emu/kernel_file.in")
        .unwrap()
        .replace("@SECTION@", &section)
        .replace("@FILE@", &source.to_string_lossy());
    std::fs::write(&wrapper, text).unwrap();
    let mut build = compiler();
    let compiled = build
        .cargo_output(false)
        .flag("-fno-data-sections")
        .flags(checks())
        .file(&wrapper)
        .compile_intermediates();
    // A variable of a function template takes no section attribute (g++'s bug 70435).
    let renamed = Command::new("objcopy")
        .arg("--rename-section")
        .arg(format!(".bss={section}"))
        .args([&compiled[0], &object])
        .status();
    assert!(
        renamed.as_ref().is_ok_and(|status| status.success()),
        "objcopy, of the binutils: {renamed:?}"
    );
    std::fs::write(&stamp, state).unwrap();
    object
}

/// What g++ checks in a kernel; `emu/ubsan.cpp` makes errors of it.
fn checks() -> &'static [&'static str] {
    if sanitizes_addresses() {
        return &[];
    }
    &["-fsanitize=alignment,bounds,null"]
}

fn sanitizes_addresses() -> bool {
    let wanted = std::env::var("SEQSTREAM_SIM_SANITIZE").unwrap_or_default();
    assert!(
        ["", "address"].contains(&wanted.as_str()),
        "SEQSTREAM_SIM_SANITIZE is address, or not set"
    );
    !wanted.is_empty()
}

/// Returns a folder and all folders below it; nothing where it does not exist.
fn folders(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let below = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut found: Vec<PathBuf> = below
        .filter(|path| path.is_dir())
        .flat_map(|path| folders(&path))
        .collect();
    found.push(folder.to_owned());
    found.sort();
    found
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
