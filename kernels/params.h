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

#ifdef __cplusplus
#define PARAMS_ALIGN(bytes) alignas(bytes)
#else
#define PARAMS_ALIGN(bytes) _Alignas(bytes)
#endif

// A CUtensorMap, opaque.
typedef struct TensorMap {
    PARAMS_ALIGN(64) uint64_t opaque[16];
} TensorMap;
PARAMS_SIZE(TensorMap, 128);

// Kernels `cast_FROM_TO`: to[i] = from[i] for i < count.
typedef struct CastParams {
    uint64_t from;
    uint64_t to;
    uint64_t count;
} CastParams;
PARAMS_SIZE(CastParams, 24);

// Kernel `add`: to[i] += from[i] for i < count.
typedef struct AddParams {
    uint64_t from; // f32 [count], aligned to 16 bytes
    uint64_t to;   // f32 [count], aligned to 16 bytes
    uint64_t count;
} AddParams;
PARAMS_SIZE(AddParams, 24);

// Kernels `layer_norm_TO`: rows of f32 [rows, width] to [rows, width], in one pass to two places.
typedef struct LayerNormParams {
    uint64_t from;   // f32 [rows, width]
    uint64_t gain;   // f32 [width]
    uint64_t bias;   // f32 [width]
    uint64_t to;     // TO [rows, width]; 0: not written
    uint64_t stream; // f32 [rows, width], may be `from` itself; 0: not written
    uint32_t rows;
    uint32_t width;
    float epsilon;
    uint32_t padding;
} LayerNormParams;
PARAMS_SIZE(LayerNormParams, 56);

// Kernel `embed`: to[t] = (table[tokens[t]] + shift) * scale[t], the f32 residual stream
// [tokens, width].
typedef struct EmbedParams {
    uint64_t table;  // f32 [vocabulary, width]
    uint64_t tokens; // u32 [tokens], each below `vocabulary`
    uint64_t scale;  // f32 [tokens]; 0 for ESM-2's masks
    uint64_t shift;  // f32 [width]: what is added to every row; 0: nothing
    uint64_t to;
    uint32_t count;  // tokens
    uint32_t width;
    uint32_t vocabulary;
    uint32_t padding;
} EmbedParams;
PARAMS_SIZE(EmbedParams, 56);

// Kernels `gelu_T`: values[i] = gelu(values[i]) for i < count, in place.
typedef struct GeluParams {
    uint64_t values; // T [count], aligned to 16 bytes
    uint64_t count;
} GeluParams;
PARAMS_SIZE(GeluParams, 16);

// Kernels `gated_gelu_T`: to[r, i] = gelu(from[r, i]) * from[r, width + i].
typedef struct GatedGeluParams {
    uint64_t from; // T [rows, 2 * width]
    uint64_t to;   // T [rows, width]
    uint32_t rows;
    uint32_t width;
} GatedGeluParams;
PARAMS_SIZE(GatedGeluParams, 24);

// Kernel `rotary_table`: table[p, i] = (cos, sin) of p * inv_freq[i].
typedef struct RotaryTableParams {
    uint64_t inv_freq; // f32 [half]
    uint64_t table;    // f32 [positions, half, 2]
    uint32_t positions;
    uint32_t half;     // head_dim / 2
} RotaryTableParams;
PARAMS_SIZE(RotaryTableParams, 24);

// A task of the kernels `attention_*`, for every head: queries `row` to `row + rows` of a sequence,
// which meet all its keys.
typedef struct AttentionItem {
    uint32_t first;  // the sequence's first token in the batch
    uint32_t length; // its tokens
    uint32_t row;    // first query, counted from the sequence's first token
    uint32_t rows;   // queries, at least 1; row + rows <= length
} AttentionItem;
PARAMS_SIZE(AttentionItem, 16);

// A quarter of a task of the kernels `attention_*_short`, which take 4 of these: 16 queries of a
// sequence of at most 64 tokens. The slots of a sequence stand together, in order, in one task.
typedef struct AttentionSlot {
    uint32_t first;  // the sequence's first token in the batch
    uint16_t length; // its tokens; 0: the slot is empty
    uint16_t piece;  // these are its queries 16 * piece to 16 * piece + 15
} AttentionSlot;
PARAMS_SIZE(AttentionSlot, 8);

// Kernels `attention_*`: softmax(q k^T * head_dim^-0.5 + position) v within each sequence.
typedef struct AttentionParams {
    uint64_t qkv;    // T [tokens, 3 * heads * head_dim]: q, k, v; aligned to 16 bytes
    uint64_t out;    // T [tokens, heads * head_dim], aligned to 16 bytes
    uint64_t items;  // AttentionItem [items], or AttentionSlot [items, 4]
    uint64_t rotary; // f32 [positions, head_dim / 2, 2], `rotary_table`'s; 0: q and k are not rotated
    uint64_t slopes; // f32 [heads]: -slope * |i - j| is added to the scores; 0: nothing is
    uint32_t heads;
    uint32_t head_dim;
    float scale;     // of the scores: head_dim^-0.5
    uint32_t count;  // items: the blocks of `attention90_*` take one after the other until there is none
} AttentionParams;
PARAMS_SIZE(AttentionParams, 56);

// Kernels `attention90_T_D_tensor`: the same by tensor copies. Keys are not rotated; queries are, if `rotary` says so.
typedef struct AttentionTensorParams {
    TensorMap qkv; // of `attention.qkv`: attention90_tensor.cuh
    AttentionParams attention;
    uint64_t padding;
} AttentionTensorParams;
PARAMS_SIZE(AttentionTensorParams, 192);

// Kernels `represent` or `represent_f32` and, after it, `represent_means`: the stream through the final LayerNorm, and
// the mean over a range of rows of each sequence.
typedef struct RepresentParams {
    uint64_t from;    // f32 [rows, width]
    uint64_t gain;    // f32 [width]; 0: no LayerNorm, and `bias` is not read
    uint64_t bias;    // f32 [width]
    uint64_t starts;  // u32 [sequences + 1]: the rows of each sequence, from 0 on
    uint64_t ranges;  // u32 [sequences, 2]: first row and end row in the batch, inside the sequence
    uint64_t pooled;  // f32 [sequences, width]: means, NaN of an empty range; 0: not wanted
    uint64_t states;  // f32, or f16 if `half`, [rows, width]: every row, pooled or not; 0: not wanted
    uint64_t bad;     // u32 [sequences]: 1 where a state of the range is not finite, else 0
    uint64_t sums;    // f64 [rows / 32 + 1, width]: what the first kernel leaves to the second
    uint64_t beyond;  // if `half`, u64 [rows]: the first state of each row that is finite and beyond the range of f16, as
                      // its column << 32 | its bits in f32; all bits are set if there is none
    uint32_t sequences;
    uint32_t width;
    float epsilon;
    uint32_t half;    // 0 or 1
} RepresentParams;
PARAMS_SIZE(RepresentParams, 96);

// Kernel `gemm_short`: to = from * weight^T + bias, or that added onto `to`, in f32.
typedef struct GemmShortParams {
    uint64_t from;    // f32 [rows, depth], aligned to 16 bytes
    uint64_t weight;  // f32 [outputs, depth], aligned to 16 bytes
    uint64_t bias;    // f32 [outputs]; 0: none
    uint64_t to;      // f32 [rows, outputs]
    uint32_t rows;
    uint32_t outputs;
    uint32_t depth;
    uint32_t add;     // 0 or 1
} GemmShortParams;
PARAMS_SIZE(GemmShortParams, 48);

// Kernels `gemm_gelu_T` and `gemm_gelu_gated_T`. The boxes of the maps, and the launch: `gemm_gelu.cu`.
typedef struct GemmGeluParams {
    TensorMap from;   // T [rows, depth]
    TensorMap weight; // T [width, depth]; gated [2 width, depth], the gates first
    TensorMap to;     // T [rows, width]
    uint64_t bias;    // T, one per row of `weight`, aligned to 4; 0: none
    uint32_t rows;
    uint32_t width;   // a multiple of 8
    uint32_t depth;   // a multiple of 8
    uint32_t band;    // tiles one above the other that are worked on at a time, at least 1
    uint64_t padding[5];
} GemmGeluParams;
PARAMS_SIZE(GemmGeluParams, 448);

// Kernels `gemm_gelu_T_reference`, both forms.
typedef struct GemmGeluReferenceParams {
    uint64_t from;
    uint64_t weight;
    uint64_t bias;
    uint64_t to;
    uint32_t rows;
    uint32_t width;
    uint32_t depth;
    uint32_t gated;   // 0 or 1
} GemmGeluReferenceParams;
PARAMS_SIZE(GemmGeluReferenceParams, 48);

// Kernels `gemm_qkv_T_D`. The boxes of the maps, and the launch: `gemm_qkv.cu`.
typedef struct GemmQkvParams {
    TensorMap from;     // T [rows, depth]
    TensorMap weight;   // T [width, depth]: queries, keys and values, `width` / 3 rows each
    TensorMap to;       // T [rows, width]
    uint64_t bias;      // T, one per row of `weight`, aligned to 4; 0: none
    uint64_t positions; // u32 [rows]: of each row in its sequence
    uint64_t rotary;    // f32 [positions, D / 2, 2], `rotary_table`'s; 0: nothing is rotated
    uint32_t rows;
    uint32_t width;     // 3 * heads * D
    uint32_t depth;     // a multiple of 8
    uint32_t band;      // tiles one above the other that are worked on at a time, at least 1
    uint64_t padding[3];
} GemmQkvParams;
PARAMS_SIZE(GemmQkvParams, 448);

// Kernels `gemm_qkv_T_reference`.
typedef struct GemmQkvReferenceParams {
    uint64_t from;
    uint64_t weight;
    uint64_t bias;
    uint64_t positions;
    uint64_t rotary;
    uint64_t to;
    uint32_t rows;
    uint32_t width;
    uint32_t depth;
    uint32_t head_dim;
} GemmQkvReferenceParams;
PARAMS_SIZE(GemmQkvReferenceParams, 64);

#endif
