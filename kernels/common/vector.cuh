// Loads and stores of several values at once, up to 16 bytes per instruction (32 bytes take two),
// with the numbers as f32 in registers.
#pragma once

#include <cstdint>

#include "number.cuh"

// Returns an address of params.h as a pointer.
template <typename T> __device__ __forceinline__ T *at(uint64_t address) { return reinterpret_cast<T *>(address); }

// N values of T that are moved together.
template <typename T, int N> struct alignas(sizeof(T) * N) Packed {
    T values[N];
};

template <int N, typename T> __device__ __forceinline__ void load(float (&to)[N], const T *from) {
    const Packed<T, N> packed = *reinterpret_cast<const Packed<T, N> *>(from);
#pragma unroll
    for (int i = 0; i < N; i++) to[i] = to_f32(packed.values[i]);
}

template <int N, typename T> __device__ __forceinline__ void store(T *to, const float (&from)[N]) {
    Packed<T, N> packed;
#pragma unroll
    for (int i = 0; i < N; i++) packed.values[i] = from_f32<T>(from[i]);
    *reinterpret_cast<Packed<T, N> *>(to) = packed;
}

// The number of values of T in 16 bytes.
template <typename T> constexpr int VECTOR = 16 / sizeof(T);

// Returns the sum over a warp, in every lane, by butterfly: the lanes alone decide the order.
template <typename T> __device__ __forceinline__ T warp_sum(T x) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}
