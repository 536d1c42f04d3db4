//! One tiny kernel for each wrapper of `kernels/ptx.cuh` and `ptx90.cuh`, against what the PTX ISA documents. What is
//! expected is computed here, from the documented layouts, and knows nothing of the emulator: the same tests pass on
//! a device (SEQSTREAM_TEST_GPU=1), so that emulator and device agree.
//!
//! Numbers are small integers, whose sums are exact in every order.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)] // the helpers of tests are tests

mod cuda_support;

#[path = "cuda_conformance/barriers.rs"]
mod barriers;
#[path = "cuda_conformance/bench.rs"]
mod bench;
#[path = "cuda_conformance/fragments.rs"]
mod fragments;
#[path = "cuda_conformance/numbers.rs"]
mod numbers;
#[path = "cuda_conformance/tensors.rs"]
mod tensors;
#[path = "cuda_conformance/warpgroups.rs"]
mod warpgroups;

#[test]
fn on_a_real_gpu() {
    cuda_support::real::again();
}
