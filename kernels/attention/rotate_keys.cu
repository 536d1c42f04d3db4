// Rotates keys where they lie, in f32, rounded once: the kernels rotate_keys_T_D, before the kernels for Hopper.
//
// Computes: for each item that begins a sequence (row 0) of more than `rotates` tokens (launch.h), the rotation of that
// sequence's keys. Nothing else is written; queries and values stay.
//
// Shapes: params.h, AttentionParams, with heads of D columns.
//
// Launch: ROTATE_BLOCKS blocks for each item, 256 threads. Blocks of other items end at once.
//
// Bound: bytes, the keys read and written once. Measured: benches/results/2026-11-29-attention-h200.md.
#include "attention.cuh"

template <typename T, int D, int ROTATES> __device__ __forceinline__ void rotate_keys(const AttentionParams &p) {
    const AttentionItem item = at<const AttentionItem>(p.items)[blockIdx.x / ROTATE_BLOCKS];
    if (item.row != 0 || int(item.length) <= ROTATES) return;
    constexpr uint32_t UNITS = D / 16; // of 8 columns and their partners, a head
    const uint32_t units = p.heads * UNITS;
    const uint64_t row_stride = uint64_t(p.heads) * D, stride = 3 * row_stride;
    T *const keys = at<T>(p.qkv) + item.first * stride + row_stride;
    for (uint32_t row = blockIdx.x % ROTATE_BLOCKS; row < item.length; row += ROTATE_BLOCKS) {
        const float2 *const angles = at<const float2>(p.rotary) + uint64_t(row) * (D / 2);
        for (uint32_t i = threadIdx.x; i < units; i += blockDim.x) {
            T *const first = keys + row * stride + i / UNITS * D + i % UNITS * 8;
            rotate_pairs<8>(first, first + D / 2, angles + i % UNITS * 8);
        }
    }
}

constexpr int THREADS = LOOP_THREADS, ROTATES_128 = hopper_tile(128).rotates;

KERNEL(rotate_keys_f16_64, AttentionParams, THREADS, (rotate_keys<__half, 64, HOPPER_ROTATES>))
KERNEL(rotate_keys_bf16_64, AttentionParams, THREADS, (rotate_keys<__nv_bfloat16, 64, HOPPER_ROTATES>))
KERNEL(rotate_keys_f16_128, AttentionParams, THREADS, (rotate_keys<__half, 128, ROTATES_128>))
KERNEL(rotate_keys_bf16_128, AttentionParams, THREADS, (rotate_keys<__nv_bfloat16, 128, ROTATES_128>))
