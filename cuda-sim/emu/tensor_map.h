// The 128 opaque bytes that the simulated driver's cuTensorMapEncodeTiled writes. Its side is
// `../src/driver_api/tensor_map.rs`.
#pragma once

#include <cstdint>

namespace emu {

struct TensorMap {
    static constexpr uint32_t MAGIC = 0x70616d74;
    static constexpr int MAX_RANK = 5;
    uint32_t magic;
    uint8_t rank;
    uint8_t element_bytes;
    uint8_t swizzle; // 0, or a span of 32, 64 or 128 bytes
    uint8_t padding;
    uint64_t address;
    uint64_t strides[MAX_RANK]; // in bytes; for the innermost dimension, the size of an element
    uint32_t dims[MAX_RANK];    // innermost first
    uint16_t box[MAX_RANK];
    uint8_t unused[42];
};
static_assert(sizeof(TensorMap) == 128, "a CUtensorMap has 128 bytes");

} // namespace emu
