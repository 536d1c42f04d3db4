// What the attention kernels for f16 and bf16 share: tiles in shared memory, the rotation of queries and keys,
// and the work of a warp on a tile of keys and values.
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

// Loads the angles of N pairs of values from a table: (cos, sin) of two pairs each.
template <int N> __device__ __forceinline__ void load_angles(float4 (&angles)[N / 2], const float2 *table) {
#pragma unroll
    for (int i = 0; i < N / 2; i++) angles[i] = reinterpret_cast<const float4 *>(table)[i];
}

// Rotates N pairs of values (a, b) by these angles.
template <int N, typename T>
__device__ __forceinline__ void rotate_pairs(T *first, T *second, const float4 (&angles)[N / 2]) {
    float a[N], b[N], x[N], y[N];
    load(a, first);
    load(b, second);
#pragma unroll
    for (int i = 0; i < N; i += 2) {
        const float4 both = angles[i / 2];
        x[i] = fmaf(a[i], both.x, -(b[i] * both.y));
        y[i] = fmaf(b[i], both.x, a[i] * both.y);
        x[i + 1] = fmaf(a[i + 1], both.z, -(b[i + 1] * both.w));
        y[i + 1] = fmaf(b[i + 1], both.z, a[i + 1] * both.w);
    }
    store(first, x);
    store(second, y);
}

// The same by the angles of `table`.
template <int N, typename T> __device__ __forceinline__ void rotate_pairs(T *first, T *second, const float2 *table) {
    float4 angles[N / 2];
    load_angles<N>(angles, table);
    rotate_pairs<N>(first, second, angles);
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

// How the threads of a block copy and rotate tiles of ROWS rows, one tile after the other: as `fetch` and `rotate` do, but
// what does not change from tile to tile is computed once, and all angles are requested before the first one is used.
template <typename T, int D, bool EXACT, int ROWS, int THREADS> struct Copier {
    using S = Share<D, EXACT>;
    static constexpr bool PAIRS = S::PAIRS && THREADS % S::UNITS == 0;
    static constexpr int STEP = PAIRS ? THREADS / S::UNITS : 1, STEPS = PAIRS ? (ROWS + STEP - 1) / STEP : 1;
    int thread, width;
    uint64_t stride;
    // Of pairs: this thread's first row, its unit, and where the unit's two chunks are in a tile.
    int row, unit, first, second;
    struct Angles {
        float4 of[STEPS][4];
    };

    __device__ __forceinline__ Copier(int t, int w, uint64_t s) : thread(t), width(w), stride(s) {
        row = t / S::UNITS, unit = t % S::UNITS;
        first = row * D + swizzled<D>(row, unit) * 8, second = row * D + swizzled<D>(row, unit + S::UNITS) * 8;
    }

    // The chunk that is `steps` steps further on than `chunk`. Chunks change places by exclusive or, alike in every
    // eighth row.
    static __device__ __forceinline__ T *at(T *tile, int chunk, int steps) {
        const int there = STEP % 8 == 0 ? chunk : chunk ^ swizzled<D>(steps * STEP, 0) * 8;
        return tile + there + steps * STEP * D;
    }
    // Whether the thread has a row in this step.
    __device__ __forceinline__ bool has(int step) const { return ROWS % STEP == 0 || row + step * STEP < ROWS; }

    // Begins to copy a tile. `from` is row 0 in global memory. Rows from `valid` on become 0; with WHOLE there are none.
    template <bool WHOLE> __device__ __forceinline__ void fetch(T *tile, const T *from, int valid) const {
        if constexpr (!PAIRS) {
            ::fetch<D, EXACT, ROWS, THREADS>(tile, from, stride, valid, width, thread);
        } else {
            const T *source = from + (row * stride + unit * 8);
#pragma unroll
            for (int j = 0; j < STEPS; j++) {
                if (!has(j)) break;
                const bool inside = WHOLE || row + j * STEP < valid;
                const T *const there = inside ? source : from;
                cp_async16(at(tile, first, j), there, inside);
                cp_async16(at(tile, second, j), inside ? there + D / 2 : from, inside);
                source += STEP * stride;
            }
        }
    }

    // Requests the angles of this thread's rows. `table` is that of row 0.
    __device__ __forceinline__ void request(Angles &angles, const float2 *table, int valid) const {
        if constexpr (PAIRS) {
#pragma unroll
            for (int j = 0; j < STEPS; j++)
                if (has(j) && row + j * STEP < valid)
                    load_angles<8>(angles.of[j], table + (row + j * STEP) * (D / 2) + unit * 8);
        }
    }
    // Rotates what this thread has copied, and waited for.
    __device__ __forceinline__ void rotate(T *tile, const Angles &angles, const float2 *table, int valid) const {
        if constexpr (PAIRS) {
#pragma unroll
            for (int j = 0; j < STEPS; j++)
                if (has(j) && row + j * STEP < valid)
                    rotate_pairs<8>(at(tile, first, j), at(tile, second, j), angles.of[j]);
        } else {
            ::rotate<D, EXACT, ROWS, THREADS>(tile, table, valid, width, thread);
        }
    }
};

// A lane's place in a tile. The chunk that is 2 i chunks further on is at `at(tile, i)`, since chunks change places by
// exclusive or; so it is in all rows that are a multiple of 16 further on.
template <int D> struct Place {
    int row, chunk; // in bytes, as addresses are
    __device__ __forceinline__ Place(int r, int c) : row(r * D * 2), chunk(swizzled<D>(r, c) * 16) {}
    template <typename T> __device__ __forceinline__ const void *at(const T *tile, int i) const {
        return reinterpret_cast<const unsigned char *>(tile) + row + (chunk ^ (i * 32));
    }
};

// The rows of a warp: 16 * M queries of a sequence, their scores and their results. Q_IN_REGISTERS: the queries stay in
// registers, and their tile is free. Lane 4 g + t holds rows g and g + 8 of each 16 rows, and columns 2 t and 2 t + 1
// of each 8 columns: the layout of the sums of m16n8k16. Element i of four is in row g + 8 (i / 2), column 2 t + i % 2.
//
// SUMS_BY_MMA: the tensor cores, which are idle half of the time, sum up the weights as a product with a column of ones.
// These are the rounded weights that meet the values.
template <typename T, int D, int M, bool Q_IN_REGISTERS, bool SUMS_BY_MMA> struct WarpRows {
    static constexpr int K_STEPS = D / 16;         // products of 16 columns
    static constexpr bool K_TAIL = D % 16 != 0;    // and one of 8
    static constexpr int O_BLOCKS = D / 8;         // blocks of 8 columns of o
    // Rows are rescaled where the largest score grows by more than this, as a power of 2. A weight is at most 2^8, far
    // below the largest number of f16, and exact to the same number of bits.
    static constexpr float GROWTH = 8;
    uint32_t q[Q_IN_REGISTERS ? M : 1][Q_IN_REGISTERS ? K_STEPS : 1][4];
    uint32_t q_tail[Q_IN_REGISTERS && K_TAIL ? M : 1][2];
    float o[M][O_BLOCKS][4];
    float row_max[M][2]; // the largest score so far, or a smaller one by at most GROWTH
    float row_sum[M][SUMS_BY_MMA ? 4 : 2]; // of all columns, twice; or of this lane's columns

    // Begins with the queries of the warp's own tile, which are rotated there.
    __device__ __forceinline__ void load_q(T *tile, int lane) {
#pragma unroll
        for (int m = 0; m < M; m++) {
#pragma unroll
            for (int n = 0; n < O_BLOCKS; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) o[m][n][i] = 0;
#pragma unroll
            for (int r = 0; r < 2; r++) row_max[m][r] = -INFINITY;
#pragma unroll
            for (int i = 0; i < (SUMS_BY_MMA ? 4 : 2); i++) row_sum[m][i] = 0;
            if constexpr (Q_IN_REGISTERS) {
#pragma unroll
                for (int k = 0; k < K_STEPS; k++) read_q(q[m][k], tile, m, k, lane);
                if constexpr (K_TAIL) ldmatrix_x2(q_tail[m], cell<D>(tile, m * 16 + lane % 16, 2 * K_STEPS));
            }
        }
    }

    static __device__ __forceinline__ void read_q(uint32_t (&to)[4], T *tile, int m, int k, int lane) {
        ldmatrix_x4(to, Place<D>(lane % 16, lane / 16).at(tile + m * 16 * D, k));
    }

    // The products of 16 columns with a block of 16 keys, whose lane's part is at `key`.
    template <int BLOCKS>
    static __device__ __forceinline__ void qk_step(float (&s)[M][2 * BLOCKS][4], const uint32_t (&a)[M][4],
                                                   const void *key, int n) {
        uint32_t b[4];
        ldmatrix_x4(b, key);
#pragma unroll
        for (int m = 0; m < M; m++) {
            mma_m16n8k16<T>(s[m][2 * n], a[m], b[0], b[1]);
            mma_m16n8k16<T>(s[m][2 * n + 1], a[m], b[2], b[3]);
        }
    }

    __device__ __forceinline__ void queries(uint32_t (&a)[M][4], T *tile, int k, int lane) const {
#pragma unroll
        for (int m = 0; m < M; m++) {
            if constexpr (Q_IN_REGISTERS) {
#pragma unroll
                for (int i = 0; i < 4; i++) a[m][i] = q[m][k][i];
            } else {
                read_q(a[m], tile, m, k, lane);
            }
        }
    }

    // s = q k^T for BLOCKS blocks of 16 keys; with CUT those from `valid` keys on are left out.
    template <bool CUT, int BLOCKS>
    __device__ __forceinline__ void qk(float (&s)[M][2 * BLOCKS][4], T *tile, T *keys, int valid, int lane) {
        // Lanes 0 to 15 address the first eight keys, the others the next eight; every second
        // group of eight lanes addresses the next eight columns.
        const Place<D> place(lane / 16 * 8 + lane % 8, lane / 8 % 2);
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int n = 0; n < 2 * BLOCKS; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) s[m][n][i] = 0;
        if constexpr (CUT) {
            // Block by block, so that a block that is left out costs one branch.
#pragma unroll
            for (int n = 0; n < BLOCKS; n++) {
                if (n * 16 >= valid) break;
#pragma unroll
                for (int k = 0; k < K_STEPS; k++) {
                    uint32_t a[M][4];
                    queries(a, tile, k, lane);
                    qk_step<BLOCKS>(s, a, place.at(keys + n * 16 * D, k), n);
                }
            }
        } else {
#pragma unroll
            for (int k = 0; k < K_STEPS; k++) {
                uint32_t a[M][4];
                queries(a, tile, k, lane);
#pragma unroll
                for (int n = 0; n < BLOCKS; n++) qk_step<BLOCKS>(s, a, place.at(keys + n * 16 * D, k), n);
            }
        }
        if constexpr (K_TAIL) {
            static_assert(Q_IN_REGISTERS, "heads of an odd number of chunks are narrow enough for registers");
#pragma unroll
            for (int n = 0; n < BLOCKS; n++) {
                if (CUT && n * 16 >= valid) break;
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
                if constexpr (SUMS_BY_MMA)
                    new_max = (new_max - row_max[m][r]) * scale2 > GROWTH ? new_max : row_max[m][r];
                rescale[r] = exp2_approx((row_max[m][r] - new_max) * scale2);
                row_max[m][r] = new_max;
                const float minus = -new_max * scale2;
                float tile_sum = 0;
#pragma unroll
                for (int n = 0; n < 2 * BLOCKS; n++) {
#pragma unroll
                    for (int i = 2 * r; i < 2 * r + 2; i++) {
                        s[m][n][i] = exp2_approx(fmaf(s[m][n][i], scale2, minus));
                        if constexpr (!SUMS_BY_MMA) tile_sum += s[m][n][i];
                    }
                }
                if constexpr (!SUMS_BY_MMA) row_sum[m][r] = fmaf(row_sum[m][r], rescale[r], tile_sum);
            }
            // Mostly no row is to be rescaled, and times 1 changes no bit.
            if (__any_sync(0xffffffffu, rescale[0] != 1.0f || rescale[1] != 1.0f)) {
#pragma unroll
                for (int n = 0; n < O_BLOCKS; n++)
#pragma unroll
                    for (int i = 0; i < 4; i++) o[m][n][i] *= rescale[i / 2];
                if constexpr (SUMS_BY_MMA) {
#pragma unroll
                    for (int i = 0; i < 4; i++) row_sum[m][i] *= rescale[i / 2];
                }
            }
        }
    }

    // o += p v for BLOCKS blocks of 16 keys; p are the weights. With CUT the keys from `valid` on are left out.
    template <bool CUT, int BLOCKS>
    __device__ __forceinline__ void pv(const float (&weights)[M][2 * BLOCKS][4], T *values, int valid, int lane) {
        const Place<D> place(lane % 16, lane / 16);
#pragma unroll
        for (int k = 0; k < BLOCKS; k++) {
            if (CUT && k * 16 >= valid) break;
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
                ldmatrix_x4_trans(b, place.at(values + k * 16 * D, n));
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
            if constexpr (SUMS_BY_MMA) {
                const uint32_t ones = pack2<T>(1.0f, 1.0f);
#pragma unroll
                for (int m = 0; m < M; m++) mma_m16n8k16<T>(row_sum[m], p[m], ones, ones);
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
        float s[M][2 * BLOCKS][4];
        qk<CUT, BLOCKS>(s, tile, keys, valid, lane);
        softmax<CUT, BLOCKS>(s, valid, distance, slope, scale2, lane);
        pv<CUT, BLOCKS>(s, values, valid, lane);
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
                float sum = row_sum[m][SUMS_BY_MMA ? 2 * r : r];
                if constexpr (!SUMS_BY_MMA) {
                    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
                    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
                }
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
    }
};
