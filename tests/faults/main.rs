//! A machine that fails, and the state in which it leaves an output directory.
//!
//! A small library in C, which is loaded before all others, numbers the calls that the program
//! makes on files and disturbs one of them. It also writes the log from which the order of syncing
//! and renaming is checked. `scripts/fault-sweep` disturbs every call, and `cargo test` only a part
//! of them.
#![cfg(target_os = "linux")]
// Test helpers may panic, as tests may.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[cfg(feature = "hub")]
mod hub;
mod journal;
mod locks;
mod power;
mod preload;
mod sweep;
mod workplace;

#[path = "../support"]
mod support {
    #[allow(dead_code)] // only what all jobs need is used here
    pub mod cli;
    #[cfg(feature = "hub")]
    #[allow(dead_code)] // other tests use other parts
    pub mod hub;
}
