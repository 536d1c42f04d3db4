// Computes: LayerNorm of the f32 residual stream, (x - mean) / sqrt(variance + epsilon) * gain +
// bias. The variance divides by `width`, not by width - 1. For f32 results the statistics are
// summed in f64 (norm.cuh). They take two passes over the registers instead of the sums of x and
// x^2, because ESM-2's outlier channels are hundreds of deviations wide and the difference of two
// large sums would cancel. The number of warps that share a row, and so the order of its sums,
// follows from the width alone.
//
// Shapes: x f32 [rows, width], gain and bias f32 [width]. The output is [rows, width] in f32, f16
// or bf16, or the same values in f32, or both; the f32 values may overwrite x. Any width.
//
// Launch: any number of blocks of 256 threads. A group of warps takes every (groups of the grid)-th
// row.
//
// Bound and measured: bound by bytes. A row is read from memory once, as float4, and kept in
// registers. On an H200, which copies 4.2 TB/s, with 33792 rows to f16: 3.7 TB/s at a width of
// 1280, 3.9 TB/s at 2560 and 4.1 TB/s at 5120; to f32, 3.7 TB/s at 1280.
#include "../common/kernel.cuh"
#include "norm.cuh"
#include "../launch.h"
#include "../params.h"
#include "../common/vector.cuh"

constexpr int WARPS = LOOP_THREADS / 32;
// float4 per lane: 40 registers for a row. With more, three blocks would not fit on an SM.
constexpr int HELD = 10;

// Stores four values in both outputs.
template <typename To> __device__ __forceinline__ void put(const LayerNormParams &p, uint64_t i, const float (&y)[4]) {
    if (p.to) store(at<To>(p.to) + i, y);
    if (p.stream) store(at<float>(p.stream) + i, y);
}

// Computes rows by groups of `warps` warps, where each lane holds N float4. It needs width <= 128 *
// N * warps and a width that is a multiple of 4.
template <int N, typename To> __device__ __forceinline__ void rows_in_registers(const LayerNormParams &p, int warps) {
    using Sum = SumFor<To>;
    __shared__ Sum partial[WARPS];
    const int groups = WARPS / warps;
    const int group = threadIdx.x / (32 * warps), member = threadIdx.x % (32 * warps);
    const Sum n = Sum(p.width);
    // Every group of a block runs the same number of rounds, since they share the barriers of
    // group_sum.
    for (uint64_t first = uint64_t(blockIdx.x) * groups; first < p.rows; first += uint64_t(gridDim.x) * groups) {
        const bool present = first + group < p.rows;
        const uint64_t row = (first + group) * p.width;
        float x[N][4];
        Sum sum = 0;
#pragma unroll
        for (int k = 0; k < N; k++) {
            const uint32_t i = (k * 32 * warps + member) * 4;
            if (present && i < p.width) {
                load(x[k], at<float>(p.from) + row + i);
                sum += (x[k][0] + x[k][1]) + (x[k][2] + x[k][3]);
            }
        }
        const Split<Sum> mean(group_sum(sum, partial, group, warps) / n);
        Sum squares = 0;
#pragma unroll
        for (int k = 0; k < N; k++) {
            const uint32_t i = (k * 32 * warps + member) * 4;
            if (present && i < p.width) {
#pragma unroll
                for (float &v : x[k]) v = mean.from(v);
                add_squares(squares, x[k]);
            }
        }
        const Split<Sum> scale(inverse_root(group_sum(squares, partial, group, warps) / n + Sum(p.epsilon)));
#pragma unroll
        for (int k = 0; k < N; k++) {
            const uint32_t i = (k * 32 * warps + member) * 4;
            if (present && i < p.width) {
                float gain[4], bias[4];
                load(gain, at<float>(p.gain) + i);
                load(bias, at<float>(p.bias) + i);
#pragma unroll
                for (int j = 0; j < 4; j++) x[k][j] = fmaf(scale.times(x[k][j]), gain[j], bias[j]);
                put<To>(p, row + i, x[k]);
            }
        }
    }
}

// For any width: one block per row, which is read three times, from L1 or L2 after the first time.
template <typename To> __device__ __forceinline__ void rows_in_memory(const LayerNormParams &p) {
    using Sum = SumFor<To>;
    __shared__ Sum partial[WARPS];
    const Sum n = Sum(p.width);
    for (uint64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
        const float *x = at<float>(p.from) + row * p.width;
        Sum sum = 0;
        for (uint32_t i = threadIdx.x; i < p.width; i += 32 * WARPS) sum += x[i];
        const Split<Sum> mean(group_sum(sum, partial, 0, WARPS) / n);
        Sum squares = 0;
        for (uint32_t i = threadIdx.x; i < p.width; i += 32 * WARPS) {
            const Sum d = mean.from(x[i]);
            squares = fma(d, d, squares);
        }
        const Split<Sum> scale(inverse_root(group_sum(squares, partial, 0, WARPS) / n + Sum(p.epsilon)));
        for (uint32_t i = threadIdx.x; i < p.width; i += 32 * WARPS) {
            const float y = fmaf(scale.times(mean.from(x[i])), at<float>(p.gain)[i], at<float>(p.bias)[i]);
            if (p.to) at<To>(p.to)[row * p.width + i] = from_f32<To>(y);
            if (p.stream) at<float>(p.stream)[row * p.width + i] = y;
        }
    }
}

template <typename To> __device__ void layer_norm(const LayerNormParams &p) {
    const uint32_t vectors = (p.width + 127) / 128; // float4 per lane, if one warp took a whole row
    if (p.width % 4 != 0 || vectors > WARPS * HELD)
        rows_in_memory<To>(p);
    else if (vectors <= 4)
        rows_in_registers<4, To>(p, 1);
    else if (vectors <= 6)
        rows_in_registers<6, To>(p, 1);
    else // a power of two of warps: 1 up to a width of 1280, 2 up to 2560, 4 up to 5120, else 8
        rows_in_registers<HELD, To>(p, vectors <= HELD ? 1 : vectors <= 2 * HELD ? 2 : vectors <= 4 * HELD ? 4 : 8);
}

// The plain reference: one thread per row, in f64. It does not support `stream` onto `from`
// together with `to`.
template <typename To> __device__ void layer_norm_reference(const LayerNormParams &p) {
    const uint64_t row = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (row >= p.rows) return;
    const float *x = at<float>(p.from) + row * p.width;
    double mean = 0, variance = 0;
    for (uint32_t i = 0; i < p.width; i++) mean += x[i];
    mean /= p.width;
    for (uint32_t i = 0; i < p.width; i++) variance += (x[i] - mean) * (x[i] - mean);
    const double scale = 1.0 / sqrt(variance / p.width + p.epsilon);
    for (uint32_t i = 0; i < p.width; i++) {
        const float y = float((x[i] - mean) * scale * at<float>(p.gain)[i] + at<float>(p.bias)[i]);
        if (p.to) at<To>(p.to)[row * p.width + i] = from_f32<To>(y);
        if (p.stream) at<float>(p.stream)[row * p.width + i] = y;
    }
}

// Its f64 code would take 90 registers; with 80, three blocks fit on an SM.
KERNEL_RESIDENT(layer_norm_f32, LayerNormParams, LOOP_THREADS, 3, layer_norm<float>)
KERNEL(layer_norm_f16, LayerNormParams, LOOP_THREADS, layer_norm<__half>)
KERNEL(layer_norm_bf16, LayerNormParams, LOOP_THREADS, layer_norm<__nv_bfloat16>)
KERNEL(layer_norm_f32_reference, LayerNormParams, LOOP_THREADS, layer_norm_reference<float>)
KERNEL(layer_norm_f16_reference, LayerNormParams, LOOP_THREADS, layer_norm_reference<__half>)
KERNEL(layer_norm_bf16_reference, LayerNormParams, LOOP_THREADS, layer_norm_reference<__nv_bfloat16>)
