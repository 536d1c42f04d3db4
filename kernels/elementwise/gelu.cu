// Computes: GELU in place, x * Phi(x) in its exact form (gelu.cuh).
//
// Shapes: [count] in f32, f16 or bf16, aligned to 16 bytes.
//
// Launch: any number of blocks of 256 threads. A thread takes every (threads of the grid)-th 16
// bytes; the first threads of the grid take the remaining elements.
//
// Bound and measured: bound by bytes, since it reads and writes each element once. The f16 and bf16
// forms cost 12 instructions per element, one of them an exponential: at 4.8 TB/s this is half of
// what an H200 can issue in the same time. There it moved 3.9 TB/s, of the 4.2 TB/s of a copy
// (33792 x 5120), and 2.3 TB/s in f32, whose erf takes longer.
#include "gelu.cuh"
#include "../common/kernel.cuh"
#include "../launch.h"
#include "../params.h"
#include "../common/vector.cuh"

template <typename T> __device__ void gelu_in_place(const GeluParams &p) {
    T *values = at<T>(p.values);
    const uint64_t thread = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    const uint64_t threads = uint64_t(gridDim.x) * blockDim.x;
    const uint64_t vectors = p.count / VECTOR<T>;
    for (uint64_t i = thread; i < vectors; i += threads) {
        float x[VECTOR<T>];
        load(x, values + i * VECTOR<T>);
#pragma unroll
        for (float &v : x) v = gelu<T>(v);
        store(values + i * VECTOR<T>, x);
    }
    for (uint64_t i = vectors * VECTOR<T> + thread; i < p.count; i += threads)
        values[i] = from_f32<T>(gelu<T>(to_f32(values[i])));
}

// The plain reference, in f64.
template <typename T> __device__ void gelu_reference(const GeluParams &p) {
    T *values = at<T>(p.values);
    const uint64_t threads = uint64_t(gridDim.x) * blockDim.x;
    for (uint64_t i = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < p.count; i += threads) {
        const double x = to_f32(values[i]);
        values[i] = from_f32<T>(float(0.5 * x * erfc(-x * 0.70710678118654752440)));
    }
}

KERNEL(gelu_f32, GeluParams, LOOP_THREADS, gelu_in_place<float>)
KERNEL(gelu_f16, GeluParams, LOOP_THREADS, gelu_in_place<__half>)
KERNEL(gelu_bf16, GeluParams, LOOP_THREADS, gelu_in_place<__nv_bfloat16>)
KERNEL(gelu_f32_reference, GeluParams, LOOP_THREADS, gelu_reference<float>)
KERNEL(gelu_f16_reference, GeluParams, LOOP_THREADS, gelu_reference<__half>)
KERNEL(gelu_bf16_reference, GeluParams, LOOP_THREADS, gelu_reference<__nv_bfloat16>)
