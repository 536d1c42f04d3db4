// Computes: to[i] = from[i], the cast of weights between f32, f16 and bf16, rounding to nearest
// even. The kernel is its own reference.
//
// Shapes: [count] to [count], with any count; addresses are aligned to an element.
//
// Launch: any number of blocks of 256 threads. A thread takes every (threads of the grid)-th
// element.
//
// Bound and measured: bound by bytes, since it reads and writes each element once. On an H200,
// which copies 4.2 TB/s, at 5120 x 1280: 2.2 TB/s from 16 bits to f32, and 1.6 TB/s from bf16 to
// f16. Loading a vector per thread would come nearer to the limit. The kernel stays simple because
// weights reach the device at only 0.012 TB/s (the 1.3 GB of 650M in 0.105 s) and are cast as they
// arrive.
#include "../common/kernel.cuh"
#include "../launch.h"
#include "../params.h"
#include "../common/vector.cuh"

template <typename From, typename To> __device__ void cast(const CastParams &p) {
    const From *from = at<From>(p.from);
    To *to = at<To>(p.to);
    const uint64_t threads = uint64_t(gridDim.x) * blockDim.x;
    for (uint64_t i = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < p.count; i += threads)
        to[i] = from_f32<To>(to_f32(from[i]));
}

KERNEL(cast_f32_f16, CastParams, LOOP_THREADS, (cast<float, __half>))
KERNEL(cast_f32_bf16, CastParams, LOOP_THREADS, (cast<float, __nv_bfloat16>))
KERNEL(cast_f16_f32, CastParams, LOOP_THREADS, (cast<__half, float>))
KERNEL(cast_f16_bf16, CastParams, LOOP_THREADS, (cast<__half, __nv_bfloat16>))
KERNEL(cast_bf16_f32, CastParams, LOOP_THREADS, (cast<__nv_bfloat16, float>))
KERNEL(cast_bf16_f16, CastParams, LOOP_THREADS, (cast<__nv_bfloat16, __half>))
