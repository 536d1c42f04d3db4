// The interface by which the simulated driver finds an emulated kernel and runs a block of it. The
// Rust side is `../src/kernel.rs`.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {

// Runs one block. Returns 0, or an error code of the driver with a sentence in `message`.
typedef int (*EmuRunBlock)(const void *params, const uint32_t *grid, const uint32_t *block,
                           const uint32_t *block_index, uint32_t dynamic_shared, uint64_t seed, char *message,
                           size_t message_size);

struct EmuKernel {
    const char *name;
    uint32_t params_size;
    uint32_t static_shared; // 0: ptxas checks whether it fits beside dynamic shared memory
    EmuRunBlock run_block;
};

// Returns null if no kernel has that name.
const EmuKernel *emu_find_kernel(const char *name);
// Iterates over all kernels: null gives the first kernel, and the last kernel gives null.
const EmuKernel *emu_next_kernel(const EmuKernel *after);

// Called before each access to global memory that the emulator itself makes; a result other than 0
// forbids the access.
typedef int (*EmuMemoryCheck)(const void *address, size_t bytes, int write);
void emu_set_memory_check(EmuMemoryCheck check);

// Returns the protected address ranges on both sides of dynamic shared memory: start and end,
// twice.
void emu_shared_guards(uintptr_t guards[4]);
}

namespace emu {

// The static shared memory of one kernel file.
struct StaticShared {
    unsigned char *start, *stop;
};

struct Body {
    void (*run)(const void *params);
    unsigned max_threads; // the launch bounds
    StaticShared shared;
};

int run_block(const Body &body, const void *params, const uint32_t *grid, const uint32_t *block,
              const uint32_t *block_index, uint32_t dynamic_shared, uint64_t seed, char *message, size_t message_size);

struct Registered {
    EmuKernel kernel;
    const Registered *next;
};
// `entry` must live as long as the program.
int register_kernel(Registered &entry);

} // namespace emu

// Registers a kernel. The build's wrapper of each kernel file defines EMU_SHARED_START and
// EMU_SHARED_STOP. (A registered object must have a non-zero initial value: everything else counts
// as shared memory.)
#define EMU_KERNEL(kernel, Params, threads, ...)                                                              \
    static void emu_body_##kernel(const void *params) {                                                       \
        (__VA_ARGS__)(*static_cast<const Params *>(params));                                                  \
    }                                                                                                         \
    static int emu_block_##kernel(const void *params, const uint32_t *grid, const uint32_t *block,            \
                                  const uint32_t *index, uint32_t dynamic_shared, uint64_t seed,              \
                                  char *message, size_t message_size) {                                       \
        const emu::Body body = {emu_body_##kernel, threads, {EMU_SHARED_START, EMU_SHARED_STOP}};             \
        return emu::run_block(body, params, grid, block, index, dynamic_shared, seed, message, message_size); \
    }                                                                                                         \
    static emu::Registered emu_entry_##kernel = {{#kernel, sizeof(Params), 0, emu_block_##kernel}, nullptr};  \
    __attribute__((constructor)) static void emu_register_##kernel() { emu::register_kernel(emu_entry_##kernel); }
