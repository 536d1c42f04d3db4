// Attention with heads of 64 columns for Hopper, f16 and bf16: attention90.cuh.
#include "../attention90.cuh"

KERNEL_RESIDENT(attention90_f16_64, AttentionParams, HOPPER_THREADS, 1, (attention90<__half>))
KERNEL_RESIDENT(attention90_bf16_64, AttentionParams, HOPPER_THREADS, 1, (attention90<__nv_bfloat16>))
