//! One tiny kernel for each wrapper of `kernels/common/ptx.cuh` and `ptx90.cuh`, compared with the
//! documentation of the PTX ISA. The expected values are computed here, from the documented
//! layouts, independently of the emulator: the same tests pass on a device (SEQSTREAM_TEST_GPU=1),
//! so emulator and device agree.
//!
//! Numbers are small integers, whose sums are exact in every order.

use crate::support::cuda;
mod barriers;
mod bench;
mod fragments;
mod numbers;
mod tensors;
mod warpgroups;

#[test]
fn on_a_real_gpu() {
    cuda::real::again(module_path!());
}
