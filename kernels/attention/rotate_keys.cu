// Rotates keys where they lie, in f32, rounded once: the kernels rotate_keys_T_D, before kernels that read the keys of a
// sequence many times.
//
// Computes: for each item that begins a sequence (row 0), the rotation of that sequence's keys. Nothing else is written;
// queries and values stay.
//
// Shapes: params.h, AttentionParams, with heads of D columns.
//
// Launch: ROTATE_BLOCKS blocks for each item, 256 threads. Blocks of other items end at once. A warp takes a row: the
// angles of a row serve all heads, and several heads' keys are on their way at a time.
//
// Bound and measured: bytes, the keys read and written once. On an H200, 34,000 tokens, f16, in us at lengths 350, 1022 and
// 4096: with 20 heads of 64 60, 59 and 66, with 40 of 128 190, 195 and 210, which is up to 3.7 TB/s of 4.2.
// benches/results/2026-11-29-attention-mma-h200.md.
#include "attention.cuh"

// N columns and their partners are a unit: 8, or 4 where half a head is no multiple of 8.
template <typename T, int D, int N = D % 16 == 0 ? 8 : 4>
__device__ __forceinline__ void rotate_keys(const AttentionParams &p) {
    const AttentionItem item = at<const AttentionItem>(p.items)[blockIdx.x / ROTATE_BLOCKS];
    if (item.row != 0) return;
    constexpr uint32_t UNITS = D / 2 / N, HEADS = 32 / UNITS; // of a head; of a warp at a time
    constexpr uint32_t AT_ONCE = 4, ROWS = LOOP_THREADS / 32;
    const uint32_t lane = threadIdx.x % 32, unit = lane % UNITS;
    if (lane >= HEADS * UNITS) return;
    const uint64_t row_stride = uint64_t(p.heads) * D, stride = 3 * row_stride;
    T *const keys = at<T>(p.qkv) + item.first * stride + row_stride + unit * N;
    for (uint32_t row = blockIdx.x % ROTATE_BLOCKS * ROWS + threadIdx.x / 32; row < item.length;
         row += ROTATE_BLOCKS * ROWS) {
        float4 angles[N / 2];
        load_angles<N>(angles, at<const float2>(p.rotary) + uint64_t(row) * (D / 2) + unit * N);
        for (uint32_t head = lane / UNITS; head < p.heads; head += AT_ONCE * HEADS) {
            Packed<T, N> first[AT_ONCE], second[AT_ONCE];
#pragma unroll
            for (uint32_t j = 0; j < AT_ONCE; j++) {
                if (head + j * HEADS >= p.heads) break;
                const T *const from = keys + row * stride + (head + j * HEADS) * D;
                first[j] = *reinterpret_cast<const Packed<T, N> *>(from);
                second[j] = *reinterpret_cast<const Packed<T, N> *>(from + D / 2);
            }
#pragma unroll
            for (uint32_t j = 0; j < AT_ONCE; j++) {
                if (head + j * HEADS >= p.heads) break;
                T *const to = keys + row * stride + (head + j * HEADS) * D;
                rotate_pairs<N>(first[j].values, second[j].values, angles);
                *reinterpret_cast<Packed<T, N> *>(to) = first[j];
                *reinterpret_cast<Packed<T, N> *>(to + D / 2) = second[j];
            }
        }
    }
}

constexpr int THREADS = LOOP_THREADS;

KERNEL(rotate_keys_f16_16, AttentionParams, THREADS, (rotate_keys<__half, 16>))
KERNEL(rotate_keys_bf16_16, AttentionParams, THREADS, (rotate_keys<__nv_bfloat16, 16>))
KERNEL(rotate_keys_f16_24, AttentionParams, THREADS, (rotate_keys<__half, 24>))
KERNEL(rotate_keys_bf16_24, AttentionParams, THREADS, (rotate_keys<__nv_bfloat16, 24>))
KERNEL(rotate_keys_f16_32, AttentionParams, THREADS, (rotate_keys<__half, 32>))
KERNEL(rotate_keys_bf16_32, AttentionParams, THREADS, (rotate_keys<__nv_bfloat16, 32>))
KERNEL(rotate_keys_f16_64, AttentionParams, THREADS, (rotate_keys<__half, 64>))
KERNEL(rotate_keys_bf16_64, AttentionParams, THREADS, (rotate_keys<__nv_bfloat16, 64>))
KERNEL(rotate_keys_f16_96, AttentionParams, THREADS, (rotate_keys<__half, 96>))
KERNEL(rotate_keys_bf16_96, AttentionParams, THREADS, (rotate_keys<__nv_bfloat16, 96>))
KERNEL(rotate_keys_f16_128, AttentionParams, THREADS, (rotate_keys<__half, 128>))
KERNEL(rotate_keys_bf16_128, AttentionParams, THREADS, (rotate_keys<__nv_bfloat16, 128>))
