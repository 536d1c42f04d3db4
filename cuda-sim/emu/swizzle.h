// The swizzle of a shared address: the number of the 16-byte unit within a span of 128, 64 or 32
// bytes is XORed with the number of the 128-byte line.
#pragma once

#include <cstdint>

namespace emu {

inline uint32_t swizzled(uint32_t address, uint32_t span) {
    return span ? address ^ ((address >> 7) & (span / 16 - 1)) << 4 : address;
}

} // namespace emu
