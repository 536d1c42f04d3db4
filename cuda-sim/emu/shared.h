// Shared memory: its location, its contents when a block begins, and the addresses that belong to
// it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "block.h"

namespace emu {

// Prepares shared memory for a block. All bytes are then 0xFF: NaN in every format, and not a valid
// index.
bool begin_shared(const StaticShared &variables, uint32_t dynamic_bytes);
// Checks whether the kernel wrote past the end.
void end_shared();

// Returns the address on a device: dynamic shared memory begins at 0, and the variables follow.
// Fails if the `bytes` from there on do not all lie in one of these two areas, or if the address is
// not aligned.
uint32_t shared_address(const char *what, const void *address, size_t bytes, size_t alignment);
// The inverse of `shared_address`.
unsigned char *shared_pointer(const char *what, uint32_t address, size_t bytes);

// Asks the driver's check whether a kernel may access this global memory, and fails if it may not.
void check_global(const char *what, const void *address, size_t bytes, size_t alignment, bool write);

} // namespace emu
