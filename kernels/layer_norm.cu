// LayerNorm of the f32 residual stream: (x - mean) / sqrt(variance + epsilon) * gain + bias, the
// variance over `width` and not width - 1.
//
// Shapes: x f32 [rows, width], gain and bias f32 [width], out [rows, width] in f32, f16 or bf16.
// Grid: a block of 32 to 1024 threads, whole warps, a row. Rows of any width.
// Bound by bytes: a row is read from memory once; the second and third pass find it in L1 (20 KB at
// the widest, 5120).
//
// Two passes, not sums of x and x²: ESM-2's outlier channels are hundreds of deviations wide, and
// the difference of two large sums would cancel. The order of the sums follows from the width and
// the block alone, so a row's bits do not depend on the rows beside it.
#include "kernel.cuh"
#include "number.cuh"
#include "params.h"

// The sum over a block, in every thread: lanes by butterfly, then warps in order.
__device__ float block_sum(float x, float *partial) {
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    const int warp = threadIdx.x / 32, warps = blockDim.x / 32;
    __syncthreads(); // the last sum has been read
    if (threadIdx.x % 32 == 0) partial[warp] = x;
    __syncthreads();
    float sum = 0;
    for (int w = 0; w < warps; w++) sum += partial[w];
    return sum;
}

template <typename To> __device__ void layer_norm(const LayerNormParams &p) {
    __shared__ float partial[32];
    const uint64_t row = uint64_t(blockIdx.x) * p.width;
    const float *x = reinterpret_cast<const float *>(p.from) + row;
    const float *gain = reinterpret_cast<const float *>(p.gain);
    const float *bias = reinterpret_cast<const float *>(p.bias);
    To *to = reinterpret_cast<To *>(p.to) + row;

    float sum = 0;
    for (uint32_t i = threadIdx.x; i < p.width; i += blockDim.x) sum += x[i];
    const float mean = block_sum(sum, partial) / p.width;
    float squares = 0;
    for (uint32_t i = threadIdx.x; i < p.width; i += blockDim.x) {
        const float d = x[i] - mean;
        squares = fmaf(d, d, squares);
    }
    const float scale = 1.0f / sqrtf(block_sum(squares, partial) / p.width + p.epsilon);
    for (uint32_t i = threadIdx.x; i < p.width; i += blockDim.x)
        to[i] = from_f32<To>(fmaf((x[i] - mean) * scale, gain[i], bias[i]));
}

// What it computes, plainly: a thread a row, in f64.
template <typename To> __device__ void layer_norm_reference(const LayerNormParams &p) {
    const uint64_t row = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (row >= p.rows) return;
    const float *x = reinterpret_cast<const float *>(p.from) + row * p.width;
    const float *gain = reinterpret_cast<const float *>(p.gain);
    const float *bias = reinterpret_cast<const float *>(p.bias);
    To *to = reinterpret_cast<To *>(p.to) + row * p.width;
    double mean = 0, variance = 0;
    for (uint32_t i = 0; i < p.width; i++) mean += x[i];
    mean /= p.width;
    for (uint32_t i = 0; i < p.width; i++) variance += (x[i] - mean) * (x[i] - mean);
    const double scale = 1.0 / sqrt(variance / p.width + p.epsilon);
    for (uint32_t i = 0; i < p.width; i++)
        to[i] = from_f32<To>(float((x[i] - mean) * scale * gain[i] + bias[i]));
}

#define LAYER_NORM(to, To)                                                                             \
    KERNEL(layer_norm_##to, LayerNormParams, 1024, layer_norm<To>)                                     \
    KERNEL(layer_norm_##to##_reference, LayerNormParams, 1024, layer_norm_reference<To>)

LAYER_NORM(f32, float)
LAYER_NORM(f16, __half)
LAYER_NORM(bf16, __nv_bfloat16)
