// Attention with heads of 32 columns for Hopper, f16 and bf16: attention90_heads.cuh, and by tensor copies
// attention90_tensor.cuh.
#include "../attention90_tensor.cuh"

constexpr int THREADS = Shape90<32>::THREADS;

KERNEL_RESIDENT(attention90_f16_32, AttentionParams, THREADS, 1, (attention90_heads<__half, 32>))
KERNEL_RESIDENT(attention90_bf16_32, AttentionParams, THREADS, 1, (attention90_heads<__nv_bfloat16, 32>))

using Tensor = TensorShape90<32>;

KERNEL_RESIDENT(attention90_f16_32_tensor, AttentionTensorParams, Tensor::THREADS, 1,
                (attention90_tensor<__half, Tensor>))
KERNEL_RESIDENT(attention90_bf16_32_tensor, AttentionTensorParams, Tensor::THREADS, 1,
                (attention90_tensor<__nv_bfloat16, Tensor>))
