// Attention with heads of 96 columns, f16 and bf16: attention_long.cuh and attention_short.cuh.
#include "../attention_long.cuh"
#include "../attention_short.cuh"

constexpr int THREADS = 32 * ATTENTION_TILE<96>.warps, BLOCKS = ATTENTION_TILE<96>.blocks;

KERNEL_RESIDENT(attention_f16_96, AttentionParams, THREADS, BLOCKS, (attention_long<__half, 96, true, false>))
KERNEL_RESIDENT(attention_bf16_96, AttentionParams, THREADS, BLOCKS, (attention_long<__nv_bfloat16, 96, true, false>))
KERNEL_RESIDENT(attention_f16_96_ready, AttentionParams, THREADS, BLOCKS, (attention_long<__half, 96, true, true>))
KERNEL_RESIDENT(attention_bf16_96_ready, AttentionParams, THREADS, BLOCKS, (attention_long<__nv_bfloat16, 96, true, true>))
KERNEL(attention_f16_96_short, AttentionParams, ATTENTION_SHORT_THREADS, (attention_short<__half, 96, true>))
KERNEL(attention_bf16_96_short, AttentionParams, ATTENTION_SHORT_THREADS, (attention_short<__nv_bfloat16, 96, true>))
