//! The program, run from outside: on the CPU, and on simulated and real CUDA devices (`cuda_*`).

#![allow(clippy::unwrap_used)] // test helpers may panic, as tests may

mod bad_records;
mod bench;
mod clusters;
mod cuda_algorithms;
mod cuda_embed;
mod cuda_program;
mod cuda_streamed;
mod embed;
mod export;
#[cfg(any(feature = "export-h5", feature = "export-parquet"))]
mod export_features;
mod foreign;
mod inputs;
mod kill;
mod output;
mod overlap;
mod process;
mod report;
mod simulate;
mod trace;
mod typed;
mod virnucpro;

#[path = "../support"]
mod support {
    pub mod cli;
    #[cfg(target_os = "linux")]
    #[allow(dead_code)] // only the driver's library, `real` and `algorithms` are used here
    pub mod cuda;
}
