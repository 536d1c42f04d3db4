// The statistics of LayerNorm's rows, summed in f32 or, for results in f32, in f64.
//
// A rounding error in the mean or the factor affects the whole row, and a mean over tokens does not
// average it out. Compared with the error of f16 it is negligible. In f32 it is half of the total
// error (DNABERT-S, whose LayerNorms are on the stream itself, was off by up to 1.6 times PyTorch's
// error): so for f32 the sums are f64, and their results are kept as two f32s.
#pragma once

#include <cmath>
#include <type_traits>

#include "../common/vector.cuh"

// The type of the sums over rows for results of type To.
template <typename To> using SumFor = std::conditional_t<std::is_same_v<To, float>, double, float>;

// A statistic, split into f32s that add up to it.
template <typename Sum> struct Split;
template <> struct Split<float> {
    float value;
    __device__ __forceinline__ explicit Split(float x) : value(x) {}
    __device__ __forceinline__ float from(float x) const { return x - value; }
    __device__ __forceinline__ float times(float x) const { return x * value; }
};
template <> struct Split<double> {
    float high, low;
    __device__ __forceinline__ explicit Split(double x) : high(float(x)), low(float(x - double(float(x)))) {}
    __device__ __forceinline__ float from(float x) const { return (x - high) - low; }
    __device__ __forceinline__ float times(float x) const { return fmaf(x, high, x * low); }
};

// Adds the squares of x. For f64 sums it first adds the squares in pairs in f32; these rounding
// errors average out in the sum.
__device__ __forceinline__ void add_squares(float &sum, const float (&x)[4]) {
#pragma unroll
    for (int j = 0; j < 4; j++) sum = fmaf(x[j], x[j], sum);
}
__device__ __forceinline__ void add_squares(double &sum, const float (&x)[4]) {
    sum += double(fmaf(x[0], x[0], x[1] * x[1]) + fmaf(x[2], x[2], x[3] * x[3]));
}

__device__ __forceinline__ float inverse_root(float x) { return 1.0f / sqrtf(x); }
__device__ __forceinline__ double inverse_root(double x) { return 1.0 / sqrt(x); }

// Returns the sum over the warps of a group, in every thread: lanes by butterfly, then warps in
// order.
template <typename Sum> __device__ __forceinline__ Sum group_sum(Sum x, Sum *partial, int group, int warps) {
    x = warp_sum(x);
    if (warps == 1) return x;
    __syncthreads(); // the last sum has been read
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = x;
    __syncthreads();
    Sum sum = 0;
    for (int w = 0; w < warps; w++) sum += partial[group * warps + w];
    return sum;
}
