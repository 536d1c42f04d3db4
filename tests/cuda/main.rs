//! The CUDA backend in this process: kernels, products and whole models, on the simulated driver.
//! Where there is a GPU, each file with a test `on_a_real_gpu` runs a second time on it
//! (`support/cuda/real.rs`).
//!
//! Nothing here uses the simulated driver if SEQSTREAM_TEST_GPU=1, because a process loads one
//! driver only; tests of the simulated driver alone are in `streams`. Tests that start the program
//! are in `cli`, because some tests here change the environment, which a child would inherit.

#![cfg(target_os = "linux")]
#![allow(clippy::expect_used, clippy::unwrap_used)] // test helpers may panic, as tests may

mod attention;
#[path = "../cases/mod.rs"]
mod cases;
mod conformance;
mod gemm;
mod gemm_choice;
mod gemm_faults;
mod gemm_gelu;
mod gemm_qkv;
mod kernels;
mod model_faults;
mod models;
mod represent;
mod streamed;
mod streams;

#[path = "../support"]
mod support {
    pub mod bodies;
    pub mod cuda;
    pub mod golden;
    pub mod stream;
}
