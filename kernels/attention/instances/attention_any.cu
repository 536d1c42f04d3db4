// Attention with heads of any multiple of 8 columns up to 128, f16 and bf16: attention_long.cuh on tiles of 128
// columns, padded with zeros. For widths that no published model has; those have kernels of their own.
#include "../attention_long.cuh"

constexpr int THREADS = 32 * ATTENTION_TILE<128>.warps, BLOCKS = ATTENTION_TILE<128>.blocks;

KERNEL_RESIDENT(attention_f16_any, AttentionParams, THREADS, BLOCKS, (attention_long<__half, 128, false, false>))
KERNEL_RESIDENT(attention_bf16_any, AttentionParams, THREADS, BLOCKS, (attention_long<__nv_bfloat16, 128, false, false>))
