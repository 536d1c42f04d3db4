//! Whole models on the CPU: their values, their bits, their memory, and what they ask of a backend.

#![allow(clippy::expect_used, clippy::unwrap_used)] // test helpers may panic, as tests may

mod golden_states;
mod invariance;
mod memory;
mod passes;
mod session;

#[path = "../support"]
mod support {
    pub mod bodies;
    pub mod golden;
}
