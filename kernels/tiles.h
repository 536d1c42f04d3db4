// The tiles of the attention kernels: every choice in one table, with its reason.
//
// Plain constants, for device and host; `src/backend/cuda/attention.rs` has the same numbers, and a
// test compares them.
#ifndef SEQSTREAM_TILES_H
#define SEQSTREAM_TILES_H

struct AttentionTile {
    int head_dim;  // columns in shared memory and in registers
    int row_tiles; // of 16 queries, a warp: with 2, what is read of a key or a value serves two products
    int warps;
    int keys;      // a tile of keys, and of values
    int stages;    // tiles in shared memory at once; a sequence of no more than that stays there
    bool held;     // the queries stay in registers
};

// Shared memory of an SM is 227 KiB at the most (sm_90; 163 on sm_80, 99 on sm_89), its registers 64 Ki.
constexpr AttentionTile ATTENTION_TILES[] = {
    // 2 x 16 queries a warp halve the traffic of ldmatrix, which bounds a warp of 16: a tile of keys and values (16 KiB
    // with heads of 64, and in proportion) at 128 bytes a cycle takes longer than its products.
    {16, 2, 4, 64, 4, true},
    {24, 2, 4, 64, 4, true},
    {32, 2, 4, 64, 4, true},
    // 64 KiB, about 200 registers: two blocks an SM, three of whose stages hold 192 tokens.
    {64, 2, 4, 64, 3, true},
    // O alone takes 96 or 128 registers of 255: half as many keys at a time, and the queries are read
    // again from shared memory.
    {96, 2, 4, 32, 3, false},
    {128, 2, 4, 32, 3, false},
};

constexpr AttentionTile attention_tile(int head_dim) {
    for (const AttentionTile &tile : ATTENTION_TILES)
        if (tile.head_dim == head_dim) return tile;
    return {0, 0, 0, 0, 0, false};
}
// The tile of a head_dim, for device code.
template <int D> constexpr AttentionTile ATTENTION_TILE = attention_tile(D);

// Sequences of at most SHORT_TOKENS share blocks of SHORT_SLOTS warps, with a slot of 16 queries a warp:
// a tile of 128 rows would be half empty.
constexpr int SHORT_SLOTS = 4;
constexpr int SHORT_TOKENS = 16 * SHORT_SLOTS;
// But rotated heads of 64 on Hopper, of more than so many: attention90's producers rotate while others compute. On an
// H200, 20 heads, f16, some 33,800 tokens, short kernel and attention90, in us: 204 and 328 at length 20, 218 and 195 at
// 35, 194 and 145 at 51, 179 and 127 at 64; by ALiBi, 12 heads, 82 and 84 at 51.
constexpr int HOPPER_SHORT_TOKENS = 32;

// The kernels for Hopper with heads of 64: one block an SM, of a producing warpgroup and consuming ones of 64 queries.
// Two, three and four of those reached 188, 213 and 232 TFLOP/s at length 350 on an H100; for five, and for two blocks,
// there are not the registers: of 96 a thread at the start, 640 times, the two kinds may have these.
constexpr int HOPPER_CONSUMERS = 4;
constexpr int HOPPER_PRODUCER_REGISTERS = 32;
constexpr int HOPPER_CONSUMER_REGISTERS = 112;
// Tiles of 64 keys and 64 values, 16 KiB a stage: 176 KiB. Three tiles' angles take 48 more.
constexpr int HOPPER_KEYS = 64;
constexpr int HOPPER_STAGES = 11;
constexpr int HOPPER_AHEAD = 2; // tiles under way while one is rotated
// A sequence of at most so many stays in the ring for all its queries. More would not do: the producer waits for the
// stage of a next tile while HOPPER_AHEAD tiles are not yet rotated.
constexpr int HOPPER_WHOLE = (HOPPER_STAGES - HOPPER_AHEAD) * HOPPER_KEYS;

// Keys of longer sequences are rotated where they lie, by rotate_keys.cu, before attention90_tensor.cuh has them: each 256
// queries would have them rotated anew.
constexpr int HOPPER_ROTATES = 896;

// The kernels for Hopper with heads of other widths (attention90_heads.cuh).
struct HopperTile {
    int head_dim;
    int consumers; // warpgroups of 64 queries; one more produces
    int keys;      // a tile of keys, and of values
    int stages;    // tiles in shared memory at once; a sequence of no more than that stays there
    int consumer_registers;
    int producer_registers;
    int rotates; // longer sequences have rotate_keys.cu and attention90_tensor.cuh; 0: none has
};

// Registers: 65536 divided by the threads, rounded down to a multiple of 8, is what a thread has at the start; all
// warpgroups together may have no more later. Shared memory: at most 227 KiB, 18 KiB of which the angles take.
constexpr HopperTile HOPPER_TILES[] = {
    // The exponentials bound these: the more warps, the less often all of a scheduler's wait at once.
    {16, 5, 64, 20, 88, 40, 0},
    {24, 5, 64, 20, 88, 40, 0},
    {32, 5, 64, 20, 88, 40, 0},
    // Queries and sums alone take 96 registers. 32 KiB a stage.
    {128, 3, 64, 6, 160, 32, 384},
};

constexpr HopperTile hopper_tile(int head_dim) {
    for (const HopperTile &tile : HOPPER_TILES)
        if (tile.head_dim == head_dim) return tile;
    return {0, 0, 0, 0, 0, 0, 0};
}
// The kernels for Hopper by tensor copies (attention90_tensor.cuh): where keys are not to be rotated, or have been.
struct TensorTile {
    int head_dim;
    int consumers; // warpgroups of 64 queries; one more produces
    int stages;    // tiles of TENSOR_ROWS keys, and of values
    int split;     // 1: keys and values have barriers of their own
    int consumer_registers;
    int producer_registers;
};

// As above. Nothing has to stay in the ring: what a copy of keys costs is a few instructions of one warp, and the bytes
// come from L2. So an item has no more queries than one pass takes.
constexpr TensorTile TENSOR_TILES[] = {
    // With 16 and 24 columns there is room for one consumer more, since the producer computes nothing: on an H200, at
    // length 350, 132 instead of 118 TFLOP/s, and 176 instead of 163. With 32 columns its sums do not find registers.
    {16, 6, 24, 0, 80, 24},
    {24, 6, 20, 0, 80, 24},
    {32, 5, 20, 0, 88, 40},
    {64, 4, 10, 1, 112, 32},
    {128, 3, 5, 1, 160, 32},
};
constexpr int TENSOR_ROWS = 64; // of a tile of queries, keys or values: what a tensor copy brings

constexpr TensorTile tensor_tile(int head_dim) {
    for (const TensorTile &tile : TENSOR_TILES)
        if (tile.head_dim == head_dim) return tile;
    return {0, 0, 0, 0, 0, 0};
}
// Columns of a row in shared memory: what wgmma reads has rows of 32, 64 or 128 bytes.
constexpr int hopper_columns(int head_dim) {
    return head_dim <= 16 ? 16 : head_dim <= 32 ? 32 : (head_dim + 63) / 64 * 64;
}
// Dynamic shared memory: the ring, three angles of 16 bytes for each producing thread and tile under way, the barriers.
constexpr int hopper_shared_bytes(const HopperTile &tile) {
    return tile.stages * 2 * tile.keys * hopper_columns(tile.head_dim) * 2 + (HOPPER_AHEAD + 1) * 3 * 128 * 16 +
           tile.stages * 2 * 8;
}

// The ring, a tile of queries for each consumer, the barriers.
constexpr int tensor_shared_bytes(const TensorTile &tile) {
    return (tile.stages * 2 + tile.consumers) * TENSOR_ROWS * hopper_columns(tile.head_dim) * 2 +
           (tile.stages * 4 + tile.consumers * 2) * 8;
}

// The blocks of rotate_keys.cu that share the keys of a sequence.
constexpr int ROTATE_BLOCKS = 32;

// The f32 kernel: 64 queries by 64 keys, a thread 4 by 4 of the scores.
constexpr int F32_ROWS = 64;
constexpr int F32_KEYS = 64;
constexpr int F32_THREADS = 128;

#endif
