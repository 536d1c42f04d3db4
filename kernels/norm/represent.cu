// Computes: the results that leave the device. The stream goes through the final LayerNorm (or
// stays as it is); the kernels write every row of it, as f32 or rounded to f16, the mean over a range
// of rows of each sequence, and a flag if a state of the range is not finite. Rows are grouped from the start of
// their sequence, and the sequence and the width alone decide the order of every sum, so the rest
// of the batch has no influence. The statistics are computed as in layer_norm.cu: in two passes,
// whose sums are f64 in `represent_f32`. A sum of finite states is finite in f64, and any other sum
// is not, so the flag costs nothing.
//
// Shapes: any width and any lengths; see RepresentParams in params.h.
//
// Launch: two kernels, one after the other.
// - `represent`: rows / 64 + sequences blocks of 256 threads. A block takes 64 rows of a sequence,
//   counted from its first row, and writes their states and their sum in f64. A sequence of at most
//   64 rows is then finished. `represent_f32` is the same kernel for states computed in f32.
// - `represent_means`: sequences * ceil(width / 128) blocks of 128 threads. A thread adds up, in
//   order, the sums of one column of a longer sequence.
// - `represent_max` (or `represent_max_f32`) and `represent_maxima` in their places, with the same grids, if the
//   greatest values of each column are wanted in place of the means. They write no states. A value that is not finite
//   makes the result NaN and sets the flag.
//
// Bound and measured: the least bytes are moved, since the stream is read once and the states are
// written once; the sums are 1/16 of that. On an H200, which copies 4.2 TB/s, 33792 rows of 1280:
// 1.5 TB/s, and 2.4 TB/s with states. So the bound is the sequential processing of a block's 64
// rows. It runs once per batch, in 0.2 % of the batch's time with 650M and 0.6 % with DNABERT-S.
#include "../common/kernel.cuh"
#include "norm.cuh"
#include "../launch.h"
#include "../params.h"
#include "../common/vector.cuh"

constexpr int THREADS = LOOP_THREADS;
constexpr int WARPS = THREADS / 32;
constexpr uint32_t ROWS = REPRESENT_ROWS;
// float4 of a row per lane: 24 registers, and 48 registers for their sums.
constexpr int HELD = 6;
// The largest width for which several groups of warps share a block.
constexpr int SHARED_COLUMNS = 128 * HELD * WARPS / 2;
constexpr int COLUMNS = REPRESENT_MEAN_COLUMNS; // columns per block of represent_means

// The work of a block: rows `first` to `end` of the batch; rows `pool_first` to `pool_end` count
// for the mean.
struct Chunk {
    uint32_t sequence;
    uint32_t number;           // index among the sequence's chunks
    uint32_t first, end;       // the chunk's rows; none if first >= end
    bool exists;               // false: padding slot, nothing to do
    bool alone;                // true if this is the sequence's only chunk
    uint32_t pool_first, pool_end, pooled_rows;
    uint32_t slot;             // index in `sums`
};

// Finds the chunk of a block. Each sequence has its own range of slots: sequence s begins at slot
// starts[s] / 64 + s, which leaves enough slots for partial chunks at both ends. The sums of
// sequences with several chunks begin at starts[s] / 32: 65 rows or more never have more chunks
// than whole groups of 32 rows.
__device__ __forceinline__ Chunk find_chunk(const RepresentParams &p, uint32_t block) {
    const uint32_t *starts = at<const uint32_t>(p.starts);
    uint32_t low = 0, high = p.sequences; // low: the last sequence that begins at or before this block
    while (high - low > 1) {
        const uint32_t middle = low + (high - low) / 2;
        if (starts[middle] / ROWS + middle <= block)
            low = middle;
        else
            high = middle;
    }
    Chunk c;
    const uint32_t start = starts[low], end = starts[low + 1];
    c.sequence = low;
    c.number = block - (start / ROWS + low);
    c.first = min(start + c.number * ROWS, end);
    c.end = min(c.first + ROWS, end);
    c.exists = c.number == 0 || start + c.number * ROWS < end;
    c.alone = end - start <= ROWS;
    c.pool_first = at<const uint32_t>(p.ranges)[2 * low];
    c.pool_end = at<const uint32_t>(p.ranges)[2 * low + 1];
    c.pooled_rows = c.pool_end > c.pool_first ? c.pool_end - c.pool_first : 0;
    c.slot = start / REPRESENT_SUM_ROWS + c.number;
    if (!p.states) { // then rows outside the range are not needed
        c.first = max(c.first, min(c.pool_first, c.end));
        c.end = max(c.first, min(c.end, c.pool_end));
    }
    return c;
}

// Returns the bits of a state as f16, rounded to nearest even. Bits without meaning for f16 tell an
// infinite state (0x7d00 and 0xfd00) from a finite one beyond the range, whose first value in the
// row is kept for the message.
__device__ __forceinline__ uint16_t halved(const RepresentParams &p, uint32_t row, uint32_t column, float state) {
    const uint16_t bits = __half_as_ushort(__float2half_rn(state));
    if ((bits & 0x7fff) != 0x7c00) return bits;
    if (!isfinite(state)) return bits | 0x100;
    atomicMin(at<unsigned long long>(p.beyond) + row,
              static_cast<unsigned long long>(column) << 32 | __float_as_uint(state));
    return bits;
}

// Writes N states of a row, from column `column` on.
template <int N>
__device__ __forceinline__ void put(const RepresentParams &p, uint32_t row, uint32_t column, const float (&states)[N]) {
    const uint64_t offset = uint64_t(row) * p.width + column;
    if (!p.half) {
        store(at<float>(p.states) + offset, states);
        return;
    }
    Packed<uint16_t, N> packed;
#pragma unroll
    for (int i = 0; i < N; i++) packed.values[i] = halved(p, row, column + i, states[i]);
    *reinterpret_cast<Packed<uint16_t, N> *>(at<uint16_t>(p.states) + offset) = packed;
}

// Writes a column's complete sum (`finish`), or stores one of several partial sums (`leave`).
__device__ __forceinline__ void finish(const RepresentParams &p, uint32_t sequence, uint32_t column, double sum,
                                       uint32_t rows) {
    if (p.pooled) at<float>(p.pooled)[uint64_t(sequence) * p.width + column] = float(sum / double(rows)); // 0 / 0 is NaN
    if (!isfinite(sum)) at<uint32_t>(p.bad)[sequence] = 1; // every thread writes the same value
}
__device__ __forceinline__ void leave(const RepresentParams &p, const Chunk &c, uint32_t column, double sum) {
    if (c.alone)
        finish(p, c.sequence, column, sum, c.pooled_rows);
    else
        at<double>(p.sums)[uint64_t(c.slot) * p.width + column] = sum;
}

// Computes a chunk by groups of `warps` warps, where each lane holds N float4. It needs width <=
// 128 * N * warps and a width that is a multiple of 4. A group takes every (groups)-th row; the
// groups' sums are added in order.
template <int N, typename Sum>
__device__ __forceinline__ void chunk_in_registers(const RepresentParams &p, const Chunk &c, int warps, Sum *partial,
                                                   double *columns) {
    const int groups = WARPS / warps;
    const int group = threadIdx.x / (32 * warps), member = threadIdx.x % (32 * warps);
    const Sum n = Sum(p.width);
    double sums[N][4] = {};
    for (uint32_t first = c.first; first < c.end; first += groups) {
        const uint32_t row = first + group;
        const bool present = row < c.end;
        const uint64_t offset = uint64_t(row) * p.width;
        float x[N][4];
        Sum sum = 0, squares = 0;
#pragma unroll
        for (int k = 0; k < N; k++) {
            const uint32_t i = (k * 32 * warps + member) * 4;
            if (present && i < p.width) {
                load(x[k], at<const float>(p.from) + offset + i);
                sum += (x[k][0] + x[k][1]) + (x[k][2] + x[k][3]);
            }
        }
        Split<Sum> scale(0);
        if (p.gain) {
            const Split<Sum> mean(group_sum(sum, partial, group, warps) / n);
#pragma unroll
            for (int k = 0; k < N; k++) {
                const uint32_t i = (k * 32 * warps + member) * 4;
                if (present && i < p.width) {
#pragma unroll
                    for (float &v : x[k]) v = mean.from(v);
                    add_squares(squares, x[k]);
                }
            }
            scale = Split<Sum>(inverse_root(group_sum(squares, partial, group, warps) / n + Sum(p.epsilon)));
        }
        const bool pooled = present && row >= c.pool_first && row < c.pool_end;
#pragma unroll
        for (int k = 0; k < N; k++) {
            const uint32_t i = (k * 32 * warps + member) * 4;
            if (!present || i >= p.width) continue;
            if (p.gain) {
                float gain[4], bias[4];
                load(gain, at<const float>(p.gain) + i);
                load(bias, at<const float>(p.bias) + i);
#pragma unroll
                for (int j = 0; j < 4; j++) x[k][j] = fmaf(scale.times(x[k][j]), gain[j], bias[j]);
            }
            if (p.states) put(p, row, i, x[k]);
            if (!pooled) continue;
#pragma unroll
            for (int j = 0; j < 4; j++) sums[k][j] += x[k][j];
        }
    }
    for (int g = 0; g < groups; g++) {
        if (g == group) {
#pragma unroll
            for (int k = 0; k < N; k++) {
                const uint32_t i = (k * 32 * warps + member) * 4;
                if (i >= p.width) continue;
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    const double before = g == 0 ? 0.0 : columns[i + j];
                    if (g == groups - 1)
                        leave(p, c, i + j, before + sums[k][j]);
                    else
                        columns[i + j] = before + sums[k][j];
                }
            }
        }
        __syncthreads();
    }
}

// Computes the statistics of a chunk's rows, one warp per row.
template <typename Sum>
__device__ __forceinline__ void statistics(const RepresentParams &p, const Chunk &c, Sum *means, Sum *scales) {
    const Sum n = Sum(p.width);
    const float *from = at<const float>(p.from);
    for (uint32_t row = c.first + threadIdx.x / 32; p.gain && row < c.end; row += WARPS) {
        const float *x = from + uint64_t(row) * p.width;
        Sum sum = 0, squares = 0;
        for (uint32_t i = threadIdx.x % 32; i < p.width; i += 32) sum += x[i];
        const Sum mean = warp_sum(sum) / n;
        const Split<Sum> split(mean);
        for (uint32_t i = threadIdx.x % 32; i < p.width; i += 32) {
            const Sum d = split.from(x[i]);
            squares = fma(d, d, squares);
        }
        const Sum scale = inverse_root(warp_sum(squares) / n + Sum(p.epsilon));
        if (threadIdx.x % 32 == 0) {
            means[row - c.first] = mean;
            scales[row - c.first] = scale;
        }
    }
    __syncthreads();
}

// The state of a row and a column, from the stream and the row's statistics.
template <typename Sum>
__device__ __forceinline__ float state_of(const RepresentParams &p, uint32_t row, uint32_t i, Sum mean, Sum scale) {
    const float x = at<const float>(p.from)[uint64_t(row) * p.width + i];
    if (!p.gain) return x;
    return fmaf(Split<Sum>(scale).times(Split<Sum>(mean).from(x)), at<const float>(p.gain)[i], at<const float>(p.bias)[i]);
}

// For any width: one warp per row for the statistics, then one thread per column, whose rows come
// from L1 or L2.
template <typename Sum> __device__ __forceinline__ void chunk_in_memory(const RepresentParams &p, const Chunk &c) {
    __shared__ Sum means[ROWS], scales[ROWS];
    statistics<Sum>(p, c, means, scales);
    for (uint32_t i = threadIdx.x; i < p.width; i += THREADS) {
        double sum = 0;
        for (uint32_t row = c.first; row < c.end; row++) {
            const float y[1] = {state_of(p, row, i, means[row - c.first], scales[row - c.first])};
            if (p.states) put(p, row, i, y);
            if (row >= c.pool_first && row < c.pool_end) sum += y[0];
        }
        leave(p, c, i, sum);
    }
}

template <typename Sum> __device__ void represent_chunk(const RepresentParams &p) {
    const Chunk c = find_chunk(p, blockIdx.x);
    if (!c.exists) return;
    if (c.number == 0) {
        if (threadIdx.x == 0) at<uint32_t>(p.bad)[c.sequence] = 0;
        __syncthreads(); // because `finish` may set it
    }
    if (p.states && p.half) {
        for (uint32_t row = c.first + threadIdx.x; row < c.end; row += THREADS)
            at<unsigned long long>(p.beyond)[row] = ~0ull;
        __syncthreads(); // because `halved` may lower it
    }
    __shared__ Sum partial[WARPS];
    __shared__ double columns[SHARED_COLUMNS];
    const uint32_t vectors = (p.width + 127) / 128; // float4 per lane, if one warp took a whole row
    if (p.width % 4 != 0 || vectors > WARPS * HELD)
        chunk_in_memory<Sum>(p, c);
    else if (vectors <= 3)
        chunk_in_registers<3>(p, c, 1, partial, columns);
    else { // a power of two of warps: 1 up to a width of 768, 2 up to 1536, 4 up to 3072, else 8
        const int warps = vectors <= HELD ? 1 : vectors <= 2 * HELD ? 2 : vectors <= 4 * HELD ? 4 : 8;
        chunk_in_registers<HELD>(p, c, warps, partial, columns);
    }
}

__device__ void add_chunks(const RepresentParams &p) {
    const uint32_t blocks = (p.width + COLUMNS - 1) / COLUMNS;
    const uint32_t sequence = blockIdx.x / blocks, column = blockIdx.x % blocks * COLUMNS + threadIdx.x;
    const uint32_t start = at<const uint32_t>(p.starts)[sequence], end = at<const uint32_t>(p.starts)[sequence + 1];
    if (column >= p.width || end - start <= ROWS) return;
    const uint32_t chunks = (end - start + ROWS - 1) / ROWS;
    const double *sums = at<const double>(p.sums) + uint64_t(start / 32) * p.width + column;
    double sum = 0;
#pragma unroll 8
    for (uint32_t c = 0; c < chunks; c++) sum += sums[uint64_t(c) * p.width];
    const uint32_t *range = at<const uint32_t>(p.ranges) + 2 * sequence;
    finish(p, sequence, column, sum, range[1] > range[0] ? range[1] - range[0] : 0);
}

// The greater of two values; NaN if one of them is NaN.
__device__ __forceinline__ float greater(float a, float b) { return isnan(a) || b <= a ? a : b; }

// Writes the greatest value of a column. `most` is NaN where a value is not finite.
__device__ __forceinline__ void finish_max(const RepresentParams &p, uint32_t sequence, uint32_t column, float most,
                                           uint32_t rows) {
    if (p.pooled) at<float>(p.pooled)[uint64_t(sequence) * p.width + column] = rows ? most : nanf("");
    if (isnan(most)) at<uint32_t>(p.bad)[sequence] = 1; // every thread writes the same value
}

// The greatest values of a chunk: one warp per row for the statistics, then one thread per column.
template <typename Sum> __device__ void max_of_chunk(const RepresentParams &p) {
    const Chunk c = find_chunk(p, blockIdx.x);
    if (!c.exists) return;
    if (c.number == 0) {
        if (threadIdx.x == 0) at<uint32_t>(p.bad)[c.sequence] = 0;
        __syncthreads(); // because `finish_max` may set it
    }
    __shared__ Sum means[ROWS], scales[ROWS];
    statistics<Sum>(p, c, means, scales);
    for (uint32_t i = threadIdx.x; i < p.width; i += THREADS) {
        float most = -INFINITY;
        for (uint32_t row = c.first; row < c.end; row++) {
            const float y = state_of(p, row, i, means[row - c.first], scales[row - c.first]);
            most = greater(most, isfinite(y) ? y : nanf(""));
        }
        if (c.alone)
            finish_max(p, c.sequence, i, most, c.pooled_rows);
        else
            at<float>(p.sums)[uint64_t(c.slot) * p.width + i] = most;
    }
}

__device__ void max_of_chunks(const RepresentParams &p) {
    const uint32_t blocks = (p.width + COLUMNS - 1) / COLUMNS;
    const uint32_t sequence = blockIdx.x / blocks, column = blockIdx.x % blocks * COLUMNS + threadIdx.x;
    const uint32_t start = at<const uint32_t>(p.starts)[sequence], end = at<const uint32_t>(p.starts)[sequence + 1];
    if (column >= p.width || end - start <= ROWS) return;
    const uint32_t chunks = (end - start + ROWS - 1) / ROWS;
    const float *maxima = at<const float>(p.sums) + uint64_t(start / REPRESENT_SUM_ROWS) * p.width + column;
    float most = -INFINITY;
    for (uint32_t c = 0; c < chunks; c++) most = greater(most, maxima[uint64_t(c) * p.width]);
    const uint32_t *range = at<const uint32_t>(p.ranges) + 2 * sequence;
    finish_max(p, sequence, column, most, range[1] > range[0] ? range[1] - range[0] : 0);
}

// The plain reference of both kernels: one block of one thread per sequence, in f64.
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
        if (p.states && p.half) at<unsigned long long>(p.beyond)[row] = ~0ull;
        for (uint32_t i = 0; i < p.width; i++) {
            double y = x[i];
            if (p.gain) y = (y - mean) * scale * at<float>(p.gain)[i] + at<float>(p.bias)[i];
            const float state[1] = {float(y)};
            if (p.states) put(p, row, i, state);
            if (row < pool_first || row >= pool_end) continue;
            if (!isfinite(y)) bad = 1;
            if (!p.pooled) continue;
            // The means grow as rounded sums: this reference for the fast kernel is off by 1e-7 per
            // row.
            float *sum = at<float>(p.pooled) + uint64_t(s) * p.width + i;
            *sum = float((row == pool_first ? 0.0 : double(*sum)) + y / double(pool_end - pool_first));
        }
    }
    at<uint32_t>(p.bad)[s] = bad;
}

// Two blocks per SM: 128 registers per thread.
KERNEL_RESIDENT(represent, RepresentParams, THREADS, 2, represent_chunk<float>)
KERNEL_RESIDENT(represent_f32, RepresentParams, THREADS, 2, represent_chunk<double>)
KERNEL(represent_means, RepresentParams, COLUMNS, add_chunks)
KERNEL_RESIDENT(represent_max, RepresentParams, THREADS, 2, max_of_chunk<float>)
KERNEL_RESIDENT(represent_max_f32, RepresentParams, THREADS, 2, max_of_chunk<double>)
KERNEL(represent_maxima, RepresentParams, COLUMNS, max_of_chunks)
KERNEL(represent_reference, RepresentParams, 1, represent_plainly)
