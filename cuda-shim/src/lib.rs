//! Replaces the crate find_cuda_helper, by `[patch.crates-io]` in the workspace.
//!
//! The build script of cust's bindings calls this crate. The original looks for a CUDA toolkit,
//! panics without one, and links `-lcuda`; a program that is linked in this way does not start on a
//! machine without a driver. This replacement compiles `trampolines.c` instead: for each driver
//! call it defines a function of the same name that jumps to the driver's function, which dlopen
//! and dlsym find at the first call. The same program then starts everywhere, and without a driver
//! `cuInit` returns CUDA_ERROR_NO_DEVICE.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// Compiles the trampolines into the package whose build script calls this.
///
/// # Panics
/// Panics if the compiler fails, since a build script fails by panicking.
#[allow(clippy::unwrap_used, clippy::expect_used)] // a build script
pub fn include_cuda() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (list, source) = (here.join("symbols.txt"), here.join("trampolines.c"));
    println!("cargo:rerun-if-changed={}", list.display());
    println!("cargo:rerun-if-changed={}", source.display());
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let symbols = fs::read_to_string(list).unwrap();
    fs::write(out.join("symbols.inc"), table(&symbols)).unwrap();
    cc::Build::new()
        .file(source)
        .include(&out)
        .opt_level(2)
        .compile("cuda_trampolines");
    println!("cargo:rustc-link-lib=dylib=dl");
}

/// Returns the symbols as a C macro: `SYMBOLS(X)` expands to `X(name, index)` for each symbol.
fn table(symbols: &str) -> String {
    let mut c = String::from("#define SYMBOLS(X) \\\n");
    let mut count = 0;
    for name in symbols.lines().map(str::trim).filter(|l| !l.is_empty()) {
        // Writing to a String cannot fail.
        let _ = writeln!(c, "  X({name}, {count}) \\");
        count += 1;
    }
    let _ = write!(c, "\n#define SYMBOL_COUNT {count}\n");
    c
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_table_numbers_every_symbol_once() {
        let c = super::table("cuInit\n\n  cuCtxSynchronize \n");
        assert_eq!(
            c,
            "#define SYMBOLS(X) \\\n  X(cuInit, 0) \\\n  X(cuCtxSynchronize, 1) \\\n\n#define SYMBOL_COUNT 2\n"
        );
    }

    #[test]
    fn no_symbol_is_listed_twice() {
        let mut names: Vec<_> = include_str!("../symbols.txt").lines().collect();
        let listed = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), listed);
        assert!(names.iter().all(|n| n.starts_with("cu")), "{names:?}");
    }
}
