// Computes: the table of rotary embedding, table[p, i] = (cos, sin) of p * inv_freq[i]. Angle,
// cosine and sine are computed in f64, and each is rounded once: in f32 the product alone would be
// off by 6e-5 at position 1000. The kernel is its own reference.
//
// Shapes: inv_freq f32 [half], where half = head_dim / 2; table f32 [positions, half, 2].
//
// Launch: any number of blocks of 256 threads. A thread takes every (threads of the grid)-th pair.
//
// Bound and measured: bound by f64 arithmetic. On an H200 it takes 4.4 us for 4096 x 32, where
// moving its bytes would take 0.25 us. It runs once per model, for the longest sequence.
#include "../common/kernel.cuh"
#include "../launch.h"
#include "../params.h"
#include "../common/vector.cuh"

__device__ void fill_rotary_table(const RotaryTableParams &p) {
    const uint64_t threads = uint64_t(gridDim.x) * blockDim.x, count = uint64_t(p.positions) * p.half;
    for (uint64_t i = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += threads) {
        const double angle = double(i / p.half) * double(at<float>(p.inv_freq)[i % p.half]);
        at<float>(p.table)[2 * i] = float(cos(angle));
        at<float>(p.table)[2 * i + 1] = float(sin(angle));
    }
}

KERNEL(rotary_table, RotaryTableParams, LOOP_THREADS, fill_rotary_table)
