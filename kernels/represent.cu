// What leaves the device: the stream through the final LayerNorm (or as it is), every row of it and the
// mean over a range of rows of each sequence, in one kernel, with a flag where a state of the range
// is not finite.
//
// Shapes: params.h, RepresentParams. Grid: a block of 512 a sequence; any width, any lengths.
// Bound by bytes: the stream is read from memory once, and from L2 twice more; states are written once.
// It runs once a batch, not once a layer.
//
// Rows go in groups. First a warp takes a row and finds its mean and deviation; then a thread takes
// columns, and adds the group's rows to f64 sums in their order: so neither the group nor the batch
// decides a bit. The statistics are as in layer_norm.cu: two passes, f32.
#include "kernel.cuh"
#include "params.h"
#include "vector.cuh"

constexpr int THREADS = 512;
constexpr uint32_t ROWS = 64;
// Columns a thread keeps sums of in one go; wider rows take several.
constexpr int COLUMNS = 10;

__device__ void represent_sequence(const RepresentParams &p) {
    __shared__ float means[ROWS], scales[ROWS];
    __shared__ uint32_t found;
    const uint32_t s = blockIdx.x;
    const uint32_t pool_first = at<uint32_t>(p.ranges)[2 * s], pool_end = at<uint32_t>(p.ranges)[2 * s + 1];
    // Without states the rows outside the range are nobody's.
    const uint32_t first = p.states ? at<uint32_t>(p.starts)[s] : pool_first;
    const uint32_t end = p.states ? at<uint32_t>(p.starts)[s + 1] : pool_end;
    const float *from = at<float>(p.from);
    const float n = float(p.width);
    bool bad = false;
    if (threadIdx.x == 0) found = 0;

    for (uint32_t column = threadIdx.x; column - threadIdx.x < p.width; column += THREADS * COLUMNS) {
        double sums[COLUMNS] = {};
        for (uint32_t group = first; group < end; group += ROWS) {
            const uint32_t count = min(ROWS, end - group);
            __syncthreads(); // the last group's statistics have been read
            for (uint32_t r = threadIdx.x / 32; p.gain && r < count; r += THREADS / 32) {
                const float *x = from + uint64_t(group + r) * p.width;
                float sum = 0, squares = 0;
                for (uint32_t i = threadIdx.x % 32; i < p.width; i += 32) sum += x[i];
                const float mean = warp_sum(sum) / n;
                for (uint32_t i = threadIdx.x % 32; i < p.width; i += 32) {
                    const float d = x[i] - mean;
                    squares = fmaf(d, d, squares);
                }
                const float scale = 1.0f / sqrtf(warp_sum(squares) / n + p.epsilon);
                if (threadIdx.x % 32 == 0) {
                    means[r] = mean;
                    scales[r] = scale;
                }
            }
            __syncthreads();
            for (uint32_t r = 0; r < count; r++) {
                const uint32_t row = group + r;
                const bool pooled = row >= pool_first && row < pool_end;
#pragma unroll
                for (int k = 0; k < COLUMNS; k++) {
                    const uint32_t i = column + k * THREADS;
                    if (i >= p.width) break;
                    float y = from[uint64_t(row) * p.width + i];
                    if (p.gain)
                        y = fmaf((y - means[r]) * scales[r], at<float>(p.gain)[i], at<float>(p.bias)[i]);
                    if (p.states) at<float>(p.states)[uint64_t(row) * p.width + i] = y;
                    if (pooled) {
                        sums[k] += y;
                        bad |= !isfinite(y);
                    }
                }
            }
        }
        if (p.pooled) {
            const double rows = pool_end > pool_first ? pool_end - pool_first : 0; // 0 / 0 is NaN
#pragma unroll
            for (int k = 0; k < COLUMNS; k++) {
                const uint32_t i = column + k * THREADS;
                if (i < p.width) at<float>(p.pooled)[uint64_t(s) * p.width + i] = float(sums[k] / rows);
            }
        }
    }
    __syncthreads();
    if (bad) found = 1;
    __syncthreads();
    if (threadIdx.x == 0) at<uint32_t>(p.bad)[s] = found;
}

// What it computes, plainly: a block of one thread a sequence, in f64.
__device__ void represent_plainly(const RepresentParams &p) {
    const uint32_t s = blockIdx.x;
    const uint32_t first = at<uint32_t>(p.starts)[s], end = at<uint32_t>(p.starts)[s + 1];
    const uint32_t pool_first = at<uint32_t>(p.ranges)[2 * s], pool_end = at<uint32_t>(p.ranges)[2 * s + 1];
    uint32_t bad = 0;
    for (uint32_t row = first; row < end; row++) {
        const float *x = at<float>(p.from) + uint64_t(row) * p.width;
        double mean = 0, variance = 0;
        for (uint32_t i = 0; i < p.width; i++) mean += x[i];
        mean /= p.width;
        for (uint32_t i = 0; i < p.width; i++) variance += (x[i] - mean) * (x[i] - mean);
        const double scale = 1.0 / sqrt(variance / p.width + p.epsilon);
        for (uint32_t i = 0; i < p.width; i++) {
            double y = x[i];
            if (p.gain) y = (y - mean) * scale * at<float>(p.gain)[i] + at<float>(p.bias)[i];
            if (p.states) at<float>(p.states)[uint64_t(row) * p.width + i] = float(y);
            if (row < pool_first || row >= pool_end) continue;
            if (!isfinite(y)) bad = 1;
            if (!p.pooled) continue;
            // The means grow as rounded sums: what the fast one is held against is off by 1e-7 a row.
            float *sum = at<float>(p.pooled) + uint64_t(s) * p.width + i;
            *sum = float((row == pool_first ? 0.0 : double(*sum)) + y / double(pool_end - pool_first));
        }
    }
    at<uint32_t>(p.bad)[s] = bad;
}

KERNEL(represent, RepresentParams, THREADS, represent_sequence)
KERNEL(represent_reference, RepresentParams, 1, represent_plainly)
