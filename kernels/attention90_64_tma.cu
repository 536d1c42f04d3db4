// Attention with heads of 64 columns for Hopper, f16 and bf16, keys and values by tensor copies: attention90.cuh.
#include "attention90.cuh"

constexpr int THREADS = 128 * (1 + HOPPER_CONSUMERS);

template <typename T> __device__ __forceinline__ void attention90_tma(const AttentionTmaParams &p) {
    attention90<T, true>(p.attention, &p.qkv);
}

KERNEL_RESIDENT(attention90_tma_f16_64, AttentionTmaParams, THREADS, 1, (attention90_tma<__half>))
KERNEL_RESIDENT(attention90_tma_bf16_64, AttentionTmaParams, THREADS, 1, (attention90_tma<__nv_bfloat16>))
