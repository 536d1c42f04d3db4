//! Faithfulness: every model against float64 references of Hugging Face, fair-esm and DNABERT.
//!
//! `tests/golden/models/README.md` describes the layout. The bound, for the token states and for
//! the means of each sequence: norm(out - ref) / norm(ref) is at most 1.5 times the error of
//! Hugging Face's own f32 run, and never above 1e-5, on every SIMD level of this machine. `cargo
//! test --test models golden_states:: -- --nocapture` prints the table.

use crate::support::bodies;
use crate::support::golden::{checkpoint, golden_files, golden_folder, read};
use seqstream::backend::cpu::{Cpu, simd};
use seqstream::model::Model;
use seqstream::sequence::Tokenizer;
use std::path::Path;

/// The largest error allowed, as a multiple of the peer's own rounding error.
const PEER_FACTOR: f64 = 1.5;
const CEILING: f64 = 1e-5;

fn check(path: &Path) {
    let (golden, references) = read(path);
    let checkpoint = checkpoint(&golden);
    if golden.model.kind == "esm2" {
        for r in &references {
            let mut ids = Vec::new();
            Tokenizer::esm2().encode(r.text.as_bytes(), &mut ids);
            assert_eq!(ids, r.ids, "token ids of {}", r.name);
        }
    }
    let mut failures = Vec::new();
    for (level, arch) in simd::levels() {
        let cpu = Cpu::with_arch(2, arch).expect("threads");
        let mut model = Model::load(cpu, checkpoint.config(), &checkpoint).expect("model");
        let bar = |peer: f64| (PEER_FACTOR * peer).min(CEILING);
        let over = bodies::faithful(level, path, &mut model, (&golden, &references), bar);
        failures.extend(over);
        let short = references.iter().filter(|r| r.ids.len() <= 70);
        let short: Vec<_> = short.map(|r| r.ids.clone()).collect();
        bodies::same_whatever_is_asked_for(level, &mut model, &short);
        bodies::poolings_are_those_of_the_states(level, &mut model, &short);
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Defines one test per golden file, so that a failing file is named.
macro_rules! golden {
    ($($name:ident: $file:literal,)*) => {
        $(#[test] fn $name() {
            check(&golden_folder().join($file));
        })*

        #[test]
        fn every_golden_file_has_its_test() {
            let mut tested = vec![$($file),*];
            tested.sort();
            let found: Vec<_> = golden_files();
            let found: Vec<_> = found.iter().filter_map(|p| p.file_name()?.to_str()).collect();
            assert_eq!(found, tested);
        }
    };
}

golden! {
    esm2_head_dim_16: "esm2-head16.safetensors",
    esm2_head_dim_24: "esm2-head24.safetensors",
    esm2_head_dim_32: "esm2-head32.safetensors",
    esm2_head_dim_64: "esm2-head64.safetensors",
    esm2_head_dim_64_odd_heads: "esm2-head64-odd.safetensors",
    esm2_head_dim_128: "esm2-head128.safetensors",
    dnabert_12_heads: "dnabert-heads12.safetensors",
    dnabert_8_heads: "dnabert-heads8.safetensors",
    dnabert_6_heads: "dnabert-heads6.safetensors",
}
