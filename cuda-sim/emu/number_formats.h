// f16 and bf16 by integer arithmetic. Conversions work as in cvt.rn: to nearest, ties to even, NaN
// to 0x7fff.
#pragma once

#include <cstdint>
#include <cstring>

namespace emu {

inline float float_of_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}
inline uint32_t bits_of_float(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return bits;
}

inline float bf16_to_f32(uint16_t x) { return float_of_bits(uint32_t(x) << 16); }

inline uint16_t f32_to_bf16(float x) {
    const uint32_t bits = bits_of_float(x);
    if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fff;
    return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline float f16_to_f32(uint16_t x) {
    const uint32_t sign = uint32_t(x & 0x8000) << 16, magnitude = x & 0x7fff;
    if (magnitude >= 0x7c00) return float_of_bits(sign | 0x7f800000 | (magnitude & 0x3ff) << 13);
    // The exponent's bias is 15 in f16 and 127 in f32. The product also makes a subnormal number
    // normal.
    const float value = float_of_bits(magnitude << 13) * 0x1p112f;
    return float_of_bits(sign | bits_of_float(value));
}

inline uint16_t f32_to_f16(float x) {
    const uint32_t bits = bits_of_float(x), magnitude = bits & 0x7fffffff;
    const uint16_t sign = uint16_t(bits >> 16 & 0x8000);
    if (magnitude > 0x7f800000) return 0x7fff;
    if (magnitude >= 0x477ff000) return sign | 0x7c00; // from 65520 on, halfway to 2^16
    if (magnitude < 0x38800000) {
        // Below 2^-14: a multiple of 2^-24. The last bit of 0.5 is 2^-24, so the sum is rounded to
        // such a multiple.
        const float rounded = float_of_bits(magnitude) + 0.5f;
        return sign | uint16_t(bits_of_float(rounded) - 0x3f000000);
    }
    const uint32_t rebiased = magnitude - (112u << 23);
    return sign | uint16_t((rebiased + 0xfff + (rebiased >> 13 & 1)) >> 13);
}

} // namespace emu
