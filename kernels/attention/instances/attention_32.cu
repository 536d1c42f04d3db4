// Attention with heads of 32 columns, f16 and bf16: attention_long.cuh and attention_short.cuh.
#include "../attention_long.cuh"
#include "../attention_short.cuh"

constexpr int THREADS = 32 * ATTENTION_TILE<32>.warps, BLOCKS = ATTENTION_TILE<32>.blocks;

KERNEL_RESIDENT(attention_f16_32, AttentionParams, THREADS, BLOCKS, (attention_long<__half, 32, true, false>))
KERNEL_RESIDENT(attention_bf16_32, AttentionParams, THREADS, BLOCKS, (attention_long<__nv_bfloat16, 32, true, false>))
KERNEL_RESIDENT(attention_f16_32_ready, AttentionParams, THREADS, BLOCKS, (attention_long<__half, 32, true, true>))
KERNEL_RESIDENT(attention_bf16_32_ready, AttentionParams, THREADS, BLOCKS, (attention_long<__nv_bfloat16, 32, true, true>))
KERNEL(attention_f16_32_short, AttentionParams, ATTENTION_SHORT_THREADS, (attention_short<__half, 32, true>))
KERNEL(attention_bf16_32_short, AttentionParams, ATTENTION_SHORT_THREADS, (attention_short<__nv_bfloat16, 32, true>))
