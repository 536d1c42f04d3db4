// Attention of sequences of at most 64 tokens, several to a block: the kernel attention_T_D_short.
//
// A block takes one head of four slots (params.h, AttentionSlot), one slot per warp: 16 queries of one sequence. The
// slots of a sequence stand together, so that its keys and values lie together in shared memory, and a warp reads the
// keys of its own sequence alone: nothing of a neighbour enters its sums, and which slots it has changes none of them. One tile, one pass. Grid: heads * items blocks (heads fastest).
//
// On Hopper rotated heads of 64 come here up to 32 tokens only (launch.h, which has the times of both kernels).
//
// Bound by bytes: q, k, v and out once each. On an H200, which copies 4.2 TB/s, f16, length 51: 2.6 TB/s with 12 heads of
// 64 and ALiBi, 1.8 with 20 rotated ones, which read as many bytes of angles again.
#pragma once

#include "attention.cuh"

template <typename T, int D, bool EXACT> __device__ __forceinline__ void attention_short(const AttentionParams &p) {
    constexpr int ROWS = ATTENTION_SHORT_TOKENS;
    DYN_SMEM(shared);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    T *queries_tile = reinterpret_cast<T *>(shared), *keys = queries_tile + ROWS * D, *values = keys + ROWS * D;

    const uint32_t head = blockIdx.x % p.heads;
    const AttentionSlot slot = at<const AttentionSlot>(p.items)[uint64_t(blockIdx.x / p.heads) * ATTENTION_SHORT_SLOTS + warp];
    const int width = EXACT ? D : int(p.head_dim), length = slot.length;
    const uint64_t row_stride = uint64_t(p.heads) * width, stride = 3 * row_stride;
    const int row = slot.piece * 16; // the warp's first query
    const int valid = length - row;  // of its queries; none in an empty slot
    const T *q = at<const T>(p.qkv) + (slot.first + row) * stride + head * width;
    const T *k = q + row_stride, *v = k + row_stride;
    const float2 *rotary = at<const float2>(p.rotary) + row * (width / 2);

    T *tile = queries_tile + warp * 16 * D;
    fetch<D, EXACT, 16, 32>(values + warp * 16 * D, v, stride, valid, width, lane);
    cp_async_commit();
    copy<D, EXACT, 16, 32>(tile, q, stride, valid, width, lane);
    copy<D, EXACT, 16, 32>(keys + warp * 16 * D, k, stride, valid, width, lane);
    if (p.rotary) {
        rotate<D, EXACT, 16, 32>(tile, rotary, valid, width, lane);
        rotate<D, EXACT, 16, 32>(keys + warp * 16 * D, rotary, valid, width, lane);
    }
    cp_async_wait<0>();
    __syncthreads();
    if (valid <= 0) return;

    const float slope = p.slopes ? at<const float>(p.slopes)[head] / p.scale : 0.0f;
    const float scale2 = p.scale * 1.44269504088896340736f;
    const int base = (warp - slot.piece) * 16 * D; // where the sequence begins
    WarpRows<T, D, 1, true, false> rows;
    rows.load_q(tile, lane);
    rows.template mma<true, ROWS>(tile, keys + base, values + base, length, row, slope, scale2, lane);
    T *out = at<T>(p.out) + (slot.first + row) * row_stride + head * width;
    rows.store_o(tile, out, row_stride, valid, width, lane);
}
