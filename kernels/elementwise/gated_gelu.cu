// Computes: to[r, i] = gelu(from[r, i]) * from[r, width + i], the gated GELU between the two linear
// layers of DNABERT-S's MLP.
//
// Shapes: from [rows, 2 * width], to [rows, width], in f32, f16 or bf16; any width.
//
// Launch: any number of blocks of 256 threads. A thread takes every (threads of the grid)-th 16
// bytes of `to`, or single elements if the width is not a multiple of 16 bytes.
//
// Bound and measured: bound by bytes, since it reads two elements for each element that it writes.
// On an H200 it moves 4.2 TB/s, as much as a copy (33792 x 3072, f16). In f32, the only type for
// which a Hopper GPU runs this kernel (gemm_gelu.cu computes the other types), it moves 69 % of
// that in DNABERT-S.
#include "gelu.cuh"
#include "../common/kernel.cuh"
#include "../launch.h"
#include "../params.h"
#include "../common/vector.cuh"

template <int N, typename T> __device__ __forceinline__ void gated_gelu_by(const GatedGeluParams &p) {
    const T *from = at<T>(p.from);
    T *to = at<T>(p.to);
    const uint32_t columns = p.width / N;
    const uint64_t count = uint64_t(p.rows) * columns;
    const uint64_t threads = uint64_t(gridDim.x) * blockDim.x;
    for (uint64_t i = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += threads) {
        const uint64_t row = i / columns;
        const uint32_t column = uint32_t(i - row * columns) * N;
        const T *gate = from + row * 2 * p.width + column;
        float x[N], times[N];
        load(x, gate);
        load(times, gate + p.width);
#pragma unroll
        for (int k = 0; k < N; k++) x[k] = gelu<T>(x[k]) * times[k];
        store(to + row * p.width + column, x);
    }
}

template <typename T> __device__ void gated_gelu(const GatedGeluParams &p) {
    if (p.width % VECTOR<T> == 0)
        gated_gelu_by<VECTOR<T>, T>(p);
    else
        gated_gelu_by<1, T>(p);
}

// The plain reference, in f64.
template <typename T> __device__ void gated_gelu_reference(const GatedGeluParams &p) {
    const uint64_t count = uint64_t(p.rows) * p.width;
    const uint64_t threads = uint64_t(gridDim.x) * blockDim.x;
    for (uint64_t i = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += threads) {
        const T *gate = at<T>(p.from) + i / p.width * 2 * p.width + i % p.width;
        const double x = to_f32(gate[0]), times = to_f32(gate[p.width]);
        at<T>(p.to)[i] = from_f32<T>(float(0.5 * x * erfc(-x * 0.70710678118654752440) * times));
    }
}

KERNEL(gated_gelu_f32, GatedGeluParams, LOOP_THREADS, gated_gelu<float>)
KERNEL(gated_gelu_f16, GatedGeluParams, LOOP_THREADS, gated_gelu<__half>)
KERNEL(gated_gelu_bf16, GatedGeluParams, LOOP_THREADS, gated_gelu<__nv_bfloat16>)
KERNEL(gated_gelu_f32_reference, GatedGeluParams, LOOP_THREADS, gated_gelu_reference<float>)
KERNEL(gated_gelu_f16_reference, GatedGeluParams, LOOP_THREADS, gated_gelu_reference<__half>)
KERNEL(gated_gelu_bf16_reference, GatedGeluParams, LOOP_THREADS, gated_gelu_reference<__nv_bfloat16>)
