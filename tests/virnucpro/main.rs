//! The results of VirNucPro: classifiers, tables and `.pt` files, against what independent
//! implementations and a real PyTorch make (tests/golden/classifier, tests/golden/virnucpro).

#![allow(clippy::unwrap_used)] // test helpers may panic, as tests may

mod classifier;
mod tables;
mod vectors;
