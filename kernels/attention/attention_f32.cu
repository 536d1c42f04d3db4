// Attention in f32 throughout, heads of any even number of columns up to 128: no tensor cores, whose f32 is not.
//
// A block takes one head of an item (params.h, AttentionItem). Its queries go in passes of 64, and each pass goes
// through all keys of the sequence, 64 at a time. 128 threads stand 8 by 16: thread (y, x) has queries 8 y to 8 y + 7, keys
// x, x + 16, ... of the scores, and columns x, x + 16, ... of o; so a warp has 16 queries, and is idle where those are past
// the item's. Grid: heads * items blocks (heads fastest). A kernel for heads of up to 16, 32, 64, 96 and 128 columns.
//
// Bound by FLOPs: of 38 instructions 32 are products, 6 load 12 floats from shared memory. On an H200, where a product by
// cuBLASLt has 51 TFLOP/s, rotated: with 20 heads of 64 12 at length 51, 21 at 350 and 25 at 1022; at 350 with 20 of 24 18,
// with 40 of 128 14. (With four queries a thread, 16 products for 8 floats, and one kernel for all widths: 9 at 350.)
//
// Online softmax as in attention.cuh, counted from the sequence's first token. What 64 keys give is summed by itself and
// then added, as on the CPU: a chain's rounding grows with its length.
#include <cmath>

#include "../common/kernel.cuh"
#include "../params.h"
#include "../common/ptx.cuh"
#include "../launch.h"
#include "../common/vector.cuh"

constexpr int SIDE = 16;                       // threads that share a query
constexpr int OWN = ATTENTION_F32_ROWS * SIDE / ATTENTION_F32_THREADS; // queries of a thread
constexpr int EACH = ATTENTION_F32_KEYS / SIDE;                        // keys of a thread
constexpr int STRIDE = ATTENTION_F32_PITCH; // of transposed tiles
static_assert(ATTENTION_F32_ROWS == ATTENTION_F32_KEYS && OWN == 8, "tiles of queries and keys are copied alike; queries are read 4 and 4");

// The angles (cos, sin) of columns d and d + half, on both.
__device__ __forceinline__ void rotate(float &a, float &b, float cosine, float sine) {
    const float x = fmaf(a, cosine, -(b * sine));
    b = fmaf(b, cosine, a * sine);
    a = x;
}

// Copies 64 rows, transposed: to[d][row], rotated where there is a table. Rows from `valid` on become 0.
__device__ __forceinline__ void transpose(float *to, const float *from, uint64_t stride, int valid, int width,
                                          const float *rotary) {
    const int half = width / 2;
    if (half % 4 == 0) {
        // Four columns and their partners at once. 16 lanes a row each and the same columns: they store to 16 banks, and the
        // warp's other half, four columns on, to the other 16.
        const int quads = half / 4;
        for (int i = threadIdx.x; i < ATTENTION_F32_ROWS * quads; i += ATTENTION_F32_THREADS) {
            const int row = i / (SIDE * quads) * SIDE + i % SIDE, d = 4 * ((i / SIDE) % quads);
            float a[4] = {}, b[4] = {};
            if (row < valid) {
                load(a, from + row * stride + d);
                load(b, from + row * stride + half + d);
                if (rotary) {
                    float angles[2][4];
                    load(angles[0], rotary + 2 * (row * half + d));
                    load(angles[1], rotary + 2 * (row * half + d) + 4);
#pragma unroll
                    for (int c = 0; c < 4; c++) rotate(a[c], b[c], angles[c / 2][2 * (c % 2)], angles[c / 2][2 * (c % 2) + 1]);
                }
            }
#pragma unroll
            for (int c = 0; c < 4; c++) {
                to[(d + c) * STRIDE + row] = a[c];
                to[(half + d + c) * STRIDE + row] = b[c];
            }
        }
        return;
    }
    for (int i = threadIdx.x; i < ATTENTION_F32_ROWS * half; i += ATTENTION_F32_THREADS) {
        const int row = i / half, d = i % half;
        float a = 0, b = 0;
        if (row < valid) {
            a = from[row * stride + d];
            b = from[row * stride + half + d];
            if (rotary) rotate(a, b, rotary[2 * (row * half + d)], rotary[2 * (row * half + d) + 1]);
        }
        to[d * STRIDE + row] = a;
        to[(half + d) * STRIDE + row] = b;
    }
}

// Begins to copy 64 rows; rows from `valid` on become 0.
template <int WIDTH> __device__ __forceinline__ void fetch(float *to, const float *from, uint64_t stride, int valid, int width) {
    if (width % 4 == 0) {
        const int vectors = width / 4;
        for (int i = threadIdx.x; i < ATTENTION_F32_KEYS * vectors; i += ATTENTION_F32_THREADS) {
            const int row = i / vectors, d = i % vectors * 4;
            cp_async16(to + row * WIDTH + d, from + (row < valid ? row * stride + d : 0), row < valid);
        }
    } else {
        for (int i = threadIdx.x; i < ATTENTION_F32_KEYS * width; i += ATTENTION_F32_THREADS) {
            const int row = i / width, d = i % width;
            to[row * WIDTH + d] = row < valid ? from[row * stride + d] : 0.0f;
        }
    }
    cp_async_commit();
}

// Over the 16 threads of a query, which are half a warp; in every one of them.
template <typename F> __device__ __forceinline__ float across(float x, F f) {
#pragma unroll
    for (int step = SIDE / 2; step > 0; step /= 2) x = f(x, __shfl_xor_sync(0xffffffffu, x, step));
    return x;
}

// Heads of at most 16 * COLUMNS columns.
template <int COLUMNS> __device__ __forceinline__ void attention_plain(const AttentionParams &p) {
    constexpr int WIDTH = SIDE * COLUMNS; // of a row of values
    DYN_SMEM(shared);
    const int width = int(p.head_dim);
    float *queries = reinterpret_cast<float *>(shared); // [width][STRIDE]
    float *keys = queries + width * STRIDE;             // [width][STRIDE]
    float *values = keys + width * STRIDE;              // [ATTENTION_F32_KEYS][WIDTH]
    float *weights = values + ATTENTION_F32_KEYS * WIDTH;         // [ATTENTION_F32_KEYS][STRIDE], by key
    const int x = threadIdx.x % SIDE, y = threadIdx.x / SIDE, warp = threadIdx.x / 32;

    const uint32_t head = blockIdx.x % p.heads;
    const AttentionItem item = at<const AttentionItem>(p.items)[blockIdx.x / p.heads];
    const int length = int(item.length), last = int(item.row + item.rows);
    const uint64_t row_stride = uint64_t(p.heads) * width, stride = 3 * row_stride;
    const float *q = at<const float>(p.qkv) + item.first * stride + head * width;
    const float *k = q + row_stride, *v = k + row_stride;
    float *out = at<float>(p.out) + item.first * row_stride + head * width;
    const float *rotary = at<const float>(p.rotary);
    const float slope = p.slopes ? at<const float>(p.slopes)[head] : 0.0f;
    // Columns beyond the head's: what is read of them is written nowhere.
    for (int i = threadIdx.x; i < ATTENTION_F32_KEYS * (WIDTH - width); i += ATTENTION_F32_THREADS)
        values[i / (WIDTH - width) * WIDTH + width + i % (WIDTH - width)] = 0.0f;

    for (int row = int(item.row); row < last; row += ATTENTION_F32_ROWS) {
        const bool idle = row + warp * 2 * OWN >= last; // all of the warp's queries are past the item's
        float o[OWN][COLUMNS] = {}, row_max[OWN], row_sum[OWN] = {};
        for (float &m : row_max) m = -INFINITY;
        // The queries of the pass before were last read ahead of a barrier.
        transpose(queries, q + row * stride, stride, last - row, width, rotary ? rotary + uint64_t(row) * width : nullptr);
        for (int key = 0; key < length; key += ATTENTION_F32_KEYS) {
            const int valid = min(ATTENTION_F32_KEYS, length - key);
            __syncthreads(); // the tile before has been read
            fetch<WIDTH>(values, v + key * stride, stride, valid, width);
            transpose(keys, k + key * stride, stride, valid, width, rotary ? rotary + uint64_t(key) * width : nullptr);
            __syncthreads(); // the keys are there
            float s[OWN][EACH] = {}, rescale[OWN];
            if (!idle) {
#pragma unroll 4
                for (int d = 0; d < width; d++) {
                    float a[2][4], b[EACH];
                    load(a[0], queries + d * STRIDE + y * OWN);
                    load(a[1], queries + d * STRIDE + y * OWN + 4);
#pragma unroll
                    for (int j = 0; j < EACH; j++) b[j] = keys[d * STRIDE + x + j * SIDE];
#pragma unroll
                    for (int i = 0; i < OWN; i++)
#pragma unroll
                        for (int j = 0; j < EACH; j++) s[i][j] = fmaf(a[i / 4][i % 4], b[j], s[i][j]);
                }
#pragma unroll
                for (int i = 0; i < OWN; i++) {
                    float new_max = -INFINITY;
#pragma unroll
                    for (int j = 0; j < EACH; j++) {
                        const int column = x + j * SIDE, distance = row + y * OWN + i - (key + column);
                        s[i][j] = column < valid ? fmaf(-slope, fabsf(float(distance)), s[i][j] * p.scale) : -INFINITY;
                        new_max = fmaxf(new_max, s[i][j]);
                    }
                    new_max = fmaxf(row_max[i], across(new_max, [](float a, float b) { return fmaxf(a, b); }));
                    rescale[i] = expf(row_max[i] - new_max);
                    row_max[i] = new_max;
                    float tile_sum = 0;
#pragma unroll
                    for (int j = 0; j < EACH; j++) {
                        s[i][j] = expf(s[i][j] - new_max);
                        tile_sum += s[i][j];
                    }
                    row_sum[i] = fmaf(row_sum[i], rescale[i], across(tile_sum, [](float a, float b) { return a + b; }));
                }
                // For the half warp alone.
#pragma unroll
                for (int j = 0; j < EACH; j++)
#pragma unroll
                    for (int h = 0; h < OWN; h += 4) {
                        const float four[4] = {s[h][j], s[h + 1][j], s[h + 2][j], s[h + 3][j]};
                        store(weights + (x + j * SIDE) * STRIDE + y * OWN + h, four);
                    }
            }
            cp_async_wait<0>();
            __syncthreads(); // the values are there, and the weights
            if (idle) continue;
            float part[OWN][COLUMNS] = {};
#pragma unroll 4
            for (int j = 0; j < valid; j++) {
                float a[2][4], b[COLUMNS];
                load(a[0], weights + j * STRIDE + y * OWN);
                load(a[1], weights + j * STRIDE + y * OWN + 4);
#pragma unroll
                for (int n = 0; n < COLUMNS; n++) b[n] = values[j * WIDTH + x + n * SIDE];
#pragma unroll
                for (int i = 0; i < OWN; i++)
#pragma unroll
                    for (int n = 0; n < COLUMNS; n++) part[i][n] = fmaf(a[i / 4][i % 4], b[n], part[i][n]);
            }
#pragma unroll
            for (int i = 0; i < OWN; i++)
#pragma unroll
                for (int n = 0; n < COLUMNS; n++) o[i][n] = fmaf(o[i][n], rescale[i], part[i][n]);
        }
#pragma unroll
        for (int i = 0; i < OWN; i++) {
            const int r = row + y * OWN + i;
            if (r >= last) continue;
#pragma unroll
            for (int n = 0; n < COLUMNS; n++)
                if (x + n * SIDE < width) out[r * row_stride + x + n * SIDE] = o[i][n] / row_sum[i];
        }
    }
}

#define ATTENTION_F32(width)                                                                                  \
    KERNEL(attention_f32_##width, AttentionParams, ATTENTION_F32_THREADS, attention_plain<width / SIDE>)
ATTENTION_F32_WIDTHS(ATTENTION_F32)
