//! Prepares the source of the trampolines to the CUDA driver, `src/gpu/driver/trampolines.c`.

use std::fmt::Write;

/// Returns the symbols as a C macro: `SYMBOLS(X)` expands to `X(name, index)` for each symbol.
pub fn table(symbols: &str) -> String {
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
