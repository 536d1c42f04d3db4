//! Any bytes as an input file.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../bodies/fasta.rs"]
mod body;

fuzz_target!(|bytes: &[u8]| body::check(bytes));
