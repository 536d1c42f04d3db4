//! A simulated CUDA driver and cuBLASLt: a shared library that exports `cu*` and `cublasLt*`
//! symbols, so that an engine runs unchanged on a machine without a GPU. README.md lists its
//! guarantees; this is a map of its modules.
//!
//! ```text
//! driver_api/   cu* symbols             \
//! cublaslt_api  cublasLt* symbols        |  the C ABI; each call enters through `call`
//! control       seqstream_sim_* symbols /
//! call          one call: lock, count, fault on demand, lost context, log
//! sim           the state behind the lock: devices, contexts, streams, events, handles
//! operations    into the queue, and out of it: submit, wait, query, run; losing a context
//! queue         operations and what each waits for, as a graph; safe and without CUDA
//! schedule      which of the ready operations runs next: as late as is legal, in a seeded order
//! run           what an operation does when it runs
//! memory/       device and pinned memory on guarded pages; the handler of page faults
//! kernel        emulated kernels: the registry, and a launch block by block
//! clock         virtual time, where a machine file is set; machine: the figures of such a file
//! matmul        cuBLASLt's product, in f32; cublaslt_algorithms: what it offers to compute it
//! ```
#![cfg(target_os = "linux")]

mod abi;
mod call;
mod clock;
mod code;
mod config;
pub mod control;
mod counters;
mod cublaslt_algorithms;
pub mod cublaslt_api;
pub mod driver_api;
mod fault;
mod kernel;
mod log;
mod machine;
mod matmul;
mod memory;
mod operations;
mod queue;
mod random;
mod run;
mod schedule;
mod sim;

pub use clock::{Cost, CostFunction, CostedLaunch};
pub use counters::Counters;
pub use kernel::EmuKernel;
