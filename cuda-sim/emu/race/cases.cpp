// The cases: a new kernel gets a function here and a line in the table. (And its file a place in the list of
// `../../tests/sanitizers.rs`.)

#include "case.h"

#include "params.h"

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
    return launch(kernel, shape, &p);
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
    return launch("conformance_pipeline", {{1, 1, 1}, {160, 1, 1}, 2 * 24 * 1024}, &p);
}

static bool ring(Memory &memory) {
    ConformanceParams p = {};
    p.to = memory.output(64 * 4);
    p.n[0] = 20;
    return launch("conformance_mbarrier", {{1, 1, 1}, {128, 1, 1}, 0}, &p);
}

static bool layer_norm(Memory &memory, const char *kernel, uint32_t width, size_t bytes) {
    constexpr uint32_t ROWS = 9;
    LayerNormParams p = {};
    p.from = memory.f32(ROWS * width);
    p.gain = memory.f32(width);
    p.bias = memory.f32(width);
    p.to = memory.output(ROWS * width * bytes);
    p.rows = ROWS;
    p.width = width;
    p.epsilon = 1e-5f;
    return launch(kernel, {{3, 1, 1}, {256, 1, 1}, 0}, &p);
}
static bool layer_norm_narrow(Memory &memory) { return layer_norm(memory, "layer_norm_f16", 320, 2); }
static bool layer_norm_wide(Memory &memory) { return layer_norm(memory, "layer_norm_f32", 5120, 4); }
static bool layer_norm_odd(Memory &memory) { return layer_norm(memory, "layer_norm_bf16", 77, 2); }

const Case CASES[] = {
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
};
const int CASE_COUNT = sizeof CASES / sizeof CASES[0];
