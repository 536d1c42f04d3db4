// Token embedding: to[t] = table[tokens[t]] * scales[sequences[t]], and 0 for the mask token.
//
// ESM-2 in training zeroes masked tokens and scales the rest by (1 - 0.12) / (1 - share of masks);
// the host knows each sequence's share, so the scale comes as an argument. DNABERT has neither: a
// scale of 1 and a mask token past the vocabulary.
//
// Shapes: table [vocabulary, width] in f32, f16 or bf16; to f32 [tokens, width]. Grid: a block of any
// size a token. Bound by bytes: writes the residual stream; the table stays in L2.
// A token past the vocabulary, which the host never sends, gives NaN and not another's row.
#include "kernel.cuh"
#include "number.cuh"
#include "params.h"

template <typename From> __device__ void embed(const EmbedParams &p) {
    const uint32_t t = blockIdx.x;
    const uint32_t token = reinterpret_cast<const uint32_t *>(p.tokens)[t];
    const uint32_t sequence = reinterpret_cast<const uint32_t *>(p.sequences)[t];
    const float scale = reinterpret_cast<const float *>(p.scales)[sequence];
    const From *row = reinterpret_cast<const From *>(p.table) + uint64_t(token) * p.width;
    float *to = reinterpret_cast<float *>(p.to) + uint64_t(t) * p.width;
    for (uint32_t i = threadIdx.x; i < p.width; i += blockDim.x) {
        if (token >= p.vocabulary)
            to[i] = __int_as_float(0x7fc00000);
        else
            to[i] = token == p.mask_token ? 0.0f : to_f32(row[i]) * scale;
    }
}

#define EMBED(from, From) KERNEL(embed_##from, EmbedParams, 1024, embed<From>)

EMBED(f32, float)
EMBED(f16, __half)
EMBED(bf16, __nv_bfloat16)
