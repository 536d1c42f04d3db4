// Stands in for the driver's header: the one type that kernels take from it.
#pragma once

#include <cstdint>

// 128 opaque bytes; what they hold here, `tensor_map.h` says.
struct __attribute__((aligned(64))) CUtensorMap {
    uint64_t opaque[16];
};
