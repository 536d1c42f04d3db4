// Shared memory: where it lies, what it holds when a block begins, and which addresses are of it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "block.h"

namespace emu {

// All bytes are 0xFF then: NaN in every format, and no index.
bool begin_shared(const StaticShared &variables, uint32_t dynamic_bytes);
// Looks whether the kernel wrote behind the end.
void end_shared();

// The address that the device would have: dynamic shared memory from 0 on, then the variables.
// An error where `bytes` from there on are not all of one of them, or where they are not aligned.
uint32_t shared_address(const char *what, const void *address, size_t bytes, size_t alignment);
// The other way.
unsigned char *shared_pointer(const char *what, uint32_t address, size_t bytes);

// As the driver's check says whether a kernel may touch global memory; an error where it may not.
void check_global(const char *what, const void *address, size_t bytes, size_t alignment, bool write);

} // namespace emu
