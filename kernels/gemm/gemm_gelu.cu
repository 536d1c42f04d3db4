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
// GEMM_GELU_SHARED_BYTES of dynamic shared memory. The tensor maps have two
// dimensions, depth or width the inner one, with a swizzle of 128 bytes and boxes [64, rows] of 128
// rows for `from`, 64 for `weight` and 64 for `to`. A map contains `rows`, so it is encoded again
// when `rows` changes. Bands of 8 to 12 tiles were the fastest.
//
// Bound and measured: bound by the tensor cores, and by the power limit of the card: in a steady
// stream an H100 (700 W) clocks down to 1.3 to 1.5 GHz, and then every instruction of the epilogue
// costs time. Measured there with T = 16896 rows, f16, in us; medians of 7 to 9 batches of 10 ms in
// random order, which spread by 5 %. "cuBLASLt" is the best of its algorithms with bias and without
// GELU; "the pass" is a GELU pass at the bandwidth of the memory; the last column is the quotient
// of this kernel and both together:
//
//     width x depth            cuBLASLt    with the pass    this    of both
//      5120 x 1280                  355              456     379       0.83
//      5120 x 1280, bf16            314              450     365       0.81
//     10240 x 2560                 1273             1620    1502       0.93
//      3072 x 768, gated            226              340     275       0.81
//      2560 x 640                    89              151     119       0.79
//      1280 x 320                    32               60      39       0.65
//
// In a pass of the models on an H200 (750 TFLOP/s for a large product) it reaches 73 to 80 % of
// that.
//
// These variants were tried and were no faster: tiles of 128 x 256 shared by both consumers, the
// second some steps behind (better by 5 % at 2560, worse elsewhere); clusters of two with
// multicast; stores from registers; a polynomial of degree 5.
#include "gemm90.cuh"
#include "../common/kernel.cuh"
#include "../common/number.cuh"
#include "../params.h"

#ifdef SM90A

namespace gemm90 {

// Results leave through shared memory, 64 rows and 64 columns at a time, while the next results are
// computed.
constexpr int SLAB_ROWS = GEMM_GELU_SLAB_ROWS, SLAB_COLUMNS = GEMM_GELU_SLAB_COLUMNS;
constexpr int SLAB_PITCH = SLAB_COLUMNS * 2, SLAB_BYTES = SLAB_ROWS * SLAB_PITCH;
constexpr int SLABS = GEMM_GELU_SLABS;
typedef Shared<SLABS * SLAB_BYTES> GemmGeluShared;
static_assert(sizeof(GemmGeluShared) == GEMM_GELU_SHARED_BYTES, "the host asks for as much");

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

// Returns element `i` of a pair in a register.
template <typename T> __device__ __forceinline__ float of_pair(uint32_t pair, int i);
template <> __device__ __forceinline__ float of_pair<__half>(uint32_t pair, int i) {
    const uint16_t bits = uint16_t(pair >> (16 * i));
    return __half2float(*reinterpret_cast<const __half *>(&bits));
}
template <> __device__ __forceinline__ float of_pair<__nv_bfloat16>(uint32_t pair, int i) {
    return __uint_as_float(i ? pair & 0xffff0000 : pair << 16);
}

// The columns of a tile form groups of 8, as in wgmma's sums: a thread has two columns of each
// group.
constexpr int GROUPS = COLUMNS / 8;

// Loads this thread's two biases for each group of sums.
template <int OUT_GROUPS>
__device__ __forceinline__ void load_bias(uint32_t (&bias)[GROUPS], const GemmGeluParams &p, uint32_t column) {
#pragma unroll
    for (int g = 0; g < GROUPS; g++) {
        const uint32_t at = column + 8 * (g % OUT_GROUPS) + 2 * (threadIdx.x % 4);
        const uint64_t up = g < OUT_GROUPS ? 0 : p.width;
        bias[g] = p.bias && at < p.width ? *reinterpret_cast<const uint32_t *>(p.bias + 2 * (at + up)) : 0;
    }
}

// Computes the results of two groups: 16 columns of 16 rows of a warp, in the layout of stmatrix.
// `sums` points to the sums of the first group; with OUT_GROUPS < GROUPS the up-projection is
// OUT_GROUPS groups further.
template <typename T, int OUT_GROUPS>
__device__ __forceinline__ void results(uint32_t (&words)[4], const float *sums, const uint32_t *bias) {
    float x[8]; // by group, row (lane / 4, and 8 further) and column
#pragma unroll
    for (int i = 0; i < 8; i++) x[i] = fmaf(sums[i], 0.5f, 0.5f * of_pair<T>(bias[i / 4], i % 2));
    gelu_of_twice(x);
    if constexpr (OUT_GROUPS < GROUPS) {
#pragma unroll
        for (int i = 0; i < 8; i++) x[i] *= sums[4 * OUT_GROUPS + i] + of_pair<T>(bias[OUT_GROUPS + i / 4], i % 2);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) words[i] = pack2<T>(x[2 * i], x[2 * i + 1]);
}

template <typename T, bool GATED>
__device__ __forceinline__ void consume(const GemmGeluParams &p, GemmGeluShared &shared, const Tiles &tiles,
                                        uint32_t steps) {
    constexpr int OUT = GATED ? COLUMNS / 2 : COLUMNS, OUT_GROUPS = OUT / 8;
    const int which = threadIdx.x / WARPGROUP - 1, thread = threadIdx.x % WARPGROUP;
    // For stmatrix: this lane's row of a slab, whether it belongs to the left or the right group,
    // and the XOR mask that swizzles its 16-byte units.
    const int slab_row = thread / 32 * 16 + thread % 16, side = thread % 32 / 16, swizzle = slab_row % 8;
    Consumer<T, GemmGeluShared> consumer(shared, which, steps);
    float sums[2][COLUMNS / 2] = {};
    uint32_t tile = blockIdx.x + which * gridDim.x, next_row = 0, next_column = 0;
    if (tile < tiles.count) tiles.at(tile, next_row, next_column);
    while (tile < tiles.count) {
        const uint32_t row = next_row * ROWS, column = next_column * OUT;
        tile += CONSUMERS * gridDim.x;
        uint32_t bias[GROUPS];
        consumer.multiply(sums, [&] {
            load_bias<OUT_GROUPS>(bias, p, column);
            if (tile < tiles.count) tiles.at(tile, next_row, next_column);
        });
#pragma unroll
        for (int half = 0; half < ROWS / SLAB_ROWS; half++)
#pragma unroll
            for (int part = 0; part < OUT / SLAB_COLUMNS; part++) {
                constexpr int PARTS = OUT / SLAB_COLUMNS;
                unsigned char *slab = shared.staging[which] + (half * PARTS + part) % SLABS * SLAB_BYTES;
#pragma unroll
                for (int pair = 0; pair < SLAB_COLUMNS / 16; pair++) {
                    const int g = part * (SLAB_COLUMNS / 8) + 2 * pair;
                    uint32_t words[4];
                    results<T, OUT_GROUPS>(words, &sums[half][4 * g], &bias[g]);
                    stmatrix_x4(words, slab + slab_row * SLAB_PITCH + ((2 * pair + side) ^ swizzle) * 16);
                }
                fence_proxy_async();
                if (thread == 0) tma_store_wait_read<0>(); // the other slab is free
                named_barrier_sync(1 + which, WARPGROUP);
                if (thread == 0) {
                    tma_store_2d(&p.to, column + part * SLAB_COLUMNS, row + half * SLAB_ROWS, slab);
                    tma_store_commit();
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
            const uint32_t second = GATED ? p.width : COLUMNS / 2;
            produce(shared, tiles, steps,
                    [&](unsigned char (&to)[2][OPERAND_BYTES], uint32_t row, uint32_t column, int depth,
                        uint64_t *barrier) {
                        tma_load_2d(to[0], &p.from, depth, row * ROWS, barrier);
                        tma_load_2d(to[1], &p.weight, depth, column * OUT, barrier);
                        tma_load_2d(to[1] + HALF, &p.weight, depth, column * OUT + second, barrier);
                    });
        }
    } else {
        setmaxnreg_inc<240>();
        consume<T, GATED>(p, shared, tiles, steps);
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
