// What a case of the runner is made of: inputs, a launch, and of the results no more than that they are the same under
// every schedule and no NaN; what they are, other tests look at.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "tensor_map.h"

struct Memory {
    // Allocations of exactly so many elements, so that AddressSanitizer knows their ends; freed with the case.
    //
    // Numbers of about -1 to 1, in f32, f16 or bf16; integers.
    uint64_t f32(size_t count);
    uint64_t f16(size_t count);
    uint64_t u32(const std::vector<uint32_t> &values);
    // NaN. What a launch makes of it must be the same under every schedule.
    uint64_t output(size_t count_of_bytes);
    // And there must be no NaN left in it.
    uint64_t output_f16(size_t count);
    uint64_t output_f32(size_t count);

    struct Output {
        unsigned char *values;
        size_t bytes, element; // element: 0 where NaN may be
        std::vector<unsigned char> first;
    };
    std::vector<void *> all;
    std::vector<Output> outputs;
    uint32_t state = 1;
    Memory() = default;
    Memory(const Memory &) = delete;
    ~Memory();
    float next();
};

// The map that the simulated driver would write, of a dense matrix of 16-bit elements.
void encode(void *map, uint64_t matrix, uint32_t columns, uint32_t rows, uint32_t box_columns, uint32_t box_rows,
            uint32_t swizzle);
// Writes the map of a matrix of 16-bit elements whose rows are those of sequences: `TensorMap::packed` in
// src/gpu/driver/tensor_map.rs.
void encode_packed(void *map, uint64_t matrix, uint32_t columns, uint32_t rows, uint32_t blocks, uint32_t box_columns,
                   uint32_t box_rows, uint32_t box_blocks);

struct Shape {
    uint32_t grid[3], block[3], shared;
};

// Runs all blocks under several schedules. False, and a line that says why, where there is no such kernel, one fails,
// or the results are wrong in a way that can be seen here.
bool launch(Memory &memory, const char *kernel, const Shape &shape, const void *params);

struct Case {
    const char *name;
    bool (*run)(Memory &);
};
extern const Case CASES[];
extern const int CASE_COUNT;
