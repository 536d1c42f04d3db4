// Computes: the token embedding, to[t] = (table[tokens[t]] + shift) * scale[t]. ESM-2 zeroes masked
// tokens in training and scales the others by (1 - 0.12) / (1 - fraction of masks); the host knows
// this fraction, and gives masked tokens a scale of 0. DNABERT's shift is the embedding of its one
// token type. A token past the vocabulary, which the host never sends, gives NaN instead of the row
// of another token.
//
// Shapes: table f32 [vocabulary, width], which every job keeps in f32; scale f32 [tokens]; shift
// f32 [width] or none; to f32 [tokens, width].
//
// Launch: any number of blocks of 256 threads. A warp takes every (warps of the grid)-th token.
//
// Bound and measured: bound by bytes, since it writes the residual stream while the table stays in
// L2. On an H200, in 650M and 3B, it reaches 83 % of the 4.2 TB/s at which that GPU copies.
#include "../common/kernel.cuh"
#include "../launch.h"
#include "../params.h"
#include "../common/vector.cuh"

template <int N> __device__ __forceinline__ void embed_row(const EmbedParams &p, uint32_t t, int lane) {
    const uint32_t token = at<uint32_t>(p.tokens)[t];
    const float scale = at<float>(p.scale)[t];
    const float *shift = at<float>(p.shift);
    float *to = at<float>(p.to) + uint64_t(t) * p.width;
    const bool known = token < p.vocabulary;
    const float *row = at<const float>(p.table) + uint64_t(known ? token : 0) * p.width;
    for (uint32_t i = lane * N; i < p.width; i += 32 * N) {
        float x[N], add[N] = {};
        load(x, row + i);
        if (shift) load(add, shift + i);
#pragma unroll
        for (int k = 0; k < N; k++) x[k] = known ? (x[k] + add[k]) * scale : __int_as_float(0x7fc00000);
        store(to + i, x);
    }
}

__device__ void embed_rows(const EmbedParams &p) {
    const int lane = threadIdx.x % 32;
    const uint32_t warps = gridDim.x * (blockDim.x / 32);
    for (uint32_t t = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32; t < p.count; t += warps) {
        if (p.width % 4 == 0)
            embed_row<4>(p, t, lane);
        else
            embed_row<1>(p, t, lane);
    }
}

// The plain reference: one thread per element.
__device__ void embed_plainly(const EmbedParams &p) {
    const uint64_t threads = uint64_t(gridDim.x) * blockDim.x, count = uint64_t(p.count) * p.width;
    for (uint64_t i = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += threads) {
        const uint64_t t = i / p.width, column = i % p.width;
        const uint32_t token = at<uint32_t>(p.tokens)[t];
        float x = __int_as_float(0x7fc00000);
        if (token < p.vocabulary) x = at<float>(p.table)[uint64_t(token) * p.width + column];
        if (p.shift) x += at<float>(p.shift)[column];
        at<float>(p.to)[i] = x * at<float>(p.scale)[t];
    }
}

KERNEL(embed, EmbedParams, LOOP_THREADS, embed_rows)
KERNEL(embed_reference, EmbedParams, LOOP_THREADS, embed_plainly)
