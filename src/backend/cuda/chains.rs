//! Decides the lengths of the chains that GEMMs sum in. In f32 a GEMM has to be as exact as on the
//! CPU: within 1.5 times PyTorch's error. On some sequences PyTorch's error happens to be half of
//! its error on other sequences.

use crate::dtype::DType;
use crate::gpu::cublaslt::WHOLE;

/// The longest chain of sums of an f32 GEMM. In f32, cuBLASLt sums an output in one chain over K,
/// and the rounding error of a chain grows with the square root of its length.
///
/// The ratio of this program's error to PyTorch's error, over the 210 cases of at least
/// [`SHORT_TOKENS`] tokens in the committed golden files, has a geometric mean of 0.80 and a
/// maximum of 1.35 with chains of 512, 0.73 and 1.28 with chains of 256, and 0.67 and 1.22 with
/// chains of 128. K is at most 1536 in these cases; with one chain over all of K the ratio grows
/// with K.
///
/// The sum of each chain is added to the output in memory: 8 bytes are read and written for 2·256
/// operations. On an H100, with 2.9 TB/s and about 50 TFLOP/s in f32, that takes 2.8 ps of memory
/// time for 10.2 ps of arithmetic, so at most 27 % more time. Chains of 128 would take 54 % more,
/// and chains of 64 as much again as the GEMM itself.
const CHAIN: usize = 256;
/// Sequences of fewer tokens than this belong to the class [`SHORT`]. For them PyTorch sums in
/// several short chains, and is two to three times as exact as for longer sequences (see
/// `backend/cpu/gemm.rs`). With chains of 32 the largest ratio to PyTorch's error over 80 cases was
/// 1.53; with `kernels/gemm/gemm_short.cu` it is 1.12.
const SHORT_TOKENS: usize = 16;
/// The class of short sequences in f32, whose GEMMs are not cuBLASLt's.
pub(super) const SHORT: usize = 1;

/// Returns the class of a sequence of `tokens` tokens, which depends on its length alone.
pub(super) fn class(dtype: DType, tokens: usize) -> usize {
    match dtype {
        DType::F32 if tokens < SHORT_TOKENS => SHORT,
        _ => 0,
    }
}

/// Returns the longest chain that cuBLASLt's GEMMs may sum in.
pub(super) fn longest(dtype: DType) -> usize {
    match dtype {
        DType::F32 => CHAIN,
        DType::F16 | DType::Bf16 => WHOLE,
    }
}
