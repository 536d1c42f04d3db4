// Attention of sequences of any length: the kernels attention_T_D and attention_T_D_ready, for the cards without wgmma (sm_80
// to sm_89, sm_100, sm_120), and for widths that the kernels for Hopper do not have.
//
// Computes: one head of an item (params.h, AttentionItem) per block. Each warp takes 16 * row_tiles queries, which meet
// all tiles of keys and values of the sequence, one after the other. The tiles arrive by cp.async in a ring of `stages`.
// attention_T_D rotates keys in shared memory, and has the sequences of one item. attention_T_D_ready does not: there are no
// angles, or rotate_keys.cu has rotated the keys where they lie, since each item would do it again. Both rotate queries.
// Everything is counted from the sequence's first token: tiles and the order of all sums. Rows past the end are zeros in
// shared memory and never a neighbour's.
//
// Shapes: params.h, AttentionParams, with heads of D columns (EXACT) or of fewer. An item has at most
// 16 * row_tiles * warps queries.
//
// Launch: heads * items blocks (heads fastest) of 32 * warps threads; launch.h, ATTENTION_TILES, has the tiles.
//
// Bound and measured: FLOPs, 4 * head_dim per query and key, by mma.sync, of which an H200 has 602 TFLOP/s by its counters;
// with heads of 32 and less the exponentials, of which an SM has 16 per cycle. No card of the kinds that use this kernel was
// at hand: all figures are of an H200, in f16, and where a kernel of another card would be bound is not known. At lengths
// 350 and 1022 without rotation, in TFLOP/s: 216 and 293 with 20 heads of 64, 261 and 339 with 40 of 128; FlashAttention 2
// has 168 and 259, and 247 and 324. The tensor cores are busy half of the time: two warps per scheduler do not hide
// each other's latencies. benches/results/2026-11-29-attention-mma-h200.md has what was tried.
#pragma once

#include "attention.cuh"

// The tile of launch.h. A bench may try others.
template <int D> struct LongTile {
    static constexpr AttentionTile TILE = ATTENTION_TILE<D>;
};

// READY: the keys need no rotation, or have been rotated where they lie.
template <typename T, int D, bool EXACT, bool READY, class Tile = LongTile<D>>
__device__ __forceinline__ void attention_long(const AttentionParams &p) {
    constexpr AttentionTile TILE = Tile::TILE;
    static_assert(TILE.head_dim == D, "no tile for this head_dim: add one to launch.h");
    static_assert(TILE.shared_bytes == (16 * TILE.row_tiles * TILE.warps + TILE.stages * 2 * TILE.keys) * D * sizeof(T),
                  "the host asks for as much as the queries and the ring take");
    static_assert(TILE.stages >= 2, "with one stage nothing arrives while another tile is computed");
    static_assert(TILE.keys % 16 == 0, "keys go into the product with the values 16 at a time");
    static_assert(D % 8 == 0, "rows are copied in chunks of 16 bytes");
    constexpr int M = TILE.row_tiles, KEYS = TILE.keys, STAGES = TILE.stages, THREADS = 32 * TILE.warps;
    constexpr int QUERIES = 16 * M * TILE.warps, STAGE = 2 * KEYS * D;
    DYN_SMEM(shared);
    const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    T *tile = reinterpret_cast<T *>(shared) + warp * 16 * M * D; // the warp's own queries
    T *ring = reinterpret_cast<T *>(shared) + QUERIES * D;       // stages of KEYS keys and KEYS values

    const uint32_t head = blockIdx.x % p.heads;
    const AttentionItem item = at<const AttentionItem>(p.items)[blockIdx.x / p.heads];
    const int width = EXACT ? D : int(p.head_dim), length = int(item.length);
    const uint64_t row_stride = uint64_t(p.heads) * width, stride = 3 * row_stride;
    const T *q = at<const T>(p.qkv) + item.first * stride + head * width;
    const float2 *rotary = at<const float2>(p.rotary);
    const bool rotates_keys = !READY && rotary;
    const float slope = p.slopes ? at<const float>(p.slopes)[head] / p.scale : 0.0f;
    const float scale2 = p.scale * 1.44269504088896340736f;
    const int row = int(item.row) + warp * 16 * M;     // the warp's first query
    const int valid = int(item.row + item.rows) - row; // of its queries; perhaps none

    // Stages are named by where they begin in the ring.
    const auto after = [](int stage) { return stage == (STAGES - 1) * STAGE ? 0 : stage + STAGE; };
    const Copier<T, D, EXACT, KEYS, THREADS> copier(thread, width, stride);
    const T *next_keys = q + row_stride; // of the next tile to fetch
    int left = length, next_stage = 0;   // keys from there on
    const auto fetch_next = [&] {
        if (left > 0) {
            T *const keys = ring + next_stage, *const values = keys + KEYS * D;
            if (left >= KEYS) {
                copier.template fetch<true>(keys, next_keys, left);
                copier.template fetch<true>(values, next_keys + row_stride, left);
            } else {
                copier.template fetch<false>(keys, next_keys, left);
                copier.template fetch<false>(values, next_keys + row_stride, left);
            }
            left -= KEYS;
            next_keys += KEYS * stride;
            next_stage = after(next_stage);
        }
        cp_async_commit(); // perhaps of nothing: so the groups count the steps
    };
    // Waits for this thread's part of the next tile in turn, and rotates it.
    int ready_key = 0, ready_stage = 0;
    const auto make_ready = [&] {
        if (ready_key >= length) return;
        typename decltype(copier)::Angles angles;
        const float2 *table = rotary + uint64_t(ready_key) * (width / 2);
        if (rotates_keys) copier.request(angles, table, length - ready_key);
        cp_async_wait<STAGES - 2>();
        if (rotates_keys) copier.rotate(ring + ready_stage, angles, table, length - ready_key);
        ready_key += KEYS;
        ready_stage = after(ready_stage);
    };

    WarpRows<T, D, M, TILE.q_in_registers != 0, true> rows;
    if (valid > 0) {
        const Copier<T, D, EXACT, 16 * M, 32> own(lane, width, stride);
        own.template fetch<false>(tile, q + row * stride, valid);
        cp_async_commit();
        fetch_next();
        typename decltype(own)::Angles angles;
        const float2 *table = rotary + uint64_t(row) * (width / 2);
        if (rotary) own.request(angles, table, valid);
        cp_async_wait<1>(); // the queries are there
        if (rotary) own.rotate(tile, angles, table, valid);
        __syncwarp(); // and those that other lanes fetched
        rows.load_q(tile, lane);
    } else {
        fetch_next();
    }
    for (int i = 1; i < STAGES - 1; i++) fetch_next();
    make_ready();

    int stage = 0;
    for (int key = 0; key < length; key += KEYS) {
        __syncthreads(); // this tile is there for all, and all have done with the one before
        fetch_next();
        T *keys = ring + stage, *values = keys + KEYS * D;
        if (valid > 0) {
            if (length - key >= KEYS)
                rows.template mma<false, KEYS>(tile, keys, values, KEYS, row - key, slope, scale2, lane);
            else
                rows.template mma<true, KEYS>(tile, keys, values, length - key, row - key, slope, scale2, lane);
        }
        make_ready();
        stage = after(stage);
    }
    if (valid > 0)
        rows.store_o(tile, at<T>(p.out) + (item.first + uint64_t(row)) * row_stride + head * width, row_stride, valid, width,
                     lane);
}
