// A substitute for the driver's header, with the one type of it that kernels use.
#pragma once

#include <cstdint>

// 128 opaque bytes; `tensor_map.h` describes their contents in the emulator.
struct __attribute__((aligned(64))) CUtensorMap {
    uint64_t opaque[16];
};
