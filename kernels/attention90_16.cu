// Attention with heads of 16 columns for Hopper, f16 and bf16: attention90_heads.cuh, and by tensor copies attention90_tensor.cuh.
#include "attention90_tensor.cuh"

constexpr int THREADS = Shape90<16>::THREADS;

KERNEL_RESIDENT(attention90_f16_16, AttentionParams, THREADS, 1, (attention90_heads<__half, 16>))
KERNEL_RESIDENT(attention90_bf16_16, AttentionParams, THREADS, 1, (attention90_heads<__nv_bfloat16, 16>))

constexpr int TENSOR_THREADS = TensorShape90<16>::THREADS;

KERNEL_RESIDENT(attention90_f16_16_tensor, AttentionTensorParams, TENSOR_THREADS, 1, (attention90_tensor<__half, 16>))
KERNEL_RESIDENT(attention90_bf16_16_tensor, AttentionTensorParams, TENSOR_THREADS, 1, (attention90_tensor<__nv_bfloat16, 16>))
