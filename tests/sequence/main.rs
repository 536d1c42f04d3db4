//! Sequences: what is read, how it is cleaned, and the tokens that it becomes.

#![allow(clippy::unwrap_used, clippy::expect_used)] // test helpers may panic, as tests may

mod bad_records;
mod cleaning;
mod dirty;
mod dirty_foreign;
mod endings;
mod fragments;
mod fuzzed;
mod inputs;
mod kinds;
mod limits;
mod properties;
mod tokens;

#[path = "../support"]
mod support {
    pub mod sequence;
}
