// Attention with heads of 64 columns for Hopper, f16 and bf16: attention90.cuh, and by tensor copies
// attention90_tensor.cuh.
#include "../attention90_tensor.cuh"

KERNEL_RESIDENT(attention90_f16_64, AttentionParams, HOPPER_THREADS, 1, (attention90<__half>))
KERNEL_RESIDENT(attention90_bf16_64, AttentionParams, HOPPER_THREADS, 1, (attention90<__nv_bfloat16>))

using Tensor = TensorShape90<64>;

KERNEL_RESIDENT(attention90_f16_64_tensor, AttentionTensorParams, Tensor::THREADS, 1,
                (attention90_tensor<__half, Tensor>))
KERNEL_RESIDENT(attention90_bf16_64_tensor, AttentionTensorParams, Tensor::THREADS, 1,
                (attention90_tensor<__nv_bfloat16, Tensor>))
