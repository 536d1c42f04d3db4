// The common part of GEMMs for Hopper, [rows, depth] * [width, depth]^T: one producer and two
// consumers in ping-pong, in a persistent block. An epilogue costs nothing while it is shorter than
// the products.
//
// The first warpgroup (producer) loads 128 rows of one matrix and 192 of the other, 64 of the depth
// at a time, by tensor copies into a ring in shared memory. Each of the other two warpgroups
// (consumers) has a tile of 128 x 192 sums in its registers. It uses all of the tensor cores while
// it multiplies, and then has as much time for its epilogue as the other consumer takes to
// multiply.
//
// The width of the tile decides how many bytes of shared memory a product needs. For a step of
// 128 x 192 x 64 the tensor cores read 64 KiB and the copies write 40 KiB; at 128 bytes per cycle
// this takes 832 cycles, and the products themselves take 768. With 128 x 128 it would be 640
// cycles for 512.
//
// A sum is taken in the order of the depth, whatever the tile: the bits of a row do not depend on
// the rows beside it.
#pragma once

#include "../common/number.cuh"
#include "../common/ptx90.cuh"
#include "../common/ring.cuh"
#include "../launch.h"

#ifdef SM90A

namespace gemm90 {

constexpr int WARPGROUP = 128, CONSUMERS = GEMM90_CONSUMERS, THREADS = GEMM90_THREADS;
constexpr int ROWS = GEMM90_ROWS, COLUMNS = GEMM90_COLUMNS; // size of a tile of sums
constexpr int STEP = GEMM90_STEP; // depth of a step
constexpr int WARPS = 4;          // warps per consumer; each warp arrives once at each barrier

// One step of both operands. Both are loaded and used in halves.
struct Step {
    static constexpr int HALF_ROWS = ROWS / 2, HALF_COLUMNS = COLUMNS / 2;
    unsigned char rows[2][HALF_ROWS * STEP * 2];
    unsigned char weight[2][HALF_COLUMNS * STEP * 2];
};

// A block's shared memory.
template <int STAGING_BYTES> struct Shared {
    static constexpr int STAGES = GEMM90_STAGES;
    Step steps[STAGES];
    unsigned char staging[CONSUMERS][STAGING_BYTES];
    uint64_t full[STAGES], empty[STAGES];
    uint64_t turn[CONSUMERS]; // signals that this consumer may use the tensor cores
};

template <class S> __device__ __forceinline__ void init(S &shared) {
    if (threadIdx.x == 0) {
        for (int i = 0; i < S::STAGES; i++) {
            mbar_init(&shared.full[i], 1);
            mbar_init(&shared.empty[i], WARPS);
        }
        for (int i = 0; i < CONSUMERS; i++) mbar_init(&shared.turn[i], WARPS);
        fence_mbar_init();
    }
    __syncthreads();
}

// The order of tiles. Tiles form bands that are `band` tiles high; each band is walked from left to
// right, so that running blocks find rows of both matrices in L2. A block takes every (blocks of
// the grid)-th tile.
struct Tiles {
    uint32_t high, wide, band, count;
    // `columns`: number of the result's columns in a tile
    __device__ __forceinline__ Tiles(uint32_t rows, uint32_t width, uint32_t columns, uint32_t band)
        : high((rows + ROWS - 1) / ROWS), wide((width + columns - 1) / columns), band(band), count(high * wide) {}
    __device__ __forceinline__ void at(uint32_t tile, uint32_t &row, uint32_t &column) const {
        const uint32_t above = tile / (band * wide) * band, rest = tile - above * wide;
        const uint32_t here = min(band, high - above);
        column = rest / here;
        row = above + rest - column * here;
    }
};

// The producer, one thread. `load(step, row, column, depth, barrier)` begins the loads of one step
// for the tile in this row and column of tiles.
template <class S, class Load>
__device__ __forceinline__ void produce(S &shared, const Tiles &tiles, uint32_t steps, Load load) {
    RingCursor<S::STAGES> cursor;
    for (uint32_t tile = blockIdx.x; tile < tiles.count; tile += gridDim.x) {
        uint32_t row, column;
        tiles.at(tile, row, column);
        for (uint32_t step = 0; step < steps; step++, cursor.next()) {
            mbar_wait(&shared.empty[cursor.stage], cursor.phase ^ 1);
            mbar_expect_tx(&shared.full[cursor.stage], sizeof(Step));
            load(shared.steps[cursor.stage], row, column, step * STEP, &shared.full[cursor.stage]);
        }
    }
}

// Returns element `i` of a pair in a register.
template <typename T> __device__ __forceinline__ float of_pair(uint32_t pair, int i);
template <> __device__ __forceinline__ float of_pair<__half>(uint32_t pair, int i) {
    const uint16_t bits = uint16_t(pair >> (16 * i));
    return __half2float(*reinterpret_cast<const __half *>(&bits));
}
template <> __device__ __forceinline__ float of_pair<__nv_bfloat16>(uint32_t pair, int i) {
    return __uint_as_float(i ? pair & 0xffff0000 : pair << 16);
}

// A consumer, 0 or 1.
template <typename T, class S> struct Consumer {
    S &shared;
    const int which;
    const uint32_t steps;
    RingCursor<S::STAGES> cursor;
    uint32_t tiles_done = 0;

    __device__ __forceinline__ Consumer(S &shared, int which, uint32_t steps)
        : shared(shared), which(which), steps(steps) {
        if (which == 1) cursor.skip(steps);
    }

    // Arrives once per warp: each warp waits for its own products only.
    __device__ __forceinline__ static void arrive(uint64_t *barrier) {
        if (threadIdx.x % 32 == 0) mbar_arrive(barrier);
    }

    // Computes the sums of this consumer's next tile: rows 0 to 63, and rows 64 to 127. While the
    // last products run, `meanwhile()` may prepare the epilogue.
    //
    // AFRESH: the compiler knows that the first product replaces the sums, so an epilogue gets the
    // registers of those sums that it has read. Otherwise the product is told so at run time: then
    // the registers stay those of the sums from one tile to the next, and an epilogue has some 40.
    template <bool AFRESH, class Meanwhile>
    __device__ __forceinline__ void multiply(float (&sums)[2][COLUMNS / 2], Meanwhile meanwhile) {
        wait_for_turn();
        uint64_t *last = nullptr;
        uint32_t step = 0;
        if constexpr (AFRESH) {
            begin_step(sums, [](int k) { return k > 0; });
            end_step(step++, last);
        }
        for (; step < steps; step++) {
            begin_step(sums, [&](int k) { return AFRESH || step > 0 || k > 0; });
            end_step(step, last);
        }
        meanwhile();
        wg_wait<0>();
        arrive(last);
        cursor.skip(steps); // the steps of the other consumer's tile
    }

  private:
    __device__ __forceinline__ void wait_for_turn() {
        // This wait is needed for correctness, too: a barrier distinguishes only two phases, and
        // before the last step of the other consumer has come, the first step of this one may be
        // further ahead.
        mbar_wait(&shared.turn[which], which == 0 ? ~tiles_done & 1 : tiles_done & 1);
        tiles_done++;
    }

    // Begins the products of the next step. `adds(k)` says whether product k of the step adds to
    // the sums, or replaces them.
    template <class Adds>
    __device__ __forceinline__ void begin_step(float (&sums)[2][COLUMNS / 2], Adds adds) {
        mbar_wait(&shared.full[cursor.stage], cursor.phase);
        const uint64_t rows = wg_desc(shared.steps[cursor.stage].rows, 0, 1024);
        const uint64_t weight = wg_desc(shared.steps[cursor.stage].weight, 0, 1024);
        wg_fence();
#pragma unroll
        for (int k = 0; k < STEP / 16; k++)
#pragma unroll
            for (int half = 0; half < 2; half++) // descriptors count units of 16 bytes
                wgmma_ss<T, COLUMNS, 0>(sums[half], rows + half * (sizeof(Step::rows[0]) / 16) + k * 2,
                                        weight + k * 2, adds(k));
        wg_commit();
    }

    // Waits until the products of the step before this one are done, and releases its stage.
    __device__ __forceinline__ void end_step(uint32_t step, uint64_t *&last) {
        wg_wait<1>();
        // The last step is still running: the other consumer's first step follows it without a gap.
        if (step + 1 == steps) arrive(&shared.turn[which ^ 1]);
        if (step > 0) arrive(last);
        last = &shared.empty[cursor.stage];
        cursor.next();
    }
};

} // namespace gemm90

#endif
