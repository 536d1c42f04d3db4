//! The body of the fuzz target of the same name, on made-up bytes: values written as pickles are
//! read back unchanged.

use std::path::Path;

#[path = "../../fuzz/bodies/pickle_values.rs"]
mod body;

#[test]
fn values_are_read_as_they_were_written() {
    let mut state = 7u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    for round in 0..20_000 {
        let bytes: Vec<u8> = (0..round % 700).map(|_| next()).collect();
        body::check(&bytes);
    }
}

#[test]
fn the_corpus_passes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/pickle_values");
    let mut checked = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        body::check(&std::fs::read(entry.unwrap().path()).unwrap());
        checked += 1;
    }
    assert!(checked >= 3);
}
