//! One tiny kernel for each wrapper of `kernels/common/ptx.cuh` and `ptx90.cuh`, compared with the
//! documentation of the PTX ISA. The expected values are computed here, from the documented
//! layouts, independently of the emulator: the same tests pass on a device (SEQSTREAM_TEST_GPU=1),
//! so emulator and device agree.
//!
//! Numbers are small integers, whose sums are exact in every order.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)] // test helpers may panic, as tests may

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
