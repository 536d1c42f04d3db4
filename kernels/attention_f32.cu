// Attention in f32 throughout, heads of any even number of columns up to 128: no tensor cores, whose f32 is not.
//
// A block takes a head of an item (params.h, AttentionItem); its queries go in passes of 64 that meet all keys
// of the sequence, 64 at a time. 256 threads stand 16 by 16: thread (y, x) has queries 4 y to 4 y + 3, keys
// x, x + 16, ... of the scores, and columns x, x + 16, ... of o. Grid: heads * items blocks (heads fastest).
// A short sequence has a block of 64 queries to itself here: by reckoning, with 10 tokens each less than a quarter of what
// the products of as many tokens take, and f32 is for digits.
//
// Bound by FLOPs, and by shared memory, which it reads 8 floats of for 16 products: on an H200 9.0 TFLOP/s, where a
// product by cuBLASLt has 51. Online softmax as in attention.cuh, counted from the sequence's first token. What 64 keys
// give is summed by itself and then added, as on the CPU: a chain's rounding grows with its length.
#include <cmath>

#include "kernel.cuh"
#include "params.h"
#include "ptx.cuh"
#include "tiles.h"
#include "vector.cuh"

constexpr int SIDE = 16;              // threads a side
constexpr int EACH = F32_ROWS / SIDE; // queries, and keys, of a thread
constexpr int WIDEST = 128 / SIDE;    // columns of o
// Transposed tiles: an even stride for vectors of 4, and one more vector, so that columns start at different banks.
constexpr int STRIDE = F32_ROWS + 4;
static_assert(F32_ROWS == F32_KEYS && F32_THREADS == SIDE * SIDE, "a thread has as many keys as queries");

// Copies 64 rows, transposed: to[d][row], rotated where there is a table. Rows from `valid` on become 0.
__device__ __forceinline__ void transpose(float *to, const float *from, uint64_t stride, int valid, int width,
                                          const float2 *rotary) {
    const int half = width / 2;
    for (int i = threadIdx.x; i < F32_ROWS * half; i += F32_THREADS) {
        const int row = i / half, d = i % half;
        float a = 0, b = 0;
        if (row < valid) {
            a = from[row * stride + d];
            b = from[row * stride + half + d];
            if (rotary) {
                const float2 angle = rotary[row * half + d];
                const float x = fmaf(a, angle.x, -(b * angle.y));
                b = fmaf(b, angle.x, a * angle.y);
                a = x;
            }
        }
        to[d * STRIDE + row] = a;
        to[(half + d) * STRIDE + row] = b;
    }
}

// Over the 16 threads of a row, which are half a warp; in every one of them.
template <typename F> __device__ __forceinline__ float across(float x, F f) {
#pragma unroll
    for (int step = SIDE / 2; step > 0; step /= 2) x = f(x, __shfl_xor_sync(0xffffffffu, x, step));
    return x;
}

__device__ void attention_plain(const AttentionParams &p) {
    DYN_SMEM(shared);
    const int width = int(p.head_dim);
    float *queries = reinterpret_cast<float *>(shared); // [width][STRIDE]
    float *keys = queries + width * STRIDE;             // [width][STRIDE]
    float *values = keys + width * STRIDE;              // [F32_KEYS][width]
    float *weights = values + F32_KEYS * width;         // [F32_KEYS][STRIDE], by key
    const int x = threadIdx.x % SIDE, y = threadIdx.x / SIDE;

    const uint32_t head = blockIdx.x % p.heads;
    const AttentionItem item = at<const AttentionItem>(p.items)[blockIdx.x / p.heads];
    const int length = int(item.length), last = int(item.row + item.rows);
    const uint64_t row_stride = uint64_t(p.heads) * width, stride = 3 * row_stride;
    const float *q = at<const float>(p.qkv) + item.first * stride + head * width;
    const float *k = q + row_stride, *v = k + row_stride;
    float *out = at<float>(p.out) + item.first * row_stride + head * width;
    const float2 *rotary = at<const float2>(p.rotary);
    const float slope = p.slopes ? at<const float>(p.slopes)[head] : 0.0f;

    for (int row = int(item.row); row < last; row += F32_ROWS) {
        float o[EACH][WIDEST] = {}, top[EACH], sum[EACH] = {};
        for (float &t : top) t = -INFINITY;
        // The queries of the pass before were last read ahead of a barrier.
        transpose(queries, q + row * stride, stride, last - row, width, rotary ? rotary + uint64_t(row) * (width / 2) : nullptr);
        for (int key = 0; key < length; key += F32_KEYS) {
            const int valid = min(F32_KEYS, length - key);
            __syncthreads();
            transpose(keys, k + key * stride, stride, valid, width, rotary ? rotary + uint64_t(key) * (width / 2) : nullptr);
            for (int i = threadIdx.x; i < F32_KEYS * width; i += F32_THREADS)
                values[i] = i / width < valid ? v[(key + i / width) * stride + i % width] : 0.0f;
            __syncthreads();
            float s[EACH][EACH] = {}, shrink[EACH];
            for (int d = 0; d < width; d++) {
                float a[EACH];
                load(a, queries + d * STRIDE + y * EACH);
#pragma unroll
                for (int j = 0; j < EACH; j++) {
                    const float b = keys[d * STRIDE + x + j * SIDE];
#pragma unroll
                    for (int i = 0; i < EACH; i++) s[i][j] = fmaf(a[i], b, s[i][j]);
                }
            }
#pragma unroll
            for (int i = 0; i < EACH; i++) {
                float most = -INFINITY;
#pragma unroll
                for (int j = 0; j < EACH; j++) {
                    const int column = x + j * SIDE, apart = row + y * EACH + i - (key + column);
                    s[i][j] = column < valid ? fmaf(-slope, fabsf(float(apart)), s[i][j] * p.scale) : -INFINITY;
                    most = fmaxf(most, s[i][j]);
                }
                most = fmaxf(top[i], across(most, [](float a, float b) { return fmaxf(a, b); }));
                shrink[i] = expf(top[i] - most);
                top[i] = most;
                float part = 0;
#pragma unroll
                for (int j = 0; j < EACH; j++) {
                    s[i][j] = expf(s[i][j] - most);
                    part += s[i][j];
                    weights[(x + j * SIDE) * STRIDE + y * EACH + i] = s[i][j];
                }
                sum[i] = fmaf(sum[i], shrink[i], across(part, [](float a, float b) { return a + b; }));
            }
            __syncthreads();
            float part[EACH][WIDEST] = {};
            for (int j = 0; j < valid; j++) {
                float a[EACH];
                load(a, weights + j * STRIDE + y * EACH);
#pragma unroll
                for (int n = 0; n < WIDEST; n++) {
                    if (x + n * SIDE >= width) continue;
                    const float b = values[j * width + x + n * SIDE];
#pragma unroll
                    for (int i = 0; i < EACH; i++) part[i][n] = fmaf(a[i], b, part[i][n]);
                }
            }
#pragma unroll
            for (int i = 0; i < EACH; i++)
#pragma unroll
                for (int n = 0; n < WIDEST; n++) o[i][n] = fmaf(o[i][n], shrink[i], part[i][n]);
        }
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const int r = row + y * EACH + i;
            if (r >= last) continue;
#pragma unroll
            for (int n = 0; n < WIDEST; n++)
                if (x + n * SIDE < width) out[r * row_stride + x + n * SIDE] = o[i][n] / sum[i];
        }
    }
}

KERNEL(attention_f32, AttentionParams, F32_THREADS, attention_plain)
