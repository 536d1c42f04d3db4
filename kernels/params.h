// The arguments of every kernel: one struct each, the same file for device and host.
//
// Plain C with fixed-width types. Addresses on the device are uint64_t, so that the layout is the
// same wherever it is compiled; padding is written out, and the sizes are checked on both sides.
// The Rust side, `src/backend/cuda/params.rs`, is written by `scripts/bindings`: run it after a change.
#ifndef SEQSTREAM_PARAMS_H
#define SEQSTREAM_PARAMS_H

#include <stdint.h>

#ifdef __cplusplus
#define PARAMS_SIZE(type, bytes) static_assert(sizeof(type) == (bytes), #type " is not " #bytes " bytes")
#else
#define PARAMS_SIZE(type, bytes) _Static_assert(sizeof(type) == (bytes), #type " is not " #bytes " bytes")
#endif

// Kernels `cast_FROM_TO`: to[i] = from[i] for i < count.
typedef struct CastParams {
    uint64_t from;
    uint64_t to;
    uint64_t count;
} CastParams;
PARAMS_SIZE(CastParams, 24);

// Kernels `layer_norm_TO`: rows of f32 [rows, width] to [rows, width].
typedef struct LayerNormParams {
    uint64_t from;
    uint64_t gain;   // f32 [width]
    uint64_t bias;   // f32 [width]
    uint64_t to;
    uint32_t rows;
    uint32_t width;
    float epsilon;
    uint32_t padding;
} LayerNormParams;
PARAMS_SIZE(LayerNormParams, 48);

// Kernels `embed_FROM`: rows of a table [vocabulary, width] to the f32 residual stream
// [tokens, width], each times the scale of its sequence.
typedef struct EmbedParams {
    uint64_t table;
    uint64_t tokens;     // u32 [tokens], each below `vocabulary`
    uint64_t sequences;  // u32 [tokens]: the sequence a token belongs to
    uint64_t scales;     // f32 [sequences]
    uint64_t to;
    uint32_t count;      // tokens
    uint32_t width;
    uint32_t vocabulary;
    uint32_t mask_token; // embeds as zero where below `vocabulary`: ESM-2's token dropout
} EmbedParams;
PARAMS_SIZE(EmbedParams, 56);

#endif
