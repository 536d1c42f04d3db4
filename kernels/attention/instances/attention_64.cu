// Attention with heads of 64 columns, f16 and bf16: attention_long.cuh and attention_short.cuh.
#include "../attention_long.cuh"
#include "../attention_short.cuh"

constexpr int THREADS = 32 * ATTENTION_TILE<64>.warps, BLOCKS = ATTENTION_TILE<64>.blocks;

KERNEL_RESIDENT(attention_f16_64, AttentionParams, THREADS, BLOCKS, (attention_long<__half, 64, true, false>))
KERNEL_RESIDENT(attention_bf16_64, AttentionParams, THREADS, BLOCKS, (attention_long<__nv_bfloat16, 64, true, false>))
KERNEL_RESIDENT(attention_f16_64_ready, AttentionParams, THREADS, BLOCKS, (attention_long<__half, 64, true, true>))
KERNEL_RESIDENT(attention_bf16_64_ready, AttentionParams, THREADS, BLOCKS, (attention_long<__nv_bfloat16, 64, true, true>))
KERNEL(attention_f16_64_short, AttentionParams, ATTENTION_SHORT_THREADS, (attention_short<__half, 64, true>))
KERNEL(attention_bf16_64_short, AttentionParams, ATTENTION_SHORT_THREADS, (attention_short<__nv_bfloat16, 64, true>))
