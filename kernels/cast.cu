// Weight cast: to[i] = from[i], between f32, f16 and bf16, rounding to nearest even.
//
// Shapes: [count] to [count]; any count, addresses aligned to an element. Grid: any number of blocks
// of 256; a thread takes every (threads of the grid)-th element.
// Bound by bytes: reads and writes each element once. On an H200, which copies 4.2 TB/s, 5120 x 1280: 2.2 TB/s from 16 bits
// to f32, 1.6 from bf16 to f16; a vector a thread would come nearer. It stays plain: weights reach the device at 0.012 TB/s
// (650M's 1.3 GB in 0.105 s), and are cast as they arrive. Its own reference.
#include "kernel.cuh"
#include "params.h"
#include "vector.cuh"

template <typename From, typename To> __device__ void cast(const CastParams &p) {
    const From *from = at<From>(p.from);
    To *to = at<To>(p.to);
    const uint64_t threads = uint64_t(gridDim.x) * blockDim.x;
    for (uint64_t i = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < p.count; i += threads)
        to[i] = from_f32<To>(to_f32(from[i]));
}

KERNEL(cast_f32_f16, CastParams, 256, (cast<float, __half>))
KERNEL(cast_f32_bf16, CastParams, 256, (cast<float, __nv_bfloat16>))
KERNEL(cast_f16_f32, CastParams, 256, (cast<__half, float>))
KERNEL(cast_f16_bf16, CastParams, 256, (cast<__half, __nv_bfloat16>))
KERNEL(cast_bf16_f32, CastParams, 256, (cast<__nv_bfloat16, float>))
KERNEL(cast_bf16_f16, CastParams, 256, (cast<__nv_bfloat16, __half>))
