//! What products sum in, where f32 has to be as exact as on the CPU: within 1.5 times PyTorch's error, which on some
//! sequences is by luck half of what it is on others.

use crate::dtype::DType;
use crate::gpu::cublaslt::WHOLE;

/// The longest chain of sums of an f32 product. cuBLASLt's f32 sums an output in one chain over K, whose rounding grows
/// with the root of its length.
///
/// Over the 210 cases of the committed golden files of at least [`SHORT_TOKENS`] tokens, the geometric mean of error to
/// PyTorch's error, and the largest one, are 0.80 and 1.35 with chains of 512, 0.73 and 1.28 with 256, 0.67 and 1.22 with
/// 128, where K is 1536 at most; one chain of all K grows with it.
///
/// A chain's sum is added to the output in memory: 8 bytes read and written for 2·256 operations. On an H100, with 2.9
/// TB/s and some 50 TFLOP/s in f32, that is 2.8 ps for 10.2 ps, at most 27 % more; with chains of 128 54 %, with 64 as
/// much again as the product itself.
const CHAIN: usize = 256;
/// Tokens of a sequence below which it is of the class [`SHORT`]: there PyTorch sums in several short chains, and is two
/// to three times as exact (`backend/cpu/gemm.rs`). With chains of 32 the largest of 80 cases was 1.53, with
/// `kernels/gemm_short.cu` it is 1.12.
const SHORT_TOKENS: usize = 16;
/// The class of short sequences in f32, whose products are not cuBLASLt's.
pub(super) const SHORT: usize = 1;

/// The class of a sequence of so many tokens: by its length alone.
pub(super) fn class(dtype: DType, tokens: usize) -> usize {
    match dtype {
        DType::F32 if tokens < SHORT_TOKENS => SHORT,
        _ => 0,
    }
}

/// The longest chain of cuBLASLt's products.
pub(super) fn longest(dtype: DType) -> usize {
    match dtype {
        DType::F32 => CHAIN,
        DType::F16 | DType::Bf16 => WHOLE,
    }
}
