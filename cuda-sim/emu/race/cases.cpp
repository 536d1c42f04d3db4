// The cases: a new kernel gets a function here and a line in the table. (And its file a place in the list of
// `../../tests/sanitizers.rs`.)

#include "case.h"

#include "params.h"
#include "launch.h"

// As `../../tests/kernels/planted.cu` has it.
struct PlantedParams {
    alignas(64) uint64_t map[16];
    uint64_t from, to;
    uint32_t bug, count;
};

static bool planted(Memory &memory, const char *kernel, uint32_t bug, const Shape &shape, size_t words) {
    PlantedParams p = {};
    p.from = memory.f32(words);
    p.to = memory.output(words * 4);
    p.bug = bug;
    p.count = uint32_t(words);
    return launch(memory, kernel, shape, &p);
}
static const Shape REVERSE = {{3, 1, 1}, {256, 1, 1}, 1024}, COPY = {{1, 1, 1}, {192, 1, 1}, 192 * 16};

static bool reverse(Memory &memory) { return planted(memory, "planted_reverse", 0, REVERSE, 768); }
static bool reverse_without_barrier(Memory &memory) { return planted(memory, "planted_reverse", 1, REVERSE, 768); }
static bool reverse_too_much(Memory &memory) { return planted(memory, "planted_reverse", 0, REVERSE, 767); }
static bool reverse_past_shared(Memory &memory) { return planted(memory, "planted_reverse", 2, REVERSE, 768); }
static bool copy(Memory &memory) { return planted(memory, "planted_copy", 0, COPY, 768); }
static bool copy_without_barrier(Memory &memory) { return planted(memory, "planted_copy", 2, COPY, 768); }
static bool copy_too_much(Memory &memory) { return planted(memory, "planted_copy", 4, COPY, 768); }

// As `../../../kernels/conformance.cu` has it.
struct ConformanceParams {
    alignas(64) uint64_t maps[2][16];
    uint64_t from, from2, from3, to;
    uint32_t n[8];
};

static bool pipeline(Memory &memory) {
    constexpr uint32_t K = 200;
    ConformanceParams p = {};
    encode(p.maps[0], memory.f16(64 * K), K, 64, 64, 64, 128);
    encode(p.maps[1], memory.f16(K * 128), 128, K, 64, 64, 128);
    p.to = memory.output(64 * 128 * 4);
    p.n[0] = (K + 63) / 64;
    return launch(memory, "conformance_pipeline", {{1, 1, 1}, {160, 1, 1}, 2 * 24 * 1024}, &p);
}

static bool ring(Memory &memory) {
    ConformanceParams p = {};
    p.to = memory.output(64 * 4);
    p.n[0] = 20;
    return launch(memory, "conformance_mbarrier", {{1, 1, 1}, {128, 1, 1}, 0}, &p);
}

static bool layer_norm(Memory &memory, const char *kernel, uint32_t width, bool f32 = false) {
    constexpr uint32_t ROWS = 9;
    LayerNormParams p = {};
    p.from = memory.f32(ROWS * width);
    p.gain = memory.f32(width);
    p.bias = memory.f32(width);
    p.to = f32 ? memory.output_f32(ROWS * width) : memory.output_f16(ROWS * width);
    p.rows = ROWS;
    p.width = width;
    p.epsilon = 1e-5f;
    return launch(memory, kernel, {{3, 1, 1}, {LOOP_THREADS, 1, 1}, 0}, &p);
}
static bool layer_norm_narrow(Memory &memory) { return layer_norm(memory, "layer_norm_f16", 320); }
static bool layer_norm_wide(Memory &memory) { return layer_norm(memory, "layer_norm_f32", 5120, true); }
static bool layer_norm_odd(Memory &memory) { return layer_norm(memory, "layer_norm_f32", 77, true); }

// Sequences that a block does alone, and one whose sums another kernel would add up.
static bool represent(Memory &memory, uint32_t width, const char *kernel = "represent", bool half = false) {
    constexpr uint32_t ROWS = 5 + 64 + 70;
    RepresentParams p = {};
    p.from = memory.f32(ROWS * width);
    p.gain = memory.f32(width);
    p.bias = memory.f32(width);
    p.starts = memory.u32({0, 5, 69, ROWS});
    p.ranges = memory.u32({1, 4, 5, 69, 70, ROWS - 1});
    p.pooled = memory.output(3 * width * 4);
    if (half) { // and every row has states beyond the range of f16
        p.gain = memory.u32(std::vector<uint32_t>(width, 0x49742400)); // 1e6
        p.states = memory.output(ROWS * width * 2);
        p.beyond = memory.output(ROWS * 8);
        p.half = 1;
    } else
        p.states = memory.output_f32(ROWS * width);
    p.bad = memory.output(3 * 4);
    p.sums = memory.output((ROWS / 32 + 1) * width * 8);
    p.sequences = 3;
    p.width = width;
    p.epsilon = 1e-5f;
    return launch(memory, kernel, {{ROWS / REPRESENT_ROWS + 3, 1, 1}, {LOOP_THREADS, 1, 1}, 0}, &p);
}
// A warp a row; several warps a row; rows that do not fit into registers.
static bool represent_narrow(Memory &memory) { return represent(memory, 320); }
static bool represent_wide(Memory &memory) { return represent(memory, 1280); }
static bool represent_odd(Memory &memory) { return represent(memory, 77); }
static bool represent_f32(Memory &memory) { return represent(memory, 1280, "represent_f32"); }
static bool represent_half(Memory &memory) { return represent(memory, 320, "represent", true); }
static bool represent_half_odd(Memory &memory) { return represent(memory, 77, "represent", true); }

// One head of these sequences, in items of at most `rows` queries or in slots of 16.
struct Attention {
    const char *kernel;
    uint32_t head_dim, threads, shared;
    bool f32;
    uint32_t rows = 256;
    uint32_t columns = 0; // of the kernels by tensor copies: TensorTile
};
static bool attention(Memory &memory, const Attention &of, const std::vector<uint32_t> &lengths, uint32_t grid,
                      bool slots = false) {
    std::vector<uint32_t> items;
    uint32_t first = 0, longest = 0;
    for (uint32_t length : lengths) {
        if (slots)
            for (uint32_t piece = 0; piece * 16 < length; piece++) items.insert(items.end(), {first, length | piece << 16});
        else
            for (uint32_t row = 0; row < length; row += of.rows)
                items.insert(items.end(), {first, length, row, length - row < of.rows ? length - row : of.rows});
        first += length;
        longest = longest > length ? longest : length;
    }
    const size_t values = size_t(first) * of.head_dim;
    AttentionParams p = {};
    p.qkv = of.f32 ? memory.f32(3 * values) : memory.f16(3 * values);
    p.out = of.f32 ? memory.output_f32(values) : memory.output_f16(values);
    p.items = memory.u32(items);
    p.rotary = memory.f32(longest * of.head_dim);
    p.heads = 1;
    p.head_dim = of.head_dim;
    p.scale = 0.125f;
    p.count = uint32_t(items.size() / (slots ? 8 : 4));
    const Shape shape = {{grid, 1, 1}, {of.threads, 1, 1}, of.shared};
    if (of.columns == 0) return launch(memory, of.kernel, shape, &p);
    AttentionTensorParams tensor = {};
    const uint32_t columns = of.head_dim < 64 ? of.head_dim : 64, box_columns = of.columns < 64 ? of.columns : 64;
    encode_packed(tensor.qkv.opaque, p.qkv, columns, first, 3 * of.head_dim / columns, box_columns, TENSOR_ROWS,
                  of.columns / box_columns);
    tensor.attention = p;
    return launch(memory, of.kernel, shape, &tensor);
}
// One item, whose keys the block rotates; and several, whose keys have been rotated before.
static bool attention_item(Memory &memory) {
    constexpr AttentionTile TILE = attention_tile(64);
    return attention(memory, {"attention_f16_64", 64, 32 * TILE.warps, TILE.shared_bytes, false, 128}, {120}, 1);
}
static bool attention_items(Memory &memory) {
    constexpr AttentionTile TILE = attention_tile(64);
    return attention(memory, {"attention_f16_64_ready", 64, 32 * TILE.warps, TILE.shared_bytes, false, 128}, {230}, 2);
}
// Queries that are read again and again, and rotated keys that go round the ring.
static bool attention_wide(Memory &memory) {
    constexpr AttentionTile TILE = attention_tile(128);
    return attention(memory, {"attention_f16_128", 128, 32 * TILE.warps, TILE.shared_bytes, false, 128}, {110}, 1);
}
// More stages than two.
static bool attention_narrow(Memory &memory) {
    constexpr AttentionTile TILE = attention_tile(16);
    return attention(memory, {"attention_f16_16_ready", 16, 32 * TILE.warps, TILE.shared_bytes, false, 128}, {290}, 3);
}
static bool attention_short(Memory &memory) {
    constexpr uint32_t SHARED = 3 * ATTENTION_SHORT_TOKENS * 64 * 2;
    return attention(memory, {"attention_f16_64_short", 64, ATTENTION_SHORT_THREADS, SHARED, false}, {40, 9}, 1, true);
}
static bool attention_plain(Memory &memory) {
    constexpr uint32_t D = 24, STRIDE = ATTENTION_F32_PITCH;
    constexpr uint32_t SHARED = (2 * D * STRIDE + ATTENTION_F32_KEYS * 32 + ATTENTION_F32_KEYS * STRIDE) * 4;
    return attention(memory, {"attention_f32_32", D, ATTENTION_F32_THREADS, SHARED, true}, {130}, 1);
}
// A block that has several items; more tiles than the ring has stages, also in an item of few queries, where three of
// the four consumers have nothing to do.
static bool attention_hopper(Memory &memory) {
    return attention(memory, {"attention90_f16_64", 64, HOPPER_THREADS, HOPPER_SHARED_BYTES, false}, {30, 790}, 1);
}

static Attention hopper(const char *kernel, const HopperTile &tile, uint32_t rows) {
    return {kernel, tile.head_dim, 128 * (1 + tile.consumers), tile.shared_bytes, false, rows};
}
// A sequence that fills the whole ring, and stays for two passes.
static bool attention_hopper_whole(Memory &memory) {
    constexpr HopperTile TILE = hopper_tile(128);
    const uint32_t whole = TILE.stages * TILE.keys;
    return attention(memory, hopper("attention90_f16_128", TILE, whole), {whole}, 1);
}
// A sequence that goes round the ring, in items of as many queries as one pass takes.
static bool attention_hopper_long(Memory &memory) {
    constexpr HopperTile TILE = hopper_tile(128);
    const uint32_t whole = TILE.stages * TILE.keys, rows = 64 * TILE.consumers;
    return attention(memory, hopper("attention90_f16_128", TILE, rows), {70, whole + 20}, 1);
}
// Two sequences in the ring, the end of the second one round it; pairs of columns that two lanes have.
static bool attention_hopper_narrow(Memory &memory) {
    constexpr HopperTile TILE = hopper_tile(24);
    return attention(memory, hopper("attention90_f16_24", TILE, 1024), {680, 650}, 1);
}
// Items of more tiles than the ring has stages, and of fewer queries than there are consumers; queries that are rotated.
static Attention by_tensor_copies(const char *kernel, const TensorTile &tile) {
    return {kernel, tile.head_dim, 128 * (1 + tile.consumers), tile.shared_bytes, false, 64 * tile.consumers, tile.columns};
}
static bool attention_tensor(Memory &memory) {
    return attention(memory, by_tensor_copies("attention90_f16_128_tensor", tensor_tile(128)), {70, 20, 1000}, 1);
}
static bool attention_tensor_narrow(Memory &memory) {
    return attention(memory, by_tensor_copies("attention90_f16_24_tensor", tensor_tile(24)), {1290, 65}, 1);
}
// Where the keys lie: every schedule turns them further.
static bool rotate_keys(Memory &memory) {
    constexpr uint32_t LENGTH = 390, D = 128, HEADS = 2;
    AttentionParams p = {};
    p.qkv = memory.f16(3 * HEADS * D * LENGTH);
    p.items = memory.u32({0, LENGTH, 0, 192, 0, LENGTH, 192, LENGTH - 192});
    p.rotary = memory.f32(LENGTH * D);
    p.heads = HEADS;
    p.head_dim = D;
    p.count = 2;
    return launch(memory, "rotate_keys_f16_128", {{2 * ROTATE_BLOCKS, 1, 1}, {LOOP_THREADS, 1, 1}, 0}, &p);
}

// More steps than the ring has stages, and two tiles or more for each consumer. The columns of
// `weight` are those of the result, or twice as many if the product is gated.
static bool gemm_gelu_of(Memory &memory, const char *kernel, uint32_t width, uint32_t halves) {
    constexpr uint32_t ROWS = 140, DEPTH = 456;
    const uint32_t columns = 64 / halves; // that a copy stores
    GemmGeluParams p = {};
    encode(p.from.opaque, memory.f16(ROWS * DEPTH), DEPTH, ROWS, 64, 128, 128);
    encode(p.weight.opaque, memory.f16(halves * width * DEPTH), DEPTH, halves * width, 64, 96, 128);
    encode(p.to.opaque, memory.output_f16(ROWS * width), width, ROWS, columns, 64, 2 * columns);
    p.bias = memory.f16(halves * width);
    p.rows = ROWS;
    p.width = width;
    p.depth = DEPTH;
    p.band = 2;
    return launch(memory, kernel, {{1, 1, 1}, {GEMM90_THREADS, 1, 1}, GEMM_GELU_SHARED_BYTES}, &p);
}
static bool gemm_gelu(Memory &memory) { return gemm_gelu_of(memory, "gemm_gelu_f16", 264, 1); }
static bool gemm_gelu_gated(Memory &memory) { return gemm_gelu_of(memory, "gemm_gelu_gated_f16", 200, 2); }

// More steps than the ring has stages, two tiles or more for each consumer, and a tile of queries,
// keys and values.
static bool gemm_qkv_of(Memory &memory, const char *kernel, uint32_t heads, uint32_t head_dim) {
    constexpr uint32_t ROWS = 140, DEPTH = 328;
    const uint32_t width = 3 * heads * head_dim, apart = head_dim == 128;
    GemmQkvParams p = {};
    encode(p.from.opaque, memory.f16(ROWS * DEPTH), DEPTH, ROWS, 64, 128, 128);
    encode(p.weight.opaque, memory.f16(width * DEPTH), DEPTH, width, 64, apart ? 32 : 96, 128);
    encode(p.to.opaque, memory.output_f16(ROWS * width), width, ROWS, apart ? 32 : 64, 64, apart ? 64 : 128);
    std::vector<uint32_t> positions;
    for (uint32_t i = 0; i < ROWS; i++) positions.push_back(i % 7);
    p.bias = memory.f16(width);
    p.positions = memory.u32(positions);
    p.rotary = memory.f32(7 * head_dim);
    p.rows = ROWS;
    p.width = width;
    p.depth = DEPTH;
    p.band = 2;
    return launch(memory, kernel, {{1, 1, 1}, {GEMM90_THREADS, 1, 1}, GEMM_QKV_SHARED_BYTES}, &p);
}
static bool gemm_qkv_16(Memory &memory) { return gemm_qkv_of(memory, "gemm_qkv_f16_16", 6, 16); }
static bool gemm_qkv_64(Memory &memory) { return gemm_qkv_of(memory, "gemm_qkv_f16_64", 2, 64); }
static bool gemm_qkv_128(Memory &memory) { return gemm_qkv_of(memory, "gemm_qkv_f16_128", 1, 128); }

// Three steps, the last one short, and blocks at the edges.
static bool gemm_short(Memory &memory) {
    constexpr uint32_t ROWS = 70, OUTPUTS = 67, DEPTH = 78;
    GemmShortParams p = {};
    p.from = memory.f32(ROWS * DEPTH);
    p.weight = memory.f32(OUTPUTS * DEPTH);
    p.bias = memory.f32(OUTPUTS);
    p.to = memory.output_f32(ROWS * OUTPUTS);
    p.rows = ROWS;
    p.outputs = OUTPUTS;
    p.depth = DEPTH;
    return launch(memory, "gemm_short", {{2, 2, 1}, {GEMM_SHORT_THREADS, 1, 1}, 0}, &p);
}

const Case CASES[] = {
    {"attention_item", attention_item},
    {"attention_items", attention_items},
    {"attention_wide", attention_wide},
    {"attention_narrow", attention_narrow},
    {"attention_short", attention_short},
    {"attention_plain", attention_plain},
    {"attention_hopper", attention_hopper},
    {"attention_hopper_whole", attention_hopper_whole},
    {"attention_hopper_long", attention_hopper_long},
    {"attention_hopper_narrow", attention_hopper_narrow},
    {"attention_tensor", attention_tensor},
    {"attention_tensor_narrow", attention_tensor_narrow},
    {"rotate_keys", rotate_keys},
    {"gemm_gelu", gemm_gelu},
    {"gemm_gelu_gated", gemm_gelu_gated},
    {"gemm_qkv_16", gemm_qkv_16},
    {"gemm_qkv_64", gemm_qkv_64},
    {"gemm_qkv_128", gemm_qkv_128},
    {"gemm_short", gemm_short},
    {"reverse", reverse},
    {"reverse_without_barrier", reverse_without_barrier},
    {"reverse_too_much", reverse_too_much},
    {"reverse_past_shared", reverse_past_shared},
    {"copy", copy},
    {"copy_without_barrier", copy_without_barrier},
    {"copy_too_much", copy_too_much},
    {"pipeline", pipeline},
    {"ring", ring},
    {"layer_norm_narrow", layer_norm_narrow},
    {"layer_norm_wide", layer_norm_wide},
    {"layer_norm_odd", layer_norm_odd},
    {"represent_narrow", represent_narrow},
    {"represent_wide", represent_wide},
    {"represent_odd", represent_odd},
    {"represent_f32", represent_f32},
    {"represent_half", represent_half},
    {"represent_half_odd", represent_half_odd},
};
const int CASE_COUNT = sizeof CASES / sizeof CASES[0];
