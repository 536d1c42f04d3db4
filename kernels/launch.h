// The numbers of launches that host and device share: threads per block, tiles, shared memory. Each
// number and each choice stands here once, with its reason.
//
// Plain C. A number is a macro, and a table is a macro that lists its rows. The Rust side,
// `src/backend/cuda/launch.rs`, is written by `scripts/bindings`: run it after a change.
#ifndef SEQSTREAM_LAUNCH_H
#define SEQSTREAM_LAUNCH_H

#include <stdint.h>

// ---- Kernels of elements and rows: elementwise/, norm/ and attention/rotate_keys.cu.

// Threads per block.
#define LOOP_THREADS 256

// Rows of a sequence that a block of `represent` takes.
#define REPRESENT_ROWS 64
// Rows of the batch per slot of the sums that `represent` leaves to `represent_means`.
#define REPRESENT_SUM_ROWS 32
// Columns per block of `represent_means`, and threads per block.
#define REPRESENT_MEAN_COLUMNS 128

// ---- gemm_short

// Rows and columns of a block's tile.
#define GEMM_SHORT_TILE 64
// Threads per block.
#define GEMM_SHORT_THREADS 256

// ---- GEMMs for Hopper (gemm90.cuh), and gemm_gelu

// Warpgroups that multiply; one more loads.
#define GEMM90_CONSUMERS 2
#define GEMM90_THREADS (128 * (1 + GEMM90_CONSUMERS))
// Rows and columns of a tile of sums.
#define GEMM90_ROWS 128
#define GEMM90_COLUMNS 192
// Depth of a step: 128 bytes, the span of the swizzle, and so the width of the boxes of all maps.
#define GEMM90_STEP 64
// Steps in shared memory at once. Four hide the latency of the loads; a fifth one gained less than
// the memory for results did that it would take.
#define GEMM90_STAGES 4
// The results leave by slabs of this shape; those of the gated form have half the columns, and there
// are twice as many.
#define GEMM_GELU_SLAB_ROWS 64
#define GEMM_GELU_SLAB_COLUMNS 64
// Slabs per consumer: one is filled while the others leave.
#define GEMM_GELU_SLABS 3
// Bytes of the input's rows that the tiles of a band share. The tiles of a band are worked on
// together, so that the rows of both operands are still in L2 when they are read again.
#define GEMM_GELU_BAND_BYTES (10 << 20)
// Dynamic shared memory: the stages of both operands, the slabs, and the barriers: two per stage and
// one per consumer; for gemm_gelu also the biases of a tile per consumer.
#define GEMM90_SHARED_BYTES                                                  \
    (GEMM90_STAGES * (GEMM90_ROWS + GEMM90_COLUMNS) * GEMM90_STEP * 2 +         \
     GEMM90_CONSUMERS * GEMM_GELU_SLABS * GEMM_GELU_SLAB_ROWS * GEMM_GELU_SLAB_COLUMNS * 2 + \
     (2 * GEMM90_STAGES + GEMM90_CONSUMERS) * 8)
#define GEMM_GELU_SHARED_BYTES (GEMM90_SHARED_BYTES + GEMM90_CONSUMERS * GEMM90_COLUMNS * 2)

// ---- gemm_qkv

// Dynamic shared memory: its slabs take as much as those of gemm_gelu.
#define GEMM_QKV_SHARED_BYTES GEMM90_SHARED_BYTES

// ---- Attention by mma.sync

typedef struct AttentionTile {
    uint32_t head_dim;       // columns in shared memory and in registers
    uint32_t row_tiles;      // of 16 queries per warp: with 2, each key or value that is read serves two products
    uint32_t warps;
    uint32_t keys;           // keys per tile, and values
    uint32_t stages;         // tiles in shared memory at once
    uint32_t q_in_registers; // 0 or 1
    uint32_t blocks;         // per multiprocessor; the compiler makes the registers suffice
    uint32_t shared_bytes;   // dynamic shared memory: the warps' queries, and the stages
} AttentionTile;

// Shared memory of an SM is 227 KiB at the most (sm_90; 163 on sm_80, 99 on sm_86, sm_89 and
// sm_120), its registers are 64 Ki.
//
// - 2 x 16 queries per warp halve the traffic of ldmatrix: on an H200 they are up to 20 % faster than
//   16 queries in twice as many warps.
// - Heads of 16 and 24 fit into 168 registers, so there are three blocks per SM. With heads of 32 those
//   spill: on an H200, at length 350, 119 TFLOP/s instead of 135 with two.
// - Heads of 64: 48 KiB, about 254 registers: two blocks per SM on every card.
// - Heads of 96 and 128: O alone takes 96 or 128 registers of 255. So there are half as many keys at
//   a time, and the queries are read again from shared memory.
#define ATTENTION_TILES(TILE)              \
    TILE(16, 2, 4, 64, 4, 1, 3, 20480)     \
    TILE(24, 2, 4, 64, 4, 1, 3, 30720)     \
    TILE(32, 2, 4, 64, 4, 1, 2, 40960)     \
    TILE(64, 2, 4, 64, 2, 1, 2, 49152)     \
    TILE(96, 2, 4, 32, 2, 0, 2, 49152)     \
    TILE(128, 2, 4, 32, 2, 0, 2, 65536)

// Sequences of at most ATTENTION_SHORT_TOKENS share blocks of ATTENTION_SHORT_SLOTS warps, with a
// slot of 16 queries per warp: a tile of 128 rows would be half empty.
#define ATTENTION_SHORT_SLOTS 4
#define ATTENTION_SHORT_THREADS (32 * ATTENTION_SHORT_SLOTS)
#define ATTENTION_SHORT_TOKENS (16 * ATTENTION_SHORT_SLOTS)

// ---- Attention for Hopper

// Rotated heads of 64 on Hopper have the short kernel up to this length only: the producers of
// attention90 rotate while others compute. On an H200, 20 heads, f16, some 33,800 tokens, short
// kernel and attention90, in us: 204 and 328 at length 20, 218 and 195 at 35, 194 and 145 at 51, 179
// and 127 at 64; by ALiBi, 12 heads, 82 and 84 at 51.
#define HOPPER_SHORT_TOKENS 32

// Heads of 64 (attention90.cuh): one block per SM, of a producing warpgroup and consuming ones of 64
// queries. Two, three and four of those reached 188, 213 and 232 TFLOP/s at length 350 on an H100.
// For five, and for two blocks, there are not the registers: of 96 per thread at the start, 640
// times, the two kinds may have these.
#define HOPPER_HEAD_DIM 64
#define HOPPER_CONSUMERS 4
#define HOPPER_THREADS (128 * (1 + HOPPER_CONSUMERS))
#define HOPPER_PRODUCER_REGISTERS 32
#define HOPPER_CONSUMER_REGISTERS 112
// Tiles of 64 keys and 64 values, 16 KiB per stage: 176 KiB. Three tiles' angles take 48 more.
#define HOPPER_KEYS 64
#define HOPPER_STAGES 11
#define HOPPER_AHEAD 2 // tiles under way while one is rotated
// The longest sequence that stays in the ring for all its queries. More would not do: the producer
// waits for the stage of a next tile while HOPPER_AHEAD tiles are not yet rotated.
#define HOPPER_WHOLE ((HOPPER_STAGES - HOPPER_AHEAD) * HOPPER_KEYS)
// Dynamic shared memory: the ring, the barriers, and a cosine and a sine for two columns of each key
// of the tiles under way and of the tile that is rotated.
#define HOPPER_SHARED_BYTES                                                     \
    (HOPPER_STAGES * 2 * HOPPER_KEYS * HOPPER_HEAD_DIM * 2 + HOPPER_STAGES * 2 * 8 + \
     (HOPPER_AHEAD + 1) * HOPPER_KEYS * HOPPER_HEAD_DIM * 4)

// Keys of longer sequences are rotated where they lie, by rotate_keys.cu, before
// attention90_tensor.cuh reads them: otherwise every 256 queries would have them rotated again.
#define HOPPER_ROTATES 896

// Heads of other widths (attention90_heads.cuh).
typedef struct HopperTile {
    uint32_t head_dim;
    uint32_t consumers; // warpgroups of 64 queries; one more produces
    uint32_t keys;      // keys per tile, and values
    uint32_t stages;    // tiles in shared memory at once; a sequence that fits into them stays there
    uint32_t consumer_registers;
    uint32_t producer_registers;
    uint32_t rotates;      // longer sequences have rotate_keys.cu and attention90_tensor.cuh; 0: none has
    uint32_t shared_bytes; // dynamic shared memory, of which the angles take 18 KiB; at most 227 KiB
} HopperTile;

// Registers: 65536 divided by the threads, rounded down to a multiple of 8, is what a thread has at
// the start; all warpgroups together may have no more later.
//
// - Heads of 16 to 32: the exponentials bound these. The more warps there are, the less often all of
//   a scheduler's warps wait at once.
// - Heads of 128: queries and sums alone take 96 registers; a stage has 32 KiB.
#define HOPPER_TILES(TILE)                        \
    TILE(16, 5, 64, 20, 88, 40, 0, 100672)        \
    TILE(24, 5, 64, 20, 88, 40, 0, 182592)        \
    TILE(32, 5, 64, 20, 88, 40, 0, 182592)        \
    TILE(128, 3, 64, 6, 160, 32, 384, 215136)

// Attention by tensor copies (attention90_tensor.cuh): where keys are not to be rotated, or have
// been.
typedef struct TensorTile {
    uint32_t head_dim;
    uint32_t columns;   // of a row in shared memory: what wgmma reads has rows of 32, 64 or 128 bytes
    uint32_t consumers; // warpgroups of 64 queries; one more produces
    uint32_t stages;    // tiles of TENSOR_ROWS keys, and of values
    uint32_t split;     // 1: keys and values have barriers of their own
    uint32_t consumer_registers;
    uint32_t producer_registers;
    uint32_t shared_bytes; // dynamic shared memory: the stages, a tile of queries per consumer, the barriers
} TensorTile;

// Registers: as above. Nothing has to stay in the ring: what a copy of keys costs is a few
// instructions of one warp, and the bytes come from L2. So an item has no more queries than one pass
// takes.
//
// - Heads of 16 and 24: there is room for one consumer more, since the producer computes nothing: on
//   an H200, at length 350, 132 instead of 118 TFLOP/s, and 176 instead of 163.
// - Heads of 32: the sums of one more consumer do not find registers.
#define TENSOR_TILES(TILE)                        \
    TILE(16, 16, 6, 24, 0, 80, 24, 111088)        \
    TILE(24, 32, 6, 20, 0, 80, 24, 188848)        \
    TILE(32, 32, 5, 20, 0, 88, 40, 184736)        \
    TILE(64, 64, 4, 10, 1, 112, 32, 196992)       \
    TILE(128, 128, 3, 5, 1, 160, 32, 213200)

// Rows of a tile of queries, keys or values: what one tensor copy brings.
#define TENSOR_ROWS 64

// The blocks of rotate_keys.cu that share the keys of a sequence.
#define ROTATE_BLOCKS 32

// ---- Attention in f32: 64 queries by 64 keys, of whose scores a thread has 8 by 4.
#define ATTENTION_F32_ROWS 64
#define ATTENTION_F32_KEYS 64
#define ATTENTION_F32_THREADS 128
// Floats per row of the transposed tiles: one more vector, so that columns start at different banks.
#define ATTENTION_F32_PITCH (ATTENTION_F32_ROWS + 4)
// The widest heads that each of the kernels takes.
#define ATTENTION_F32_WIDTHS(WIDTH) WIDTH(16) WIDTH(32) WIDTH(64) WIDTH(96) WIDTH(128)

// The tables for device code.
#ifdef __cplusplus

#define LAUNCH_ROW(...) {__VA_ARGS__},
constexpr AttentionTile ATTENTION_TILE_ROWS[] = {ATTENTION_TILES(LAUNCH_ROW)};
constexpr HopperTile HOPPER_TILE_ROWS[] = {HOPPER_TILES(LAUNCH_ROW)};
constexpr TensorTile TENSOR_TILE_ROWS[] = {TENSOR_TILES(LAUNCH_ROW)};
#undef LAUNCH_ROW

// The tile of a head_dim; all zeros where there is none.
constexpr AttentionTile attention_tile(uint32_t head_dim) {
    for (const AttentionTile &tile : ATTENTION_TILE_ROWS)
        if (tile.head_dim == head_dim) return tile;
    return {};
}
constexpr HopperTile hopper_tile(uint32_t head_dim) {
    for (const HopperTile &tile : HOPPER_TILE_ROWS)
        if (tile.head_dim == head_dim) return tile;
    return {};
}
constexpr TensorTile tensor_tile(uint32_t head_dim) {
    for (const TensorTile &tile : TENSOR_TILE_ROWS)
        if (tile.head_dim == head_dim) return tile;
    return {};
}
// The tile of a head_dim that has one.
template <int D> constexpr AttentionTile ATTENTION_TILE = attention_tile(D);

#endif

#endif
