// Attention of sequences of any length: the kernel attention_T_D.
//
// A block takes one head of an item (params.h, AttentionItem). Its queries go in passes of 16 * row_tiles * warps, and
// each pass takes all tiles of keys and values of the sequence, one after the other. The tiles arrive by cp.async in a
// ring of `stages`; where a sequence fits into the ring, its keys are fetched and rotated once for all passes. Grid:
// heads * items blocks (heads fastest).
//
// At least FLOPs, 4 * head_dim per query and key, and an exponential each, of which an SM has 16 per cycle: with heads of
// 32 and less those take longer. Bytes: q, k, v and out once, k and v again for each item. On an H200, f16, rotated, length
// 350, in TFLOP/s: 75 with 20 heads of 16, 74 of 24, 95 of 32, 121 with 8 of 96, 129 with 40 of 128; 40 by attention_any
// with 20 of 40. That is a third of what the exponentials allow with heads of 16, a fifth with 32, and a sixth of what the
// tensor cores do with 128 (a large product has 750, by wgmma): between is mma.sync, which has at most some 60 % of
// wgmma's rate, fed by ldmatrix, the rotation of keys by each block, and the softmax's other instructions.
//
// Everything is counted from the sequence's first token: tiles, passes and the order of all sums. Rows past
// the end are zeros in shared memory and never a neighbour's.
#pragma once

#include "attention.cuh"

template <typename T, int D, bool EXACT> __device__ __forceinline__ void attention_long(const AttentionParams &p) {
    constexpr AttentionTile TILE = ATTENTION_TILE<D>;
    static_assert(TILE.head_dim == D, "no tile for this head_dim: add one to launch.h");
    static_assert(TILE.shared_bytes == (16 * TILE.row_tiles * TILE.warps + TILE.stages * 2 * TILE.keys) * D * sizeof(T),
                  "the host asks for as much as the queries and the ring take");
    static_assert(TILE.stages >= 2, "with one stage nothing arrives while another tile is computed");
    static_assert(TILE.keys % 16 == 0, "keys go into the product with the values 16 at a time");
    static_assert(D % 8 == 0, "rows are copied in chunks of 16 bytes");
    constexpr int M = TILE.row_tiles, KEYS = TILE.keys, STAGES = TILE.stages, THREADS = 32 * TILE.warps;
    constexpr int PASS = 16 * M * TILE.warps;
    DYN_SMEM(shared);
    const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    T *tile = reinterpret_cast<T *>(shared) + warp * 16 * M * D; // the warp's own queries
    T *ring = reinterpret_cast<T *>(shared) + PASS * D;          // stages of KEYS keys and KEYS values

    const uint32_t head = blockIdx.x % p.heads;
    const AttentionItem item = at<const AttentionItem>(p.items)[blockIdx.x / p.heads];
    const int width = EXACT ? D : int(p.head_dim), length = int(item.length);
    const uint64_t row_stride = uint64_t(p.heads) * width, stride = 3 * row_stride;
    const T *q = at<const T>(p.qkv) + item.first * stride + head * width;
    const T *k = q + row_stride, *v = k + row_stride;
    T *out = at<T>(p.out) + item.first * row_stride + head * width;
    const float2 *rotary = at<const float2>(p.rotary);
    const float slope = p.slopes ? at<const float>(p.slopes)[head] / p.scale : 0.0f;
    const float scale2 = p.scale * 1.44269504088896340736f;

    const int tiles = (length + KEYS - 1) / KEYS, passes = (int(item.rows) + PASS - 1) / PASS;
    const bool fits_in_ring = tiles <= STAGES;
    const int fetches = fits_in_ring ? tiles : passes * tiles;

    int fetched = 0, fetch_key = 0, fetch_stage = 0; // the next tile to fetch
    const auto fetch_next = [&] {
        if (fetched < fetches) {
            const int remaining = length - fetch_key;
            T *to = ring + fetch_stage * 2 * KEYS * D;
            fetch<D, EXACT, KEYS, THREADS>(to, k + fetch_key * stride, stride, remaining, width, thread);
            fetch<D, EXACT, KEYS, THREADS>(to + KEYS * D, v + fetch_key * stride, stride, remaining, width, thread);
            fetched++;
            fetch_key = fetch_key + KEYS < length ? fetch_key + KEYS : 0;
            fetch_stage = fetch_stage + 1 < STAGES ? fetch_stage + 1 : 0;
        }
        cp_async_commit(); // perhaps of nothing: so the groups count the steps
    };
    // Waits for this thread's part of the next tile in turn, and rotates it.
    int ready_key = 0, ready_stage = 0, ready = 0;
    const auto make_ready = [&] {
        if (ready >= fetches) return;
        cp_async_wait<STAGES - 2>();
        if (p.rotary)
            rotate<D, EXACT, KEYS, THREADS>(ring + ready_stage * 2 * KEYS * D, rotary + uint64_t(ready_key) * (width / 2),
                                            length - ready_key, width, thread);
        ready++;
        ready_key = ready_key + KEYS < length ? ready_key + KEYS : 0;
        ready_stage = ready_stage + 1 < STAGES ? ready_stage + 1 : 0;
    };

    for (int i = 0; i < STAGES - 1; i++) fetch_next();
    WarpRows<T, D, M, TILE.q_in_registers != 0> rows;
    int step = 0, stage = 0;
    for (int pass = 0; pass < passes; pass++) {
        const int row = int(item.row) + pass * PASS + warp * 16 * M; // the warp's first query
        const int valid = int(item.row + item.rows) - row;           // of its queries; perhaps none
        if (valid > 0) {
            fetch<D, EXACT, 16 * M, 32>(tile, q + row * stride, stride, valid, width, lane);
            cp_async_commit();
            cp_async_wait<0>();
            if (p.rotary) rotate<D, EXACT, 16 * M, 32>(tile, rotary + uint64_t(row) * (width / 2), valid, width, lane);
            __syncwarp();
            rows.load_q(tile, lane);
        }
        if (pass == 0) make_ready();
        if (fits_in_ring) stage = 0;
        for (int key = 0; key < length; key += KEYS, step++) {
            if (step < fetches) {
                __syncthreads(); // this tile is there for all, and all have done with the one before
                fetch_next();
            }
            T *keys = ring + stage * 2 * KEYS * D, *values = keys + KEYS * D;
            if (valid > 0) {
                if (length - key >= KEYS)
                    rows.template mma<false, KEYS>(tile, keys, values, KEYS, row - key, slope, scale2, lane);
                else
                    rows.template mma<true, KEYS>(tile, keys, values, length - key, row - key, slope, scale2, lane);
            }
            make_ready();
            stage = stage + 1 < STAGES ? stage + 1 : 0;
        }
        if (valid > 0) rows.store_o(tile, out + row * row_stride, row_stride, valid, width, lane);
    }
}
