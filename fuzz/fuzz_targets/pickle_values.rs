//! Values written as pickles are read as what they are.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../bodies/pickle_values.rs"]
mod body;

fuzz_target!(|bytes: &[u8]| body::check(bytes));
