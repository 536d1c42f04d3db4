//! Compiles the `.cu` files below `kernels/` to fatbins and embeds them. Without nvcc the other code still builds:
//! this script then warns of what is missing, and the program answers `--device cuda` with the
//! remedy. It also compiles the trampolines to the CUDA driver, and finds the commit of the sources.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a build script fails by panicking

#[path = "build/commit.rs"]
mod commit;
#[path = "build/compile.rs"]
mod compile;
#[path = "build/nvcc.rs"]
mod nvcc;
#[path = "build/trampolines.rs"]
mod trampolines;

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    for path in ["build.rs", "build", "kernels"] {
        println!("cargo:rerun-if-changed={path}");
    }
    let found = nvcc::find(&root);
    let table = match &found {
        Ok(nvcc) => {
            let fatbins = compile::all(nvcc, &root.join("kernels"), &out);
            table(Some(nvcc), &fatbins)
        }
        Err(missing) => {
            println!("cargo:warning=no CUDA kernels in this build: {missing}");
            table(None, &[])
        }
    };
    fs::write(out.join("kernels.rs"), table).unwrap();
    include_driver(&root.join("src/gpu/driver"), &out);
    println!("cargo:rustc-env=SEQSTREAM_COMMIT={}", commit_of(&root));
}

/// Compiles the trampolines, which define every function of the CUDA driver that cust declares. cust
/// itself would link -lcuda, and a program that is linked so does not start on a machine without a
/// driver.
fn include_driver(folder: &Path, out: &Path) {
    let (list, source) = (folder.join("symbols.txt"), folder.join("trampolines.c"));
    println!("cargo:rerun-if-changed={}", list.display());
    println!("cargo:rerun-if-changed={}", source.display());
    let symbols = fs::read_to_string(list).unwrap();
    fs::write(out.join("symbols.inc"), trampolines::table(&symbols)).unwrap();
    cc::Build::new()
        .file(source)
        .include(out)
        .opt_level(2)
        // cust comes later on the linker's command line, and not every linker looks back.
        .link_lib_modifier("+whole-archive")
        .compile("cuda_trampolines");
    println!("cargo:rustc-link-lib=dylib=dl");
}

/// Returns the commit of the sources. A development build does not look for it, because every commit
/// would otherwise compile the library and all tests again.
fn commit_of(root: &Path) -> String {
    if env::var("PROFILE").as_deref() != Ok("release") {
        return "not recorded in a development build".into();
    }
    for path in ["src", "Cargo.toml", "Cargo.lock"] {
        println!("cargo:rerun-if-changed={path}");
    }
    if let Some(path) = commit::changes_with(root) {
        println!("cargo:rerun-if-changed={}", path.display());
    }
    commit::find(root)
}

/// Returns the Rust source of the table of fatbins.
fn table(nvcc: Option<&nvcc::Nvcc>, fatbins: &[(String, PathBuf)]) -> String {
    let mut rust = String::new();
    let _ = writeln!(
        rust,
        "/// What compiled the kernels; none without nvcc.\npub const NVCC: Option<&str> = {:?};",
        nvcc.map(|n| n.version.as_str())
    );
    let architectures = nvcc.map(|n| n.architectures()).unwrap_or_default();
    let _ = writeln!(
        rust,
        "/// What each fatbin holds.\npub const ARCHITECTURES: &[&str] = &{architectures:?};"
    );
    let _ = writeln!(
        rust,
        "/// Fatbins, by the name of their source.\npub const FATBINS: &[(&str, &[u8])] = &["
    );
    for (name, path) in fatbins {
        let path: &Path = path;
        let _ = writeln!(rust, "    ({name:?}, include_bytes!({path:?})),");
    }
    rust.push_str("];\n");
    rust
}
