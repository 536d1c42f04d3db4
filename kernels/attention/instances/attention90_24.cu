// Attention with heads of 24 columns for Hopper, f16 and bf16: attention90_heads.cuh, and by tensor copies
// attention90_tensor.cuh.
#include "../attention90_tensor.cuh"

constexpr int THREADS = Shape90<24>::THREADS;

KERNEL_RESIDENT(attention90_f16_24, AttentionParams, THREADS, 1, (attention90_heads<__half, 24>))
KERNEL_RESIDENT(attention90_bf16_24, AttentionParams, THREADS, 1, (attention90_heads<__nv_bfloat16, 24>))

using Tensor = TensorShape90<24>;

KERNEL_RESIDENT(attention90_f16_24_tensor, AttentionTensorParams, Tensor::THREADS, 1,
                (attention90_tensor<__half, Tensor>))
KERNEL_RESIDENT(attention90_bf16_24_tensor, AttentionTensorParams, Tensor::THREADS, 1,
                (attention90_tensor<__nv_bfloat16, Tensor>))
