// Runs kernels under a sanitizer, outside of the simulated driver: runner CASE...; without a case it lists them.
// Ends with 1 where one could not be run; a sanitizer ends it with its own code.

#include "case.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "number_formats.h"
#include "registry.h"

Memory::~Memory() {
    for (void *one : all) free(one);
}
float Memory::next() {
    state = state * 1664525 + 1013904223;
    return float(int32_t(state)) / 2147483648.0f;
}

// The emulator calls memcpy and its like on behalf of a CUDA thread, and on its own: it says itself which is which.
extern "C" const char *__tsan_default_options() { return "ignore_interceptors_accesses=1:history_size=4"; }
// What a kernel that failed leaves on its stacks is lost.
extern "C" const char *__asan_default_options() { return "detect_leaks=0"; }

// Aligned as the driver aligns, and with the end where the sanitizer looks for it.
static unsigned char *exact(Memory &memory, size_t count) {
    void *address = nullptr;
    if (posix_memalign(&address, 256, count ? count : 1)) abort();
    memory.all.push_back(address);
    return static_cast<unsigned char *>(address);
}
uint64_t Memory::f32(size_t count) {
    auto *values = reinterpret_cast<float *>(exact(*this, count * 4));
    for (size_t i = 0; i < count; i++) values[i] = next();
    return reinterpret_cast<uint64_t>(values);
}
uint64_t Memory::f16(size_t count) {
    auto *values = reinterpret_cast<uint16_t *>(exact(*this, count * 2));
    for (size_t i = 0; i < count; i++) values[i] = emu::f32_to_f16(next());
    return reinterpret_cast<uint64_t>(values);
}
uint64_t Memory::u32(const std::vector<uint32_t> &numbers) {
    auto *values = exact(*this, numbers.size() * 4);
    memcpy(values, numbers.data(), numbers.size() * 4);
    return reinterpret_cast<uint64_t>(values);
}
static uint64_t poisoned(Memory &memory, size_t count, size_t element) {
    auto *values = exact(memory, count);
    memset(values, 0xff, count);
    memory.outputs.push_back({values, count, element, {}});
    return reinterpret_cast<uint64_t>(values);
}
uint64_t Memory::output(size_t count) { return poisoned(*this, count, 0); }
uint64_t Memory::output_f16(size_t count) { return poisoned(*this, count * 2, 2); }
uint64_t Memory::output_f32(size_t count) { return poisoned(*this, count * 4, 4); }

static bool is_nan(const unsigned char *value, size_t element) {
    uint32_t bits = 0;
    memcpy(&bits, value, element);
    return element == 2 ? (bits & 0x7fff) > 0x7c00 : (bits & 0x7fffffff) > 0x7f800000;
}

// Looks at the results of a schedule, and poisons them again.
static bool good(Memory &memory, const char *kernel, uint64_t seed) {
    for (Memory::Output &output : memory.outputs) {
        for (size_t i = 0; output.element && i < output.bytes; i += output.element)
            if (is_nan(output.values + i, output.element)) {
                printf("%s, seed %d: element %zu is NaN\n", kernel, int(seed), i / output.element);
                return false;
            }
        const std::vector<unsigned char> results(output.values, output.values + output.bytes);
        if (output.first.empty()) output.first = results;
        if (results != output.first) {
            printf("%s, seed %d: other results than under the first schedule\n", kernel, int(seed));
            return false;
        }
        memset(output.values, 0xff, output.bytes);
    }
    return true;
}

void encode(void *map, uint64_t matrix, uint32_t columns, uint32_t rows, uint32_t box_columns, uint32_t box_rows,
            uint32_t swizzle) {
    emu::TensorMap encoded = {};
    encoded.magic = emu::TensorMap::MAGIC;
    encoded.rank = 2;
    encoded.element_bytes = 2;
    encoded.swizzle = uint8_t(swizzle);
    encoded.address = matrix;
    encoded.strides[0] = 2;
    encoded.strides[1] = columns * 2;
    encoded.dims[0] = columns;
    encoded.dims[1] = rows;
    encoded.box[0] = uint16_t(box_columns);
    encoded.box[1] = uint16_t(box_rows);
    memcpy(map, &encoded, sizeof encoded);
}

void encode_packed(void *map, uint64_t matrix, uint32_t columns, uint32_t rows, uint32_t blocks, uint32_t box_columns,
                   uint32_t box_rows, uint32_t box_blocks) {
    const uint32_t row_bytes = columns * blocks * 2;
    emu::TensorMap encoded = {};
    encoded.magic = emu::TensorMap::MAGIC;
    encoded.rank = 4;
    encoded.element_bytes = 2;
    encoded.swizzle = uint8_t(box_columns * 2);
    encoded.address = matrix - uint64_t(box_rows) * row_bytes;
    const uint32_t dims[] = {columns, box_rows, rows + 1, blocks}, strides[] = {2, row_bytes, row_bytes, columns * 2};
    const uint32_t box[] = {box_columns, box_rows, 1, box_blocks};
    for (int d = 0; d < 4; d++) {
        encoded.dims[d] = dims[d];
        encoded.strides[d] = strides[d];
        encoded.box[d] = uint16_t(box[d]);
    }
    memcpy(map, &encoded, sizeof encoded);
}

bool launch(Memory &memory, const char *name, const Shape &shape, const void *params) {
    const EmuKernel *kernel = emu_find_kernel(name);
    if (!kernel) {
        printf("there is no kernel %s\n", name);
        return false;
    }
    for (uint64_t seed = 0; seed < 4; seed++) {
        for (uint32_t z = 0; z < shape.grid[2]; z++)
            for (uint32_t y = 0; y < shape.grid[1]; y++)
                for (uint32_t x = 0; x < shape.grid[0]; x++) {
                    const uint32_t index[3] = {x, y, z};
                    char message[512];
                    const int code = kernel->run_block(params, shape.grid, shape.block, index, shape.shared,
                                                       seed * 7919 + x + 1000 * y, message, sizeof message);
                    if (code) {
                        printf("%s, block [%u, %u, %u]: %d: %s\n", name, x, y, z, code, message);
                        return false;
                    }
                }
        if (!good(memory, name, seed)) return false;
    }
    return true;
}

int main(int count, char **names) {
    if (count == 1)
        for (int i = 0; i < CASE_COUNT; i++) printf("%s\n", CASES[i].name);
    bool good = true;
    for (int n = 1; n < count; n++) {
        const Case *found = nullptr;
        for (int i = 0; i < CASE_COUNT; i++)
            if (strcmp(CASES[i].name, names[n]) == 0) found = &CASES[i];
        Memory memory;
        const bool ran = found && found->run(memory);
        printf("%s: %s\n", names[n], ran ? "ran" : "did not run");
        good = good && ran;
    }
    return good ? 0 : 1;
}
