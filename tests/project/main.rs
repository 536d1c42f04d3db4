//! Tests of this repository rather than of the code: the README, and what each module imports.

#![allow(clippy::unwrap_used)] // test helpers may panic, as tests may

mod build;
mod layers;
mod readme;
