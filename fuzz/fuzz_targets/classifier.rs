//! Any bytes as a file of a classifier.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../bodies/classifier.rs"]
mod body;

fuzz_target!(|data: &[u8]| body::check(data));
