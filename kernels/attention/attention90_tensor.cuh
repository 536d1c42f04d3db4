// Attention for Hopper (sm_90a) by tensor copies, f16 and bf16, where no key has to be rotated: the kernels
// attention90_T_D_tensor. Either heads have no rotation (ALiBi), or the keys have been rotated in memory before: by
// rotate_keys.cu, or by what made them.
//
// Computes: what attention_long.cuh computes, softmax(q k^T * scale + position) v within each sequence, by
// FlashAttention's online softmax, in the same order of sums as attention90.cuh and attention90_heads.cuh: the bits are
// the same. Where `rotary` is given, the queries are rotated, and the keys are not.
//
// Shapes: params.h, AttentionTensorParams. TENSOR_TILES in launch.h has, for each width, the numbers of warpgroups and
// stages. The tensor map of q, k and v has four dimensions, whose boxes hold 64 rows of one head (`TensorMap::packed` in
// src/gpu/driver/tensor_map.rs):
//   - the columns of a block: the head, or half a head of 128 columns;
//   - the rows of a box, 64;
//   - the rows of the matrix, one more than there are, with the same stride as the dimension before; the map's address
//     lies 64 rows before the matrix;
//   - the blocks of a row: first those of all queries, then those of all keys, then those of all values.
// A box at (0, 64 - valid, row + valid, block) begins at row `row` of the matrix, and ends after `valid` rows, where its
// second dimension does: the other rows are zeros in shared memory, and the next sequence's are never read. `valid` is
// at least 1. (Boxes of no row have ended in illegal accesses on an H200.)
//
// Launch: 128 * (consumers + 1) threads, one block for each multiprocessor, the tile's shared_bytes of dynamic shared
// memory. A persistent block takes one head of an item after the other, heads fastest; an item has as many queries as its
// consumers take at once, or fewer. The last warpgroup is the producer: one of its threads begins the copies of keys and
// values to a ring of stages (common/ring.cuh), and another those of queries; both run ahead of the consumers, across the
// ends of items. Each of the other warpgroups, the consumers, takes 64 queries at a time, by ldmatrix to registers, and
// goes through all tiles of keys.
//
// Bound and measured: benches/results/2026-11-29-attention-h200.md has the figures, and what was tried. Exponentials
// bound heads of up to 32 columns (248, 371 and 495 TFLOP/s with 16, 24 and 32), the tensor cores heads of 128. On an H200,
// f16, nothing to be rotated, at lengths 100, 350, 1022 and 4096, in TFLOP/s: 56, 132, 170 and 179 with 20 heads of 16; 74,
// 175, 228 and 243 with 20 of 24; 103, 217, 295 and 322 with 20 of 32; 165, 331, 463 and 473 with 20 of 64; 204, 422, 542
// and 609 with 40 of 128. (cuDNN, dense: 147, 283, 397 and 498 with 64; 217, 415, 571 and 601 with 128.) Where the kernel
// rotates queries, 301 and 445 with 64 and 377 and 519 with 128, at 350 and 1022.
#pragma once

#include "attention90_heads.cuh"

// A head's width and numbers, for device code.
template <int D_> struct TensorShape90 {
    static constexpr TensorTile TILE = tensor_tile(D_);
    static_assert(TILE.head_dim == D_, "no tile for this head_dim: add one to launch.h");
    static constexpr int D = D_, KEYS = TENSOR_ROWS;
    static constexpr int CONSUMERS = TILE.consumers, STAGES = TILE.stages;
    static constexpr bool SPLIT = TILE.split != 0;
    static constexpr int WIDE = TILE.columns;               // columns in shared memory
    static constexpr int SPAN = WIDE < 64 ? WIDE * 2 : 128; // bytes of the swizzle
    static constexpr int BLOCKS = (D + 63) / 64;            // of the tensor map, a head
    static constexpr int ELEMENTS = KEYS * WIDE;            // of a tile of queries, of keys, or of values
    static constexpr int DEPTH = (D + 15) / 16;             // products of 16 columns
    static constexpr int THREADS = 128 * (CONSUMERS + 1);
    static constexpr int CONSUMER_REGISTERS = TILE.consumer_registers, PRODUCER_REGISTERS = TILE.producer_registers;
    static constexpr int CUT = 32; // the last tile's keys are rounded up to a multiple of this
};

#ifdef SM90A

// Where 8 columns of a row are in a tile of 64 rows, in elements.
template <class S> __device__ __forceinline__ int tile_chunk(int row, int chunk) {
    constexpr int SPAN_CHUNKS = S::SPAN / 16, LINE_ROWS = 128 / S::SPAN;
    const int place = (chunk % SPAN_CHUNKS) ^ ((row / LINE_ROWS) % SPAN_CHUNKS);
    return chunk / SPAN_CHUNKS * (64 * S::SPAN / 2) + row * (S::SPAN / 2) + place * 8;
}

// The barriers of a block. A stage is full once its copies have come, and empty once all consumers have read it. With
// SPLIT its values have barriers of their own, so that scores are computed while values still come, and the next keys
// come while these values are still read.
template <class S> struct TensorBarriers90 {
    uint64_t q_full[S::CONSUMERS], q_empty[S::CONSUMERS];
    uint64_t k_full[S::STAGES], k_empty[S::STAGES];
    uint64_t v_full[S::SPLIT ? S::STAGES : 1], v_empty[S::SPLIT ? S::STAGES : 1];

    __device__ __forceinline__ void init() {
        for (int i = 0; i < S::CONSUMERS; i++) {
            mbar_init(&q_full[i], 1);
            mbar_init(&q_empty[i], 4);
        }
        for (int i = 0; i < S::STAGES; i++) {
            mbar_init(&k_full[i], 1);
            mbar_init(&k_empty[i], 4 * S::CONSUMERS);
            if (S::SPLIT) {
                mbar_init(&v_full[i], 1);
                mbar_init(&v_empty[i], 4 * S::CONSUMERS);
            }
        }
        fence_mbar_init();
    }
};

// The producing warps: one lane of each begins the copies. It does so once all lanes have seen that the stage is free: a
// barrier distinguishes two phases only, and a lane that is late would wait for one that is long over, and for ever.
template <typename T, class S> struct TensorProducer90 {
    static constexpr int TILE_BYTES = S::ELEMENTS * sizeof(T);
    const AttentionTensorParams &params;
    const AttentionParams &p = params.attention;
    TensorBarriers90<S> &barriers;
    const int lane = threadIdx.x % 32;

    // Begins to copy 64 rows of a sequence, from `row` on, of queries (part 0), keys (1) or values (2).
    __device__ __forceinline__ void copy(T *to, const Heads90 &work, int part, int row, uint64_t *barrier) const {
        const int valid = min(64, int(work.item.length) - row);
        tma_load_4d(to, &params.qkv, 0, 64 - valid, int(work.item.first) + row + valid,
                    (part * int(p.heads) + int(work.head())) * S::BLOCKS, barrier);
    }

    __device__ __forceinline__ void produce_kv(T *ring, Heads90 &work) const {
        RingCursor<S::STAGES> cursor;
#pragma unroll 1
        for (; !work.ended(); work.next(p)) {
#pragma unroll 1
            for (int key = 0; key < int(work.item.length); key += S::KEYS, cursor.next()) {
                const uint32_t stage = cursor.stage;
                T *const to = ring + stage * (2 * S::ELEMENTS);
                mbar_wait(&barriers.k_empty[stage], cursor.phase ^ 1);
                __syncwarp(); // keys
                if (lane == 0) {
                    mbar_expect_tx(&barriers.k_full[stage], TILE_BYTES * (S::SPLIT ? 1 : 2));
                    copy(to, work, 1, key, &barriers.k_full[stage]);
                    if (!S::SPLIT) copy(to + S::ELEMENTS, work, 2, key, &barriers.k_full[stage]);
                }
                if constexpr (S::SPLIT) {
                    mbar_wait(&barriers.v_empty[stage], cursor.phase ^ 1);
                    __syncwarp(); // values
                    if (lane == 0) {
                        mbar_expect_tx(&barriers.v_full[stage], TILE_BYTES);
                        copy(to + S::ELEMENTS, work, 2, key, &barriers.v_full[stage]);
                    }
                }
            }
        }
    }

    // The consumers take turns at 64 queries, across the items too.
    __device__ __forceinline__ void produce_q(T *tiles, Heads90 &work) const {
        RingCursor<S::CONSUMERS> cursor;
#pragma unroll 1
        for (; !work.ended(); work.next(p)) {
#pragma unroll 1
            for (int row = 0; row < int(work.item.rows); row += 64, cursor.next()) {
                const uint32_t consumer = cursor.stage;
                mbar_wait(&barriers.q_empty[consumer], cursor.phase ^ 1);
                __syncwarp(); // queries
                if (lane == 0) {
                    mbar_expect_tx(&barriers.q_full[consumer], TILE_BYTES);
                    copy(tiles + consumer * S::ELEMENTS, work, 0, int(work.item.row) + row, &barriers.q_full[consumer]);
                }
            }
        }
    }
};

// One of the consuming warpgroups, number `group`.
template <typename T, class S> struct TensorConsumer90 {
    static constexpr uint64_t TILE_STEP = S::ELEMENTS * sizeof(T) / 16; // in a descriptor
    const AttentionParams &p;
    TensorBarriers90<S> &barriers;
    T *const q_tiles;
    const uint64_t first_keys; // a descriptor
    const int group;
    const int lane = threadIdx.x % 32, t = lane % 4, warp_row = (threadIdx.x % 128) / 32 * 16;
    RingCursor<S::STAGES> cursor; // the stage of the next tile of keys
    uint32_t q_phase = 0;
    Rows90<T, S> queries;

    // All lanes have read what the barrier guards.
    __device__ __forceinline__ void release(uint64_t *barrier) const {
        __syncwarp();
        if (lane == 0) mbar_arrive(barrier);
    }
    __device__ __forceinline__ void wait_keys() const { mbar_wait(&barriers.k_full[cursor.stage], cursor.phase); }
    __device__ __forceinline__ void wait_values() const {
        if (S::SPLIT) mbar_wait(&barriers.v_full[cursor.stage], cursor.phase);
    }
    __device__ __forceinline__ void release_values() const {
        release(S::SPLIT ? &barriers.v_empty[cursor.stage] : &barriers.k_empty[cursor.stage]);
    }

    // Reads the 64 queries that have been copied for this warpgroup, and rotates them by the angles of `rotary`, which
    // begin with those of the item's first row. `row` is the thread's first row, counted from there.
    __device__ __forceinline__ void load_q(const float2 *rotary, int row, int rows) {
        mbar_wait(&barriers.q_full[group], q_phase);
        q_phase ^= 1;
        const T *const tile = q_tiles + group * S::ELEMENTS;
#pragma unroll
        for (int k = 0; k < S::DEPTH; k++)
            ldmatrix_x4(queries.q[k], tile + tile_chunk<S>(warp_row + lane % 16, 2 * k + lane / 16));
        fence_proxy_async(); // the copy of the next queries comes after these reads
        release(&barriers.q_empty[group]);
        if (rotary) queries.rotate_q(rotary, row, rows, t);
        queries.clear();
    }

    // A tile of keys and values, of which KEYS are read and `remaining` are the sequence's: s = q k^T, softmax, o += p v.
    template <int KEYS>
    __device__ __forceinline__ void mma(int remaining, float distance, float slope, float scale2) {
        const uint64_t keys = first_keys + cursor.stage * (2 * TILE_STEP);
        float s[KEYS / 2];
        wait_keys();
        queries.template mma_qk<KEYS>(s, keys);
        if (S::SPLIT) release(&barriers.k_empty[cursor.stage]);
        queries.template softmax<KEYS>(s, remaining, distance, slope, scale2, t);
        wait_values();
        queries.template mma_pv<KEYS>(s, keys + TILE_STEP);
        release_values();
        cursor.next();
    }

    __device__ __forceinline__ void consume(Heads90 &work) {
        const uint64_t row_stride = uint64_t(p.heads) * S::D;
        const float scale2 = p.scale * 1.44269504088896340736f;
        int turn = group; // the number of this warpgroup's 64 queries: all take turns, across the items too
#pragma unroll 1
        for (; !work.ended(); work.next(p)) {
            const int length = int(work.item.length), rows = int(work.item.rows), item_row = int(work.item.row);
            const int begin = turn * 64;
            turn = (turn + (S::CONSUMERS << 16) - (rows + 63) / 64) % S::CONSUMERS;
            if (begin >= rows) { // no queries, but all consumers must release every tile
#pragma unroll 1
                for (int remaining = length; remaining > 0; remaining -= S::KEYS, cursor.next()) {
                    wait_keys();
                    if (S::SPLIT) release(&barriers.k_empty[cursor.stage]);
                    wait_values();
                    release_values();
                }
                continue;
            }
            const float slope = p.slopes ? at<const float>(p.slopes)[work.head()] / p.scale : 0.0f;
            const int row = begin + warp_row + lane / 4;
            load_q(p.rotary ? at<const float2>(p.rotary) + uint64_t(item_row) * (S::D / 2) : nullptr, row, rows);
            int remaining = length; // keys of the sequence
            const auto mma_tile = [&](auto keys) {
                const float distance = float(item_row + row - 2 * t - (length - remaining));
                mma<decltype(keys)::value>(remaining, distance, slope, scale2);
            };
#pragma unroll 1
            for (; remaining > S::KEYS - S::CUT; remaining -= S::KEYS) mma_tile(Number<S::KEYS>());
            if (remaining > 0) rounded_up<S::KEYS, S::CUT>(remaining, mma_tile);
            const uint64_t first = work.item.first + work.item.row;
            queries.store_o(at<T>(p.out) + first * row_stride + work.head() * S::D, row_stride, row, rows, t);
        }
    }
};

#endif

template <typename T, class S> __device__ __forceinline__ void attention90_tensor(const AttentionTensorParams &params) {
#ifdef SM90A
    DYN_SMEM(memory);
    T *const ring = reinterpret_cast<T *>(memory); // stages of KEYS keys and KEYS values
    T *const q_tiles = ring + S::STAGES * 2 * S::ELEMENTS;
    auto &barriers = *reinterpret_cast<TensorBarriers90<S> *>(q_tiles + S::CONSUMERS * S::ELEMENTS);
    static_assert((S::STAGES * 2 + S::CONSUMERS) * S::ELEMENTS * sizeof(T) + sizeof(barriers) == S::TILE.shared_bytes,
                  "the host asks for as much");

    // A shuffle, so that the compiler knows it for the same in all lanes.
    const int warp = __shfl_sync(0xffffffffu, threadIdx.x / 32, 0), group = warp / 4;
    if (threadIdx.x == 0) barriers.init();
    __syncthreads();

    Heads90 work(params.attention);
    if (group == S::CONSUMERS) {
        setmaxnreg_dec<S::PRODUCER_REGISTERS>();
        const TensorProducer90<T, S> producer{params, params.attention, barriers};
        if (warp % 4 == 0) producer.produce_kv(ring, work);
        if (warp % 4 == 1) producer.produce_q(q_tiles, work);
    } else {
        setmaxnreg_inc<S::CONSUMER_REGISTERS>();
        TensorConsumer90<T, S>{params.attention, barriers, q_tiles,
                               wg_desc<S::SPAN>(ring, S::KEYS * S::SPAN, 8 * S::SPAN), group}
            .consume(work);
    }
#endif
}
