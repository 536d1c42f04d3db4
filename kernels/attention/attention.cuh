// What the attention kernels for f16 and bf16 share: tiles in shared memory, the rotation of queries and keys,
// and what a warp does with a tile of keys and values.
//
// FlashAttention's online softmax (Dao et al. 2022, 2023): scores are never in memory. A warp owns 16 or
// 32 queries; s = q k^T and o += p v are products m16n8k16 with f32 sums; p goes from one to the other in
// registers, rounded to T; row_max, row_sum and o are f32.
#pragma once

#include <cmath>

#include "../common/kernel.cuh"
#include "../params.h"
#include "../common/ptx.cuh"
#include "../launch.h"
#include "../common/vector.cuh"

// A tile in shared memory: rows of D values of T, in chunks of 16 bytes. Chunks change places within a row so that
// the same chunk of 8 rows that follow each other lies in 8 different groups of banks: what ldmatrix
// reads at once. (An odd number of chunks a row does so by itself.)
template <int D> __device__ __forceinline__ int swizzled(int row, int chunk) {
    constexpr int CHUNKS = D / 8;
    if constexpr (CHUNKS % 8 == 0) return chunk ^ (row & 7);
    if constexpr (CHUNKS % 4 == 0) return chunk ^ ((row >> 1) & 3);
    if constexpr (CHUNKS % 2 == 0) return chunk ^ ((row >> 2) & 1);
    return chunk;
}

template <int D, typename T> __device__ __forceinline__ T *cell(T *tile, int row, int chunk) {
    return tile + row * D + swizzled<D>(row, chunk) * 8;
}

// How rows are shared among threads for copying and for rotating: the same way, so that a thread rotates what it
// copied itself, and needs no barrier between. With D a multiple of 16 a thread takes a chunk of the first
// half of a row and the chunk it is rotated with; else a row. EXACT: the head has D columns, and not fewer.
template <int D, bool EXACT> struct Share {
    static constexpr bool PAIRS = EXACT && D % 16 == 0;
    static constexpr int UNITS = PAIRS ? D / 16 : 1; // a row
    static constexpr int CHUNKS = D / 8;             // a row

    // The chunks of unit u: f(chunk) each.
    template <typename F> static __device__ __forceinline__ void chunks(int u, F f) {
        if constexpr (PAIRS) {
            f(u);
            f(u + UNITS);
        } else {
#pragma unroll
            for (int c = 0; c < CHUNKS; c++) f(c);
        }
    }
};

// Copies ROWS rows to a tile, asynchronously: rows from `valid` on and columns from `width` on become 0.
template <int D, bool EXACT, int ROWS, int THREADS, typename T>
__device__ __forceinline__ void fetch(T *tile, const T *from, uint64_t stride, int valid, int width, int thread) {
    using S = Share<D, EXACT>;
#pragma unroll 1
    for (int i = thread; i < ROWS * S::UNITS; i += THREADS) {
        const int row = i / S::UNITS;
        const bool inside = row < valid;
        const T *source = from + (inside ? row : 0) * stride;
        S::chunks(i % S::UNITS, [&](int c) {
            const bool there = inside && (EXACT || c * 8 < width);
            cp_async16(cell<D>(tile, row, c), source + (there ? c * 8 : 0), there);
        });
    }
}

// The same, at once.
template <int D, bool EXACT, int ROWS, int THREADS, typename T>
__device__ __forceinline__ void copy(T *tile, const T *from, uint64_t stride, int valid, int width, int thread) {
    using S = Share<D, EXACT>;
#pragma unroll
    for (int i = thread; i < ROWS * S::UNITS; i += THREADS) {
        const int row = i / S::UNITS;
        S::chunks(i % S::UNITS, [&](int c) {
            uint4 value = {0, 0, 0, 0};
            if (row < valid && (EXACT || c * 8 < width)) value = *reinterpret_cast<const uint4 *>(from + row * stride + c * 8);
            *reinterpret_cast<uint4 *>(cell<D>(tile, row, c)) = value;
        });
    }
}

// Rotates N pairs of values: (a, b) by the angles of `table`.
template <int N, typename T> __device__ __forceinline__ void rotate_pairs(T *first, T *second, const float2 *table) {
    float a[N], b[N], x[N], y[N];
    load(a, first);
    load(b, second);
#pragma unroll
    for (int i = 0; i < N; i += 2) {
        const float4 angles = *reinterpret_cast<const float4 *>(table + i);
        x[i] = fmaf(a[i], angles.x, -(b[i] * angles.y));
        y[i] = fmaf(b[i], angles.x, a[i] * angles.y);
        x[i + 1] = fmaf(a[i + 1], angles.z, -(b[i + 1] * angles.w));
        y[i + 1] = fmaf(b[i + 1], angles.z, a[i + 1] * angles.w);
    }
    store(first, x);
    store(second, y);
}

// Rotates the first half of each row with the second, in f32, rounded once. `table` is that of row 0.
template <int D, bool EXACT, int ROWS, int THREADS, typename T>
__device__ __forceinline__ void rotate(T *tile, const float2 *table, int valid, int width, int thread) {
    using S = Share<D, EXACT>;
    const int half = EXACT ? D / 2 : width / 2;
#pragma unroll 1 // the registers are full of sums
    for (int i = thread; i < ROWS * S::UNITS; i += THREADS) {
        const int row = i / S::UNITS, u = i % S::UNITS;
        if (row >= valid) continue;
        const float2 *angles = table + row * half;
        if constexpr (S::PAIRS) {
            rotate_pairs<8>(cell<D>(tile, row, u), cell<D>(tile, row, u + S::UNITS), angles + u * 8);
        } else {
            // Half a head is a multiple of 4, perhaps not of 8.
            for (int d = 0; d < half; d += 4)
                rotate_pairs<4>(cell<D>(tile, row, d / 8) + d % 8, cell<D>(tile, row, (half + d) / 8) + (half + d) % 8,
                                angles + d);
        }
    }
}

// The rows of a warp: 16 * M queries of a sequence, their scores and their results. Q_IN_REGISTERS: the queries stay in
// registers, and their tile is free. Lane 4 g + t holds rows g and g + 8 of each 16 rows, and columns 2 t and 2 t + 1
// of each 8 columns: the layout of the sums of m16n8k16. Element i of four is in row g + 8 (i / 2), column 2 t + i % 2.
template <typename T, int D, int M, bool Q_IN_REGISTERS> struct WarpRows {
    static constexpr int K_STEPS = D / 16;         // products of 16 columns
    static constexpr bool K_TAIL = D % 16 != 0;    // and one of 8
    static constexpr int O_BLOCKS = D / 8;         // blocks of 8 columns of o
    uint32_t q[Q_IN_REGISTERS ? M : 1][Q_IN_REGISTERS ? K_STEPS : 1][4];
    uint32_t q_tail[Q_IN_REGISTERS && K_TAIL ? M : 1][2];
    float o[M][O_BLOCKS][4];
    float row_max[M][2]; // the largest score so far
    float row_sum[M][2]; // of this lane's columns

    // Begins with the queries of the warp's own tile, which are rotated there.
    __device__ __forceinline__ void load_q(T *tile, int lane) {
#pragma unroll
        for (int m = 0; m < M; m++) {
#pragma unroll
            for (int n = 0; n < O_BLOCKS; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) o[m][n][i] = 0;
#pragma unroll
            for (int r = 0; r < 2; r++) {
                row_max[m][r] = -INFINITY;
                row_sum[m][r] = 0;
            }
            if constexpr (Q_IN_REGISTERS) {
#pragma unroll
                for (int k = 0; k < K_STEPS; k++) read_q(q[m][k], tile, m, k, lane);
                if constexpr (K_TAIL) ldmatrix_x2(q_tail[m], cell<D>(tile, m * 16 + lane % 16, 2 * K_STEPS));
            }
        }
    }

    static __device__ __forceinline__ void read_q(uint32_t (&to)[4], T *tile, int m, int k, int lane) {
        ldmatrix_x4(to, cell<D>(tile, m * 16 + lane % 16, 2 * k + lane / 16));
    }

    // s = q k^T for BLOCKS blocks of 16 keys; blocks that are not `present` are left out.
    template <int BLOCKS, class Present>
    __device__ __forceinline__ void qk(float (&s)[M][2 * BLOCKS][4], T *tile, T *keys, Present present, int lane) {
#pragma unroll
        for (int k = 0; k < K_STEPS; k++) {
            uint32_t a[M][4];
#pragma unroll
            for (int m = 0; m < M; m++) {
                if constexpr (Q_IN_REGISTERS) {
#pragma unroll
                    for (int i = 0; i < 4; i++) a[m][i] = q[m][k][i];
                } else {
                    read_q(a[m], tile, m, k, lane);
                }
            }
#pragma unroll
            for (int n = 0; n < BLOCKS; n++) {
                if (!present(n)) continue;
                // Lanes 0 to 15 address the first eight keys, the others the next eight; every second
                // group of eight lanes addresses the next eight columns.
                const int key = n * 16 + lane / 16 * 8 + lane % 8, chunk = 2 * k + (lane / 8) % 2;
                uint32_t b[4];
                ldmatrix_x4(b, cell<D>(keys, key, chunk));
#pragma unroll
                for (int m = 0; m < M; m++) {
                    mma_m16n8k16<T>(s[m][2 * n], a[m], b[0], b[1]);
                    mma_m16n8k16<T>(s[m][2 * n + 1], a[m], b[2], b[3]);
                }
            }
        }
        if constexpr (K_TAIL) {
            static_assert(Q_IN_REGISTERS, "heads of an odd number of chunks are narrow enough for registers");
#pragma unroll
            for (int n = 0; n < BLOCKS; n++) {
                if (!present(n)) continue;
                uint32_t b[2];
                ldmatrix_x2(b, cell<D>(keys, n * 16 + lane % 16, 2 * K_STEPS));
#pragma unroll
                for (int m = 0; m < M; m++) {
                    mma_m16n8k8<T>(s[m][2 * n], q_tail[m][0], q_tail[m][1], b[0]);
                    mma_m16n8k8<T>(s[m][2 * n + 1], q_tail[m][0], q_tail[m][1], b[1]);
                }
            }
        }
    }

    // Scores become weights, and what is summed so far is rescaled.
    template <bool CUT, int BLOCKS>
    __device__ __forceinline__ void softmax(float (&s)[M][2 * BLOCKS][4], int valid, int distance, float slope,
                                            float scale2, int lane) {
        const int g = lane / 4, t = lane % 4;
        if (slope != 0) {
#pragma unroll
            for (int m = 0; m < M; m++) {
                // Of the lane's first query from its first key; whole numbers below 2^24, so exact.
                const float first = float(distance + m * 16 + g - 2 * t);
#pragma unroll
                for (int n = 0; n < 2 * BLOCKS; n++)
#pragma unroll
                    for (int i = 0; i < 4; i++)
                        s[m][n][i] = fmaf(-slope, fabsf(first + float(i / 2 * 8 - n * 8 - i % 2)), s[m][n][i]);
            }
        }
        if constexpr (CUT) {
#pragma unroll
            for (int m = 0; m < M; m++)
#pragma unroll
                for (int n = 0; n < 2 * BLOCKS; n++)
#pragma unroll
                    for (int i = 0; i < 4; i++)
                        if (n * 8 + 2 * t + i % 2 >= valid) s[m][n][i] = -INFINITY;
        }
        // A score that is not finite must not pass as a number: NaN stays NaN in its weight, inf - inf is NaN.
#pragma unroll
        for (int m = 0; m < M; m++) {
            float rescale[2];
#pragma unroll
            for (int r = 0; r < 2; r++) {
                float new_max = fmaxf(s[m][0][2 * r], s[m][0][2 * r + 1]);
#pragma unroll
                for (int n = 1; n < 2 * BLOCKS; n++) new_max = fmaxf(new_max, fmaxf(s[m][n][2 * r], s[m][n][2 * r + 1]));
                new_max = fmaxf(new_max, __shfl_xor_sync(0xffffffffu, new_max, 1));
                new_max = fmaxf(new_max, __shfl_xor_sync(0xffffffffu, new_max, 2));
                new_max = fmaxf(new_max, row_max[m][r]);
                rescale[r] = exp2_approx((row_max[m][r] - new_max) * scale2);
                row_max[m][r] = new_max;
                const float minus = -new_max * scale2;
                float tile_sum = 0;
#pragma unroll
                for (int n = 0; n < 2 * BLOCKS; n++) {
#pragma unroll
                    for (int i = 2 * r; i < 2 * r + 2; i++) {
                        s[m][n][i] = exp2_approx(fmaf(s[m][n][i], scale2, minus));
                        tile_sum += s[m][n][i];
                    }
                }
                row_sum[m][r] = fmaf(row_sum[m][r], rescale[r], tile_sum);
            }
            // Mostly nothing is larger than what came before, and times 1 changes no bit.
            if (__any_sync(0xffffffffu, rescale[0] != 1.0f || rescale[1] != 1.0f)) {
#pragma unroll
                for (int n = 0; n < O_BLOCKS; n++)
#pragma unroll
                    for (int i = 0; i < 4; i++) o[m][n][i] *= rescale[i / 2];
            }
        }
    }

    // o += p v for BLOCKS blocks of 16 keys; p are the weights.
    template <int BLOCKS, class Present>
    __device__ __forceinline__ void pv(const float (&weights)[M][2 * BLOCKS][4], T *values, Present present, int lane) {
#pragma unroll
        for (int k = 0; k < BLOCKS; k++) {
            if (!present(k)) continue;
            uint32_t p[M][4];
#pragma unroll
            for (int m = 0; m < M; m++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const float(&block)[4] = weights[m][2 * k + i / 2];
                    p[m][i] = pack2<T>(block[2 * (i % 2)], block[2 * (i % 2) + 1]);
                }
#pragma unroll
            for (int n = 0; n < O_BLOCKS / 2; n++) {
                uint32_t b[4];
                ldmatrix_x4_trans(b, cell<D>(values, k * 16 + lane % 16, 2 * n + lane / 16));
#pragma unroll
                for (int m = 0; m < M; m++) {
                    mma_m16n8k16<T>(o[m][2 * n], p[m], b[0], b[1]);
                    mma_m16n8k16<T>(o[m][2 * n + 1], p[m], b[2], b[3]);
                }
            }
            if constexpr (O_BLOCKS % 2 != 0) {
                uint32_t b[2];
                ldmatrix_x2_trans(b, cell<D>(values, k * 16 + lane % 16, O_BLOCKS - 1));
#pragma unroll
                for (int m = 0; m < M; m++) mma_m16n8k16<T>(o[m][O_BLOCKS - 1], p[m], b[0], b[1]);
            }
        }
    }

    // A tile of KEYS keys and their values, of which `valid` are the sequence's: with CUT those may be fewer than KEYS.
    // `distance` is that of query 0 from key 0, and `slope` ALiBi's over `scale`, or 0; `scale2` is the scores'
    // scale times log2 e.
    template <bool CUT, int KEYS>
    __device__ __forceinline__ void mma(T *tile, T *keys, T *values, int valid, int distance, float slope, float scale2,
                                        int lane) {
        constexpr int BLOCKS = KEYS / 16;
        // Blocks of keys that are all past the end are left out.
        const auto present = [&](int block) { return !CUT || block * 16 < valid; };
        float s[M][2 * BLOCKS][4] = {};
        qk<BLOCKS>(s, tile, keys, present, lane);
        softmax<CUT, BLOCKS>(s, valid, distance, slope, scale2, lane);
        pv<BLOCKS>(s, values, present, lane);
    }

    // Divides by row_sum and writes `valid` rows of `width` columns, by way of the warp's tile, in 16 bytes. The next
    // sequence's rows lie right behind: nothing past `valid` is touched.
    __device__ __forceinline__ void store_o(T *tile, T *to, uint64_t stride, int valid, int width, int lane) {
        const int g = lane / 4, t = lane % 4;
        __syncwarp(); // all have read the tile
#pragma unroll
        for (int m = 0; m < M; m++) {
            float inverse[2];
#pragma unroll
            for (int r = 0; r < 2; r++) {
                float sum = row_sum[m][r];
                sum += __shfl_xor_sync(0xffffffffu, sum, 1);
                sum += __shfl_xor_sync(0xffffffffu, sum, 2);
                inverse[r] = 1.0f / sum;
            }
#pragma unroll
            for (int n = 0; n < O_BLOCKS; n++)
#pragma unroll
                for (int r = 0; r < 2; r++)
                    *reinterpret_cast<uint32_t *>(cell<D>(tile, m * 16 + r * 8 + g, n) + 2 * t) =
                        pack2<T>(o[m][n][2 * r] * inverse[r], o[m][n][2 * r + 1] * inverse[r]);
        }
        __syncwarp();
#pragma unroll 1
        for (int i = lane; i < M * 16 * O_BLOCKS; i += 32) {
            const int row = i / O_BLOCKS, chunk = i % O_BLOCKS;
            if (row < valid && chunk * 8 < width)
                *reinterpret_cast<uint4 *>(to + row * stride + chunk * 8) =
                    *reinterpret_cast<const uint4 *>(cell<D>(tile, row, chunk));
        }
        __syncwarp(); // before the tile is written again
    }
};
