// Variants of the product with GELU for Hopper, as one template: what the ladder measures. The
// kernel that was chosen is `kernels/gemm/gemm_gelu.cu`; this file shows what it was chosen from.
#pragma once

#include <type_traits>

#include "gemm_gelu.cu"
#include "gemm_qkv.cu"

namespace variants {

enum class Plan {
    PingPong, // each consumer has a tile of its own; they multiply by turns
    Shared,   // the consumers have parts of one tile, one above the other
};
// What the two blocks of a cluster have in common, and load half each.
enum class Common { Nothing, Weight, Rows };
// Residual: adds to an f32 matrix, by tensor copies that add. Rotate: gemm_qkv.cuh alone.
enum class Epilogue { Bias, Gelu, Gated, Residual, Rotate };

struct Params {
    TensorMap from, weight, to;
    const void *bias;
    uint32_t rows, width, depth, band;
};

// HALVES: 64 rows of a consumer's tile each.
template <Plan PLAN_, int CONSUMERS_, int HALVES_, int COLUMNS_, int STAGES_, Common COMMON_, int SLAB_COLUMNS_,
          int SLABS_, Epilogue EPILOGUE_, typename T_ = __half>
struct Variant {
    typedef T_ T;
    static constexpr Plan PLAN = PLAN_;
    static constexpr Common COMMON = COMMON_;
    static constexpr Epilogue EPILOGUE = EPILOGUE_;
    static constexpr int CONSUMERS = CONSUMERS_, HALVES = HALVES_, COLUMNS = COLUMNS_, STAGES = STAGES_;
    static constexpr int SLAB_COLUMNS = SLAB_COLUMNS_, SLABS = SLABS_, SLAB_BYTES = 64 * SLAB_COLUMNS * (EPILOGUE == Epilogue::Residual ? 4 : 2);
    static constexpr int OUT = EPILOGUE == Epilogue::Gated ? COLUMNS / 2 : COLUMNS;
    static constexpr int ROWS = 64 * HALVES * (PLAN == Plan::Shared ? CONSUMERS : 1);
    static constexpr int THREADS = 128 * (1 + CONSUMERS);
    static constexpr int REGISTERS = 240;
    // Whether the sums' registers stay theirs through the epilogue, as products that add to them
    // demand it.
    static constexpr bool KEPT = false;
    static constexpr int CLUSTER = COMMON == Common::Nothing ? 1 : 2;
    static constexpr int ROW_BYTES = ROWS * 128, COLUMN_BYTES = COLUMNS * 128;
    static_assert(HALVES * OUT / SLAB_COLUMNS % SLABS == 0 && OUT % SLAB_COLUMNS == 0, "every tile begins with slab 0");
    struct Shared {
        unsigned char steps[STAGES][ROW_BYTES + COLUMN_BYTES];
        unsigned char staging[CONSUMERS][SLABS * SLAB_BYTES];
        uint64_t full[STAGES], empty[STAGES], turn[2];
    };
};

template <class V> struct Kept : V {
    static constexpr bool KEPT = true;
};

#ifdef SM90A

__device__ __forceinline__ uint32_t cluster_rank() {
    uint32_t rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}
__device__ __forceinline__ void cluster_sync() {
    asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
}
// Arrives at the same barrier of another block of the cluster.
__device__ __forceinline__ void mbar_arrive_at(uint64_t *barrier, uint32_t rank) {
    asm volatile("{\n.reg .b32 there;\nmapa.shared::cluster.u32 there, %0, %1;\n"
                 "mbarrier.arrive.shared::cluster.b64 _, [there];\n}" ::"r"(shared_address(barrier)),
                 "r"(rank)
                 : "memory");
}
__device__ __forceinline__ void tma_load_2d_both(void *to, const void *map, int c0, int c1, uint64_t *barrier) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
                 "[%0], [%1, {%2, %3}], [%4], %5;" ::"r"(shared_address(to)),
                 "l"(map), "r"(c0), "r"(c1), "r"(shared_address(barrier)), "h"(uint16_t(3))
                 : "memory");
}

__device__ __forceinline__ void tma_add_2d(const void *map, int c0, int c1, const void *from) {
    asm volatile("cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.tile.bulk_group [%0, {%1, %2}], [%3];" ::"l"(map),
                 "r"(c0), "r"(c1), "r"(shared_address(from))
                 : "memory");
}

// The order of tiles, or of pairs of tiles where a cluster has two blocks.
template <class V> struct Order {
    uint32_t high, wide, band, count, rank;
    __device__ __forceinline__ Order(const Params &p) : band(p.band), rank(V::CLUSTER == 2 ? cluster_rank() : 0) {
        constexpr uint32_t TALL = V::ROWS * (V::COMMON == Common::Weight ? 2 : 1);
        constexpr uint32_t BROAD = V::OUT * (V::COMMON == Common::Rows ? 2 : 1);
        high = (p.rows + TALL - 1) / TALL, wide = (p.width + BROAD - 1) / BROAD, count = high * wide;
    }
    __device__ __forceinline__ static uint32_t first() { return blockIdx.x / V::CLUSTER; }
    __device__ __forceinline__ static uint32_t stride() { return gridDim.x / V::CLUSTER; }
    // The first row and the first column of the tile.
    __device__ __forceinline__ void at(uint32_t tile, uint32_t &row, uint32_t &column) const {
        const uint32_t above = tile / (band * wide) * band, rest = tile - above * wide;
        const uint32_t here = min(band, high - above);
        column = rest / here;
        row = above + rest - column * here;
        if (V::COMMON == Common::Weight) row = 2 * row + rank;
        if (V::COMMON == Common::Rows) column = 2 * column + rank;
        row *= V::ROWS, column *= V::OUT;
    }
};

template <class V>
__device__ __forceinline__ void produce(const Params &p, typename V::Shared &shared, const Order<V> &order,
                                        uint32_t steps) {
    RingCursor<V::STAGES> place;
    const uint32_t second = V::EPILOGUE == Epilogue::Gated ? p.width : V::COLUMNS / 2;
    for (uint32_t tile = order.first(); tile < order.count; tile += order.stride()) {
        uint32_t row, column;
        order.at(tile, row, column);
        for (uint32_t step = 0; step < steps; step++, place.next()) {
            mbar_wait(&shared.empty[place.stage], place.phase ^ 1);
            uint64_t *full = &shared.full[place.stage];
            mbar_expect_tx(full, V::ROW_BYTES + V::COLUMN_BYTES);
            unsigned char *rows = shared.steps[place.stage], *weight = rows + V::ROW_BYTES;
            const int depth = step * 64;
            if constexpr (V::COMMON == Common::Rows) {
                tma_load_2d_both(rows + order.rank * (V::ROW_BYTES / 2), &p.from, depth,
                                 row + order.rank * (V::ROWS / 2), full);
            } else {
                tma_load_2d(rows, &p.from, depth, row, full);
                tma_load_2d(rows + V::ROW_BYTES / 2, &p.from, depth, row + V::ROWS / 2, full);
            }
            if constexpr (V::COMMON == Common::Weight) {
                tma_load_2d_both(weight + order.rank * (V::COLUMN_BYTES / 2), &p.weight, depth,
                                 column + order.rank * second, full);
            } else {
                tma_load_2d(weight, &p.weight, depth, column, full);
                tma_load_2d(weight + V::COLUMN_BYTES / 2, &p.weight, depth, column + second, full);
            }
        }
    }
}

template <class V> __device__ __forceinline__ void release(uint64_t *barrier) {
    if (threadIdx.x % 32 == 0) {
        if constexpr (V::CLUSTER == 1) {
            mbar_arrive(barrier);
        } else {
            mbar_arrive_at(barrier, 0);
            mbar_arrive_at(barrier, 1);
        }
    }
}

template <class V>
__device__ __forceinline__ void consume(const Params &p, typename V::Shared &shared, const Order<V> &order,
                                        uint32_t steps) {
    typedef typename V::T T;
    constexpr bool PING_PONG = V::PLAN == Plan::PingPong;
    constexpr int PARTS = V::OUT / V::SLAB_COLUMNS, PART_GROUPS = V::SLAB_COLUMNS / 8, OUT_GROUPS = V::OUT / 8;
    const int which = threadIdx.x / 128 - 1, thread = threadIdx.x % 128;
    const int slab_row = thread / 32 * 16 + thread % 16, side = thread % 32 / 16;
    const int swizzle = V::SLAB_COLUMNS == 64 ? slab_row % 8 : slab_row / 2 % 4;
    RingCursor<V::STAGES> place;
    typedef float Sums[V::HALVES][V::COLUMNS / 2];
    [[maybe_unused]] Sums kept = {};
    uint32_t tiles_done = 0, tile = order.first() + (PING_PONG ? which * order.stride() : 0);
    if (PING_PONG && which == 1) place.skip(steps);
    while (tile < order.count) {
        uint32_t row, column;
        Sums fresh;
        Sums &sums = V::KEPT ? kept : fresh;
        if (PING_PONG) {
            mbar_wait(&shared.turn[which], which == 0 ? ~tiles_done & 1 : tiles_done & 1);
            tiles_done++;
        }
        uint64_t *last = nullptr;
        // Where registers are not kept, the compiler knows that the first product replaces the sums.
        const auto one = [&](auto first, uint32_t step) {
            mbar_wait(&shared.full[place.stage], place.phase);
            const unsigned char *at = shared.steps[place.stage];
            const uint64_t rows = wg_desc(at + (PING_PONG ? 0 : which * V::HALVES * 8192), 0, 1024);
            const uint64_t weight = wg_desc(at + V::ROW_BYTES, 0, 1024);
            wg_fence();
#pragma unroll
            for (int k = 0; k < 4; k++)
#pragma unroll
                for (int half = 0; half < V::HALVES; half++)
                    wgmma_ss<T, V::COLUMNS, 0>(sums[half], rows + half * 512 + k * 2, weight + k * 2,
                                               decltype(first)::value ? k > 0 : !V::KEPT || step > 0 || k > 0);
            wg_commit();
            if (step == 0) order.at(tile, row, column);
            wg_wait<1>();
            if (PING_PONG && step + 1 == steps && threadIdx.x % 32 == 0) mbar_arrive(&shared.turn[which ^ 1]);
            if (step > 0) release<V>(last);
            last = &shared.empty[place.stage];
            place.next();
        };
        one(std::integral_constant<int, V::KEPT ? 0 : 1>(), 0);
        for (uint32_t step = 1; step < steps; step++) one(std::integral_constant<int, 0>(), step);
        wg_wait<0>();
        release<V>(last);
        if (PING_PONG) place.skip(steps);
        tile += (PING_PONG ? 2 : 1) * order.stride();
        if (!PING_PONG) row += which * 64 * V::HALVES;
        int slabs = 0;
#pragma unroll
        for (int part = 0; part < PARTS; part++) {
            // Loads once per part, for both halves.
            uint32_t gate[PART_GROUPS], up[PART_GROUPS];
#pragma unroll
            for (int g = 0; g < PART_GROUPS; g++) {
                const uint32_t c = column + part * V::SLAB_COLUMNS + 8 * g + 2 * (threadIdx.x % 4);
                const bool in = c < p.width;
                gate[g] = in ? *reinterpret_cast<const uint32_t *>(static_cast<const T *>(p.bias) + c) : 0;
                if (V::EPILOGUE == Epilogue::Gated)
                    up[g] = in ? *reinterpret_cast<const uint32_t *>(static_cast<const T *>(p.bias) + p.width + c) : 0;
            }
#pragma unroll
            for (int half = 0; half < V::HALVES; half++, slabs++) {
                unsigned char *slab = shared.staging[which] + slabs % V::SLABS * V::SLAB_BYTES;
                if (V::SLABS == 1) {
                    if (thread == 0) tma_store_wait_read<0>();
                    named_barrier_sync(1 + which, 128);
                }
                if constexpr (V::EPILOGUE == Epilogue::Residual) {
                    // f32, 32 columns: a lane has 8 bytes of each group, in two rows.
#pragma unroll
                    for (int g = 0; g < PART_GROUPS; g++)
#pragma unroll
                        for (int low = 0; low < 2; low++) {
                            const float *s = &sums[half][4 * (part * PART_GROUPS + g) + 2 * low];
                            const int r = thread / 32 * 16 + thread % 32 / 4 + 8 * low, unit = 2 * g + thread % 4 / 2;
                            *reinterpret_cast<float2 *>(slab + r * 128 + (unit ^ r % 8) * 16 + thread % 2 * 8) =
                                make_float2(s[0] + gemm90::of_pair<T>(gate[g], 0), s[1] + gemm90::of_pair<T>(gate[g], 1));
                        }
                } else
#pragma unroll
                for (int pair = 0; pair < PART_GROUPS / 2; pair++) {
                    const float *s = &sums[half][4 * (part * PART_GROUPS + 2 * pair)];
                    uint32_t words[4];
                    float x[8];
                    if constexpr (V::EPILOGUE == Epilogue::Bias) {
#pragma unroll
                        for (int i = 0; i < 8; i++) x[i] = s[i] + gemm90::of_pair<T>(gate[2 * pair + i / 4], i % 2);
                    } else {
#pragma unroll
                        for (int i = 0; i < 8; i++)
                            x[i] = fmaf(s[i], 0.5f, 0.5f * gemm90::of_pair<T>(gate[2 * pair + i / 4], i % 2));
                        gemm90::gelu_of_twice(x);
                    }
                    if constexpr (V::EPILOGUE == Epilogue::Gated) {
#pragma unroll
                        for (int i = 0; i < 8; i++)
                            x[i] *= s[4 * OUT_GROUPS + i] + gemm90::of_pair<T>(up[2 * pair + i / 4], i % 2);
                    }
#pragma unroll
                    for (int i = 0; i < 4; i++) words[i] = pack2<T>(x[2 * i], x[2 * i + 1]);
                    stmatrix_x4(words, slab + slab_row * (V::SLAB_COLUMNS * 2) + ((2 * pair + side) ^ swizzle) * 16);
                }
                fence_proxy_async();
                if (V::SLABS > 1 && thread == 0) tma_store_wait_read<V::SLABS - 2 < 0 ? 0 : V::SLABS - 2>();
                named_barrier_sync(1 + which, 128);
                if (thread == 0) {
                    if constexpr (V::EPILOGUE == Epilogue::Residual)
                        tma_add_2d(&p.to, column + part * V::SLAB_COLUMNS, row + half * 64, slab);
                    else
                        tma_store_2d(&p.to, column + part * V::SLAB_COLUMNS, row + half * 64, slab);
                    tma_store_commit();
                }
            }
        }
    }
    if (thread == 0) tma_store_wait_read<0>();
}

template <class V> __device__ __forceinline__ void multiply(const Params &p) {
    extern __shared__ __align__(1024) unsigned char memory[];
    auto &shared = *reinterpret_cast<typename V::Shared *>(memory);
    if (threadIdx.x == 0) {
        for (int i = 0; i < V::STAGES; i++) {
            mbar_init(&shared.full[i], 1);
            mbar_init(&shared.empty[i], 4 * V::CLUSTER * (V::PLAN == Plan::Shared ? V::CONSUMERS : 1));
        }
        for (int i = 0; i < 2; i++) mbar_init(&shared.turn[i], 4);
        fence_mbar_init();
    }
    if constexpr (V::CLUSTER == 2) cluster_sync();
    else __syncthreads();
    const Order<V> order(p);
    const uint32_t steps = (p.depth + 63) / 64;
    if (threadIdx.x < 128) {
        setmaxnreg_dec<24>();
        if (threadIdx.x == 0) produce<V>(p, shared, order, steps);
        // The other block may still copy to this block's memory, and arrive at its barriers.
        if constexpr (V::CLUSTER == 2) cluster_sync();
    } else {
        setmaxnreg_inc<V::REGISTERS>();
        consume<V>(p, shared, order, steps);
        if constexpr (V::CLUSTER == 2) cluster_sync();
    }
}

#endif

} // namespace variants

template <class V> __global__ void __launch_bounds__(V::THREADS, 1) product(const __grid_constant__ variants::Params p) {
#ifdef SM90A
    variants::multiply<V>(p);
#endif
}
