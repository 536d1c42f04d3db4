// Computes: to = x W^T + bias, or to += x W^T + bias, in f32 and nearly as exact as f64. These are
// the linear layers of sequences of fewer than 16 tokens. PyTorch sums these products in several
// short chains, so the long f32 chains of cuBLASLt would be too inexact. The chains are counted
// from the first column of x, whatever the number of rows, so the bits of a row do not depend on
// other rows.
//
// Shapes: any; see GemmShortParams in params.h.
//
// Launch: a grid of ceil(outputs / 64) by ceil(rows / 64) blocks of 256 threads. The threads form a
// square of 16 by 16: thread (y, x) computes rows 4 y to 4 y + 3 and columns 4 x to 4 x + 3 of the
// block's tile.
//
// Bound and measured: bound by FLOPs. 8 products are summed in f32, and the sum is added to a pair
// of f32s by Knuth's two-sum, which loses nothing: 15 operations per 8 products. In f64 it would
// take as long on an H100, and 30 times as long on a GPU with little f64 arithmetic. On an H200,
// where cuBLASLt reaches 51 TFLOP/s and these operations allow at most 27 TFLOP/s: 19 TFLOP/s with
// 4,096 rows, [5120, 1280] and [1280, 5120]. One sequence of 15 tokens makes 80 and 20 blocks for
// 132 multiprocessors: 93 and 352 us.
#include "../common/kernel.cuh"
#include "../launch.h"
#include "../params.h"
#include "../common/vector.cuh"

constexpr int SIDE = 16, TILE = GEMM_SHORT_TILE, EACH = TILE / SIDE, THREADS = GEMM_SHORT_THREADS;
static_assert(EACH == 4 && THREADS == SIDE * SIDE, "a thread reads its rows and columns as vectors of 4");
constexpr int DEPTH = 32; // depth of a step
constexpr int CHAIN = 8;  // number of products summed in f32
// Tiles are stored transposed, with one more vector per row, so that columns start at different
// banks.
constexpr int STRIDE = TILE + 4;
constexpr int VECTORS = TILE * DEPTH / 4 / THREADS; // float4 per thread, of each operand's tile

// high + low += x, without loss (Knuth's two-sum).
__device__ __forceinline__ void two_sum(float &high, float &low, float x) {
    const float sum = high + x, of_x = sum - high;
    low += (high - (sum - of_x)) + (x - of_x);
    high = sum;
}

// Loads a step's rows of one operand, four columns per vector; reads 0 past the operand's end.
__device__ __forceinline__ void fetch(float (&to)[VECTORS][4], const float *from, uint32_t first, uint32_t rows,
                                      uint32_t column, uint32_t depth) {
#pragma unroll
    for (int v = 0; v < VECTORS; v++) {
        const uint32_t i = v * THREADS + threadIdx.x, row = first + i / (DEPTH / 4), k = column + i % (DEPTH / 4) * 4;
        const float *at = from + uint64_t(row) * depth + k;
        if (row < rows && k < depth && depth % 4 == 0) {
            load(to[v], at);
            continue;
        }
#pragma unroll
        for (int j = 0; j < 4; j++) to[v][j] = row < rows && k + j < depth ? at[j] : 0.0f;
    }
}

__device__ __forceinline__ void put(float *tile, const float (&from)[VECTORS][4]) {
#pragma unroll
    for (int v = 0; v < VECTORS; v++) {
        const int i = v * THREADS + threadIdx.x, row = i / (DEPTH / 4), k = i % (DEPTH / 4) * 4;
#pragma unroll
        for (int j = 0; j < 4; j++) tile[(k + j) * STRIDE + row] = from[v][j];
    }
}

__device__ void gemm_in_tiles(const GemmShortParams &p) {
    __shared__ alignas(16) float rows[DEPTH * STRIDE], columns[DEPTH * STRIDE];
    const int x = threadIdx.x % SIDE * EACH, y = threadIdx.x / SIDE * EACH;
    const uint32_t first_column = blockIdx.x * TILE, first_row = blockIdx.y * TILE;
    float high[EACH][EACH] = {}, low[EACH][EACH] = {};
    float next_rows[VECTORS][4], next_columns[VECTORS][4];
    fetch(next_rows, at<const float>(p.from), first_row, p.rows, 0, p.depth);
    fetch(next_columns, at<const float>(p.weight), first_column, p.outputs, 0, p.depth);
    for (uint32_t k = 0; k < p.depth; k += DEPTH) {
        __syncthreads(); // the step before has been read
        put(rows, next_rows);
        put(columns, next_columns);
        __syncthreads(); // this step is there
        fetch(next_rows, at<const float>(p.from), first_row, p.rows, k + DEPTH, p.depth);
        fetch(next_columns, at<const float>(p.weight), first_column, p.outputs, k + DEPTH, p.depth);
        for (int chain = 0; chain < DEPTH; chain += CHAIN) {
            float sum[EACH][EACH] = {};
#pragma unroll
            for (int d = 0; d < CHAIN; d++) {
                float a[EACH], b[EACH];
                load(a, rows + (chain + d) * STRIDE + y);
                load(b, columns + (chain + d) * STRIDE + x);
#pragma unroll
                for (int i = 0; i < EACH; i++)
#pragma unroll
                    for (int j = 0; j < EACH; j++) sum[i][j] = fmaf(a[i], b[j], sum[i][j]);
            }
#pragma unroll
            for (int i = 0; i < EACH; i++)
#pragma unroll
                for (int j = 0; j < EACH; j++) two_sum(high[i][j], low[i][j], sum[i][j]);
        }
    }
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        const uint32_t row = first_row + y + i;
#pragma unroll
        for (int j = 0; j < EACH; j++) {
            const uint32_t column = first_column + x + j;
            if (row >= p.rows || column >= p.outputs) continue;
            if (p.bias) two_sum(high[i][j], low[i][j], at<const float>(p.bias)[column]);
            float *to = at<float>(p.to) + uint64_t(row) * p.outputs + column;
            const float sum = high[i][j] + low[i][j];
            *to = p.add ? *to + sum : sum;
        }
    }
}

// The plain reference: one thread per element, in f64.
__device__ void gemm_plainly(const GemmShortParams &p) {
    const uint64_t threads = uint64_t(gridDim.x) * blockDim.x, count = uint64_t(p.rows) * p.outputs;
    for (uint64_t i = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += threads) {
        const float *row = at<const float>(p.from) + i / p.outputs * p.depth;
        const float *column = at<const float>(p.weight) + i % p.outputs * p.depth;
        double sum = 0;
        for (uint32_t k = 0; k < p.depth; k++) sum += double(row[k]) * double(column[k]);
        if (p.bias) sum += at<const float>(p.bias)[i % p.outputs];
        if (p.add) sum += at<float>(p.to)[i];
        at<float>(p.to)[i] = float(sum);
    }
}

KERNEL(gemm_short, GemmShortParams, THREADS, gemm_in_tiles)
KERNEL(gemm_short_reference, GemmShortParams, THREADS, gemm_plainly)
