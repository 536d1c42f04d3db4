// Attention with heads of 16 columns for Hopper, f16 and bf16: attention90_heads.cuh, and by tensor copies
// attention90_tensor.cuh.
#include "../attention90_tensor.cuh"

constexpr int THREADS = Shape90<16>::THREADS;

KERNEL_RESIDENT(attention90_f16_16, AttentionParams, THREADS, 1, (attention90_heads<__half, 16>))
KERNEL_RESIDENT(attention90_bf16_16, AttentionParams, THREADS, 1, (attention90_heads<__nv_bfloat16, 16>))

using Tensor = TensorShape90<16>;

KERNEL_RESIDENT(attention90_f16_16_tensor, AttentionTensorParams, Tensor::THREADS, 1,
                (attention90_tensor<__half, Tensor>))
KERNEL_RESIDENT(attention90_bf16_16_tensor, AttentionTensorParams, Tensor::THREADS, 1,
                (attention90_tensor<__nv_bfloat16, Tensor>))
