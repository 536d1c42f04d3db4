// The consumers of gemm_qkv.cu: sums, biases, rotation, and results on their way out.
#pragma once

#include "gemm90.cuh"
#include "../common/kernel.cuh"
#include "../common/number.cuh"
#include "../params.h"
#include "../common/vector.cuh"

namespace gemm90 {

// How the columns of heads of D stand in a tile. Rotation turns column i of a head's first half
// with column i of its second half. In wgmma's sums a thread has two columns of each group of 8, so
// it has both columns of a pair if these are a whole number of groups apart.
//
// A part of a tile holds 64 columns in their order. With heads of 128 it holds 32 columns of a
// head's first half, followed by their partners: part n of the matrix begins at column
// n / 2 * 128 + n % 2 * 32 of the weight, and its second half 64 columns further.
//
// The epilogue goes through the tile in units of 32 columns and 64 rows: groups `first(0)`,
// `first(1)`, and their partners.
template <int D> struct QkvUnits {
    static_assert(D == 16 || D == 32 || D == 64 || D == 128, "pairs must be whole groups apart");
    static constexpr int PARTS = GEMM90_COLUMNS / 64;    // of a tile
    static constexpr int COUNT = 2 * GEMM90_COLUMNS / 32; // units of a tile
    static constexpr int PER_HALF = COUNT / 2;
    static constexpr int PARTNER = D >= 64 ? 4 : D / 16; // groups from a column to its partner
    static constexpr bool APART = D == 128;              // the halves of a part are apart in the matrix
    // With heads of 64, the heads in a tile take turns, so that their angles are loaded once: all
    // parts leave at the same time.
    static constexpr bool TOGETHER = D == 64;
    static constexpr int ANGLES = D == 16 ? 1 : 2; // groups of angles of a unit
    // Units one after the other that have the same angles.
    static constexpr int SAME_ANGLES = D == 128 ? 1 : D == 64 ? PARTS : PER_HALF;

    __device__ static constexpr int half(int unit) { return unit / PER_HALF; }
    __device__ static constexpr int part(int unit) {
        return TOGETHER ? unit % PER_HALF % PARTS : unit % PER_HALF / 2;
    }
    // Which half of the part's units the unit is.
    __device__ static constexpr int side(int unit) {
        return TOGETHER ? unit % PER_HALF / PARTS : unit % PER_HALF % 2;
    }
    // The unit's first groups, counted in the part.
    __device__ static constexpr int first(int unit, int n) {
        return D == 16 ? 4 * side(unit) + 2 * n : D == 32 ? 4 * side(unit) + n : 2 * side(unit) + n;
    }
    // Whether the unit is the last of what leaves together.
    __device__ static constexpr bool leaves(int unit) {
        return TOGETHER ? unit % PER_HALF == PER_HALF - 1 : unit % 2 == 1;
    }
};

#ifdef SM90A

// Results leave through shared memory in slabs of 64 rows and 64 columns, the parts of a tile: one
// slab per part, which serves the upper and then the lower 64 rows.
constexpr int QKV_PARTS = COLUMNS / 64, QKV_SLAB_BYTES = 64 * 64 * 2;
typedef Shared<QKV_PARTS * QKV_SLAB_BYTES> GemmQkvShared;
static_assert(sizeof(GemmQkvShared) == GEMM_QKV_SHARED_BYTES, "the host asks for as much");

template <typename T, int D> struct QkvConsumer {
    typedef QkvUnits<D> U;
    const GemmQkvParams &p;
    GemmQkvShared &shared;
    const int which, thread = threadIdx.x % WARPGROUP, lane = threadIdx.x % 32, t = lane % 4;
    const uint32_t turned;   // the columns before this one are those of queries and keys
    uint32_t row, column;    // the tile's first row, and its first column or part
    uint32_t angle_at[2][2]; // where the angles of this thread's rows begin, in pairs of angles
    float4 angles[U::ANGLES][2];
    uint32_t bias[2][4]; // of one unit, and of the next

    __device__ __forceinline__ QkvConsumer(const GemmQkvParams &p, GemmQkvShared &shared, int which)
        : p(p), shared(shared), which(which), turned(p.rotary ? p.width / 3 * 2 : 0) {}

    // The column of the matrix that is the first of this group of this part.
    __device__ __forceinline__ uint32_t column_of(int part, int group) const {
        if (!U::APART) return column + 64 * part + 8 * group;
        const uint32_t n = column + part;
        return n / 2 * 128 + n % 2 * 32 + group / 4 * 64 + group % 4 * 8;
    }

    __device__ __forceinline__ void begin(uint32_t tile_row, uint32_t tile_column) {
        row = tile_row * ROWS;
        column = tile_column * (U::APART ? QKV_PARTS : COLUMNS);
#pragma unroll
        for (int half = 0; half < 2; half++)
#pragma unroll
            for (int low = 0; low < 2; low++) {
                const uint32_t at_row = row + 64 * half + thread / 32 * 16 + lane / 4 + 8 * low;
                angle_at[half][low] =
                    turned ? at<const uint32_t>(p.positions)[min(at_row, p.rows - 1)] * (D / 4) + t : 0;
            }
    }

    __device__ __forceinline__ bool turns(int unit) const {
        return column_of(U::part(unit), U::first(unit, 0)) < turned;
    }

    __device__ __forceinline__ void load_angles(int unit) {
        if (!turns(unit)) return;
        const uint32_t upper = U::APART ? (column + U::part(unit)) % 2 * 16 : 0; // the half's other 32 columns
#pragma unroll
        for (int low = 0; low < 2; low++) {
            const float4 *from = at<const float4>(p.rotary) + (angle_at[U::half(unit)][low] + upper);
#pragma unroll
            for (int n = 0; n < U::ANGLES; n++)
                angles[n][low] = load_now(from + 4 * (D >= 64 ? U::first(unit, n) : n));
        }
    }

    // The columns of a tile that lie outside of the matrix have the bias of others: their results
    // are not written.
    __device__ __forceinline__ void load_bias(int unit) {
        uint32_t c = column_of(U::part(unit), D >= 64 ? 0 : 4 * U::side(unit));
        if (D < 64) c = min(c, p.width - 32);
        const uint32_t *from = at<const uint32_t>(p.bias) + (c / 2 + t);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int group = U::first(unit, i % 2) + i / 2 * U::PARTNER - (D >= 64 ? 0 : 4 * U::side(unit));
            const uint32_t *at_group = from + (U::APART ? group / 4 * 32 + group % 4 * 4 : 4 * group);
            bias[unit % 2][i] = p.bias ? load_now(at_group) : 0;
        }
    }

    // Computes a unit: words [pair][i], for stmatrix. Pair 0 is for the first of each pair of columns.
    __device__ __forceinline__ void results(uint32_t (&words)[2][4], const float (&sums)[COLUMNS / 2], int unit) {
        float x[2][8]; // first and second of a pair; by group, row (lane / 4, and 8 further) and column
#pragma unroll
        for (int second = 0; second < 2; second++)
#pragma unroll
            for (int i = 0; i < 8; i++) {
                const int group = 8 * U::part(unit) + U::first(unit, i / 4) + second * U::PARTNER;
                x[second][i] = sums[4 * group + i % 4] + of_pair<T>(bias[unit % 2][2 * second + i / 4], i % 2);
            }
        if (turns(unit)) {
#pragma unroll
            for (int i = 0; i < 8; i++) {
                const float4 both = angles[i / 4 % U::ANGLES][i / 2 % 2];
                const float cosine = i % 2 ? both.z : both.x, sine = i % 2 ? both.w : both.y;
                const float a = x[0][i], b = x[1][i];
                x[0][i] = fmaf(a, cosine, -(b * sine));
                x[1][i] = fmaf(b, cosine, a * sine);
            }
        }
#pragma unroll
        for (int second = 0; second < 2; second++)
#pragma unroll
            for (int i = 0; i < 4; i++) words[second][i] = pack2<T>(x[second][2 * i], x[second][2 * i + 1]);
    }

    // Stores a unit to the slab of its part.
    __device__ __forceinline__ void store(const uint32_t (&words)[2][4], int unit) {
        const int slab_row = thread / 32 * 16 + thread % 16, right = lane / 16;
        unsigned char *slab = shared.staging[which] + U::part(unit) * QKV_SLAB_BYTES;
        const int group = U::first(unit, 0);
        if constexpr (U::APART) { // two slabs of 32 columns
            slab += slab_row * 64 + ((group + right) ^ (slab_row / 2 % 4)) * 16;
            stmatrix_x4(words[0], slab);
            stmatrix_x4(words[1], slab + QKV_SLAB_BYTES / 2);
        } else {
            slab += slab_row * 128;
            const int swizzle = slab_row % 8;
            if constexpr (D == 16) { // a group stands beside its partner
                const uint32_t pairs[2][4] = {{words[0][0], words[0][1], words[1][0], words[1][1]},
                                              {words[0][2], words[0][3], words[1][2], words[1][3]}};
                stmatrix_x4(pairs[0], slab + ((group + right) ^ swizzle) * 16);
                stmatrix_x4(pairs[1], slab + ((group + 2 + right) ^ swizzle) * 16);
            } else {
                stmatrix_x4(words[0], slab + ((group + right) ^ swizzle) * 16);
                stmatrix_x4(words[1], slab + ((group + U::PARTNER + right) ^ swizzle) * 16);
            }
        }
    }

    // One thread: begins the copies of a part.
    __device__ __forceinline__ void leave(int part, int half) {
        const unsigned char *slab = shared.staging[which] + part * QKV_SLAB_BYTES;
        const int to_row = row + 64 * half;
        tma_store_2d(&p.to, column_of(part, 0), to_row, slab);
        if (U::APART) tma_store_2d(&p.to, column_of(part, 4), to_row, slab + QKV_SLAB_BYTES / 2);
    }

    __device__ __forceinline__ void epilogue(const float (&sums)[2][COLUMNS / 2]) {
#pragma unroll
        for (int unit = 0; unit < U::COUNT; unit++) {
            const int half = U::half(unit), part = U::part(unit);
            uint32_t words[2][4];
            if (unit + 1 < U::COUNT) load_bias(unit + 1);
            results(words, sums[half], unit);
            if (unit + 1 < U::COUNT && (unit + 1) % U::SAME_ANGLES == 0) load_angles(unit + 1);
            if (U::TOGETHER && unit % U::PER_HALF == 0) {
                if (thread == 0) tma_store_wait_read<0>(); // all slabs are free
                named_barrier_sync(1 + which, WARPGROUP);  // slabs
            }
            store(words, unit);
            if (U::leaves(unit)) {
                fence_proxy_async();
                if (!U::TOGETHER && thread == 0) tma_store_wait_read<QKV_PARTS - 2>(); // the next slab is free
                named_barrier_sync(1 + which, WARPGROUP);
                if (thread == 0) {
#pragma unroll
                    for (int n = U::TOGETHER ? 0 : part; n <= part; n++) leave(n, half);
                    tma_store_commit();
                }
            }
        }
    }

    __device__ __forceinline__ void consume(const Tiles &tiles, uint32_t steps) {
        Consumer<T, GemmQkvShared> consumer(shared, which, steps);
        for (uint32_t tile = blockIdx.x + which * gridDim.x; tile < tiles.count; tile += CONSUMERS * gridDim.x) {
            uint32_t tile_row, tile_column;
            tiles.at(tile, tile_row, tile_column);
            begin(tile_row, tile_column);
            float sums[2][COLUMNS / 2];
            consumer.template multiply<true>(sums, [&] {
                load_angles(0);
                load_bias(0);
            });
            epilogue(sums);
        }
        if (thread == 0) tma_store_wait_read<0>();
    }
};

#endif

} // namespace gemm90

#ifdef SM90A

template <typename T, int D> __device__ __forceinline__ void gemm_qkv(const GemmQkvParams &p) {
    using namespace gemm90;
    DYN_SMEM(memory);
    auto &shared = *reinterpret_cast<GemmQkvShared *>(memory);
    init(shared);
    const Tiles tiles(p.rows, p.width, COLUMNS, p.band);
    const uint32_t steps = (p.depth + STEP - 1) / STEP;
    if (threadIdx.x < WARPGROUP) {
        setmaxnreg_dec<24>();
        if (threadIdx.x == 0) {
            // Past the edges of the matrices the loads give zeroes.
            produce(shared, tiles, steps,
                    [&](Step &to, uint32_t row, uint32_t column, int depth, uint64_t *barrier) {
                        tma_load_2d(to.rows, &p.from, depth, row * ROWS, barrier);
                        if constexpr (QkvUnits<D>::APART) {
#pragma unroll
                            for (int i = 0; i < 2 * QKV_PARTS; i++) {
                                const uint32_t part = column * QKV_PARTS + i / 2;
                                tma_load_2d(to.weight[0] + i * (32 * STEP * 2), &p.weight, depth,
                                            part / 2 * 128 + part % 2 * 32 + i % 2 * 64, barrier);
                            }
                        } else {
                            tma_load_2d(to.weight[0], &p.weight, depth, column * COLUMNS, barrier);
                            tma_load_2d(to.weight[1], &p.weight, depth, column * COLUMNS + Step::HALF_COLUMNS, barrier);
                        }
                    });
        }
    } else {
        setmaxnreg_inc<240>();
        // A shuffle, so that the compiler knows it for the same in all lanes.
        const int warpgroup = __shfl_sync(0xffffffffu, threadIdx.x / WARPGROUP, 0);
        QkvConsumer<T, D>(p, shared, warpgroup - 1).consume(tiles, steps);
    }
}

#else

template <typename T, int D> __device__ void gemm_qkv(const GemmQkvParams &) {}

#endif
