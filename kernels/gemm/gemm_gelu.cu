// Computes: fc1 with its GELU, for Hopper: gelu(from * weight^T + bias) in its exact form, and the
// gated form gelu(from * gate^T + bias) * (from * up^T + bias), where gate and up are the two
// halves of the rows of one weight. cuBLASLt's epilogue has the tanh form only, and a separate pass
// over [rows, width] costs 27 to 88 % of the product.
//
// Shapes: from T [rows, depth], weight T [width, depth] or [2 width, depth], to T [rows, width]; T
// is f16 or bf16, sums are f32. Any number of rows; width and depth are multiples of 8. A row has
// the same bits in every batch and grid.
//
// Launch: only on compute capability 9.0 (elsewhere the kernel is empty, and writes nothing). The
// grid has as many blocks as there are multiprocessors, or fewer; a block has 384 threads and
// GEMM_GELU_SHARED_BYTES of dynamic shared memory. The tensor maps have two dimensions, depth or
// width the inner one. The boxes are 64 x 128 rows for `from`, 64 x 96 for `weight` and 64 x 64 for
// `to`, all with a swizzle of 128 bytes; for `to` of the gated form 32 x 64 with a swizzle of 64. A
// map contains `rows`, so it is encoded again when `rows` changes. Bands whose rows of `from` are
// 10 MB were the fastest.
//
// Bound and measured: bound by the tensor cores, and by the power limit of the card: in a burst an
// H200 (700 W) runs at up to 1.98 GHz, in a steady stream at 1.3 to 1.5 GHz, and then every
// instruction of the epilogue costs time. Measured on an H200 with T = 33792 rows, f16, random data,
// in TFLOP/s; "cuBLASLt" is the best of its algorithms for the same product with bias and without
// GELU, in the same run:
//
//     width x depth              burst: cuBLASLt   this   steady: this
//      5120 x 1280                           728    733            630
//     10240 x 2560                           768    759            641
//     20480 x 5120                           761    752            648
//      3072 x 768, gated                     681    749            638
//      2560 x 640                            629    584            492
//      1920 x 480                            578    514
//      1280 x 320                            538    423
//
// What was tried is in benches/results/2026-11-29-products-h200.md. In short: clusters of two with
// multicast win 1 % at some shapes and lose 4 % at others; tiles of 128 x 256 that both consumers
// share cannot hide the epilogue; a fifth stage wins less than the memory for results that it
// takes; biases from shared memory instead of L2 win 1 to 12 %; and with those, sums whose registers
// are free during the epilogue lose up to 2 %.
#include "gemm90.cuh"
#include "../common/kernel.cuh"
#include "../common/number.cuh"
#include "../params.h"
#include "../common/vector.cuh"

#ifdef SM90A

namespace gemm90 {

// Results leave through shared memory, GEMM_GELU_SLAB_ROWS rows and some columns at a time, while
// the next results are computed.
// A gated tile has half as many columns of results as sums, so its slabs have half the columns.
template <bool GATED> struct Slab {
    static constexpr int ROWS = GEMM_GELU_SLAB_ROWS, COLUMNS = GEMM_GELU_SLAB_COLUMNS / (GATED ? 2 : 1);
    static constexpr int COUNT = GEMM_GELU_SLABS * (GATED ? 2 : 1);
    static constexpr int PITCH = COLUMNS * 2, BYTES = ROWS * PITCH;
};
struct GemmGeluShared : Shared<Slab<false>::COUNT * Slab<false>::BYTES> {
    // Biases of a consumer's tile, two columns each. Loads from L2 that stand between two fences
    // would make the epilogue longer by half.
    uint32_t bias[CONSUMERS][COLUMNS / 2];
};
static_assert(sizeof(GemmGeluShared) == GEMM_GELU_SHARED_BYTES, "the host asks for as much");
static_assert(Slab<true>::COUNT * Slab<true>::BYTES == sizeof(GemmGeluShared::staging[0]));
static_assert(Slab<false>::ROWS == Step::HALF_ROWS);

// Replaces z by gelu(2 z) = (z + |z|) - |z| * 2 Phi(-2 |z|). This is the method of gelu.cuh,
// applied to x / 2, because the sum of x / 2 and |x| / 2 is max(x, 0) and keeps a NaN; an infinity
// becomes a NaN. It takes fewer instructions than gelu.cuh, since every instruction delays the
// tensor cores. It is within 1/30 of a unit in the last place of f16 and bf16 down to x = -8, where
// gelu is -5e-15, and within 3e-13 beyond. It computes several numbers at once, so that they hide
// each other's latency.
template <int N> __device__ __forceinline__ void gelu_of_twice(float (&z)[N]) {
    // log2(2 Phi(-2 y)) as a polynomial, minimax on [0, 4]; beyond, it falls ever faster.
    constexpr int DEGREE = 7;
    constexpr float LOG2_TAIL[DEGREE + 1] = {-1.9580355e-05f, -2.3018682f,    -1.83693779f,   -0.425870121f,
                                             0.130842969f,    -0.0273041073f, 0.00336971343f, -0.000183006588f};
    float q[N];
#pragma unroll
    for (int n = 0; n < N; n++) q[n] = LOG2_TAIL[DEGREE];
#pragma unroll
    for (int i = DEGREE - 1; i >= 0; i--)
#pragma unroll
        for (int n = 0; n < N; n++) q[n] = fmaf(q[n], fabsf(z[n]), LOG2_TAIL[i]);
#pragma unroll
    for (int n = 0; n < N; n++) z[n] = fmaf(-fabsf(z[n]), exp2_approx(q[n]), z[n] + fabsf(z[n]));
}

// The columns of a tile form groups of 8, as in wgmma's sums: a thread has two columns of each
// group. The gated form has the gates in the first half of the groups, and what they multiply in
// the second.
constexpr int GROUPS = COLUMNS / 8;

// Computes the results of two groups: 16 columns of 16 rows of a warp, in the layout of stmatrix.
// `sums` points to the sums of the first group; in the gated form those of the up-projection are
// half of the groups further. `bias` points to this thread's biases of the first group, in shared
// memory; those of the next are 4 words further.
template <typename T, bool GATED>
__device__ __forceinline__ void results(uint32_t (&words)[4], const float *sums, const uint32_t *bias) {
    const uint32_t gate[2] = {bias[0], bias[4]};
    float x[8]; // by group, row (lane / 4, and 8 further) and column
#pragma unroll
    for (int i = 0; i < 8; i++) x[i] = fmaf(sums[i], 0.5f, 0.5f * of_pair<T>(gate[i / 4], i % 2));
    gelu_of_twice(x);
    if constexpr (GATED) {
        const uint32_t up[2] = {bias[4 * (GROUPS / 2)], bias[4 * (GROUPS / 2) + 4]};
#pragma unroll
        for (int i = 0; i < 8; i++) x[i] *= sums[4 * (GROUPS / 2) + i] + of_pair<T>(up[i / 4], i % 2);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) words[i] = pack2<T>(x[2 * i], x[2 * i + 1]);
}

template <typename T, bool GATED>
__device__ __forceinline__ void consume(const GemmGeluParams &p, GemmGeluShared &shared, const Tiles &tiles,
                                        uint32_t steps, int which) {
    typedef Slab<GATED> S;
    constexpr int OUT = GATED ? COLUMNS / 2 : COLUMNS, SLAB_GROUPS = S::COLUMNS / 8;
    // Every tile begins with the first slab.
    static_assert(OUT % S::COLUMNS == 0 && 2 * (OUT / S::COLUMNS) % S::COUNT == 0);
    const int thread = threadIdx.x % WARPGROUP;
    // For stmatrix: this lane's row of a slab, whether it belongs to the left or the right group,
    // and the XOR mask that swizzles its 16-byte units.
    const int slab_row = thread / 32 * 16 + thread % 16, side = thread % 32 / 16;
    const int swizzle = GATED ? slab_row / 2 % 4 : slab_row % 8;
    Consumer<T, GemmGeluShared> consumer(shared, which, steps);
    float sums[2][COLUMNS / 2] = {};
    for (uint32_t tile = blockIdx.x + which * gridDim.x; tile < tiles.count; tile += CONSUMERS * gridDim.x) {
        uint32_t row, column;
        tiles.at(tile, row, column);
        row *= ROWS;
        column *= OUT;
        // The gated form's tile has columns of gates, and as many of what they multiply.
        const uint32_t pair = thread % (OUT / 2), c = column + 2 * pair;
        const bool has_bias = p.bias && thread < COLUMNS / 2 && c < p.width;
        const uint32_t bias = has_bias ? at<const uint32_t>(p.bias)[(c + thread / (OUT / 2) * p.width) / 2] : 0;
        consumer.template multiply<false>(sums, [&] {
            // All have read the biases of the tile before: that tile's last slab has left.
            if (thread < COLUMNS / 2) shared.bias[which][thread] = bias;
        });
        named_barrier_sync(1 + which, WARPGROUP); // biases
#pragma unroll
        for (int part = 0; part < OUT / S::COLUMNS; part++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                unsigned char *slab = shared.staging[which] + (2 * part + half) % S::COUNT * S::BYTES;
#pragma unroll
                for (int g = 0; g < SLAB_GROUPS; g += 2) {
                    uint32_t words[4];
                    const int group = part * SLAB_GROUPS + g;
                    results<T, GATED>(words, &sums[half][4 * group], &shared.bias[which][4 * group + thread % 4]);
                    stmatrix_x4(words, slab + slab_row * S::PITCH + ((g + side) ^ swizzle) * 16);
                }
                fence_proxy_async();
                if (thread == 0) tma_store_wait_read<S::COUNT - 2>(); // the next slab is free
                named_barrier_sync(1 + which, WARPGROUP);
                if (thread == 0) {
                    tma_store_2d(&p.to, column + part * S::COLUMNS, row + half * S::ROWS, slab);
                    tma_store_commit();
                }
            }
        }
    }
    if (thread == 0) tma_store_wait_read<0>();
}

} // namespace gemm90

template <typename T, bool GATED> __device__ __forceinline__ void gemm_gelu(const GemmGeluParams &p) {
    using namespace gemm90;
    DYN_SMEM(memory);
    auto &shared = *reinterpret_cast<GemmGeluShared *>(memory);
    init(shared);
    constexpr uint32_t OUT = GATED ? COLUMNS / 2 : COLUMNS;
    const Tiles tiles(p.rows, p.width, OUT, p.band);
    const uint32_t steps = (p.depth + STEP - 1) / STEP;
    if (threadIdx.x < WARPGROUP) {
        setmaxnreg_dec<24>();
        if (threadIdx.x == 0) {
            // Past the edges of the matrices the loads give zeroes.
            const uint32_t second = GATED ? p.width : Step::HALF_COLUMNS;
            produce(shared, tiles, steps,
                    [&](Step &to, uint32_t row, uint32_t column, int depth, uint64_t *barrier) {
                        tma_load_2d(to.rows, &p.from, depth, row * ROWS, barrier);
                        tma_load_2d(to.weight[0], &p.weight, depth, column * OUT, barrier);
                        tma_load_2d(to.weight[1], &p.weight, depth, column * OUT + second, barrier);
                    });
        }
    } else {
        setmaxnreg_inc<240>();
        // A shuffle, so that the compiler knows it for the same in all lanes.
        const int warpgroup = __shfl_sync(0xffffffffu, threadIdx.x / WARPGROUP, 0);
        consume<T, GATED>(p, shared, tiles, steps, warpgroup - 1);
    }
}

#else

template <typename T, bool GATED> __device__ void gemm_gelu(const GemmGeluParams &) {}

#endif

// The plain reference of both forms: one thread per output, in f64.
template <typename T> __device__ void gemm_gelu_reference(const GemmGeluReferenceParams &p) {
    const uint64_t at = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (at >= uint64_t(p.rows) * p.width) return;
    const uint64_t row = at / p.width, column = at % p.width;
    const T *from = reinterpret_cast<const T *>(p.from) + row * p.depth;
    const T *bias = reinterpret_cast<const T *>(p.bias);
    auto product = [&](uint64_t weight_row) {
        const T *weight = reinterpret_cast<const T *>(p.weight) + weight_row * p.depth;
        double sum = bias ? to_f32(bias[weight_row]) : 0.0f;
        for (uint32_t i = 0; i < p.depth; i++) sum += double(to_f32(from[i])) * double(to_f32(weight[i]));
        return sum;
    };
    const double x = product(column);
    double result = 0.5 * x * erfc(-x * 0.70710678118654752440);
    if (p.gated) result *= product(p.width + column);
    reinterpret_cast<T *>(p.to)[at] = from_f32<T>(float(result));
}

#define GEMM_GELU(type, T)                                                                                    \
    KERNEL_RESIDENT(gemm_gelu_##type, GemmGeluParams, GEMM90_THREADS, 1, gemm_gelu<T, false>)                             \
    KERNEL_RESIDENT(gemm_gelu_gated_##type, GemmGeluParams, GEMM90_THREADS, 1, gemm_gelu<T, true>)                        \
    KERNEL(gemm_gelu_##type##_reference, GemmGeluReferenceParams, 256, gemm_gelu_reference<T>)

GEMM_GELU(f16, __half)
GEMM_GELU(bf16, __nv_bfloat16)
