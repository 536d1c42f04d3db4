//! Compiles the `.cu` files below `kernels/` to fatbins and embeds them. Without nvcc the other code still builds:
//! this script then warns of what is missing, and the program answers `--device cuda` with the
//! remedy.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a build script fails by panicking

#[path = "build/compile.rs"]
mod compile;
#[path = "build/nvcc.rs"]
mod nvcc;

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
