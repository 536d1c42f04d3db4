// Attention with heads of 128 columns for Hopper, f16 and bf16: attention90_heads.cuh, and by tensor copies
// attention90_tensor.cuh.
#include "../attention90_tensor.cuh"

constexpr int THREADS = Shape90<128>::THREADS;

KERNEL_RESIDENT(attention90_f16_128, AttentionParams, THREADS, 1, (attention90_heads<__half, 128>))
KERNEL_RESIDENT(attention90_bf16_128, AttentionParams, THREADS, 1, (attention90_heads<__nv_bfloat16, 128>))

using Tensor = TensorShape90<128>;

KERNEL_RESIDENT(attention90_f16_128_tensor, AttentionTensorParams, Tensor::THREADS, 1,
                (attention90_tensor<__half, Tensor>))
KERNEL_RESIDENT(attention90_bf16_128_tensor, AttentionTensorParams, Tensor::THREADS, 1,
                (attention90_tensor<__nv_bfloat16, Tensor>))
