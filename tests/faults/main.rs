//! A machine that fails, and what stands in an output directory then.
//!
//! A small library in C, loaded before all others, numbers the calls that the program makes on files
//! and disturbs one of them; it also writes the log by which the order of syncing and naming is
//! checked. `scripts/fault-sweep` disturbs every call, `cargo test` every so many.
#![cfg(target_os = "linux")]
// Helpers of tests are tests.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../cli_support/mod.rs"]
mod cli_support;
mod journal;
mod locks;
mod power;
mod preload;
mod sweep;
mod workplace;
