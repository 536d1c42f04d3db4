// Products of small matrices, for mma and wgmma.
#pragma once

#include <cstdint>

#include "number_formats.h"

namespace emu {

inline float to_f32(uint16_t bits, bool bf16) { return bf16 ? bf16_to_f32(bits) : f16_to_f32(bits); }

// Unpacks the two elements of a register; the second goes `stride` floats after the first.
inline void unpack(uint32_t pair, bool bf16, float *to, int stride) {
    to[0] = to_f32(uint16_t(pair), bf16);
    to[stride] = to_f32(uint16_t(pair >> 16), bf16);
}

// Computes d [m, n] += a [m, k] * b [k, n]. It rounds at every step; how a device rounds within one
// product is not documented.
inline void multiply(float *d, const float *a, const float *b, int m, int n, int k) {
    for (int row = 0; row < m; row++)
        for (int i = 0; i < k; i++) {
            const float factor = a[row * k + i];
            for (int column = 0; column < n; column++) d[row * n + column] += factor * b[i * n + column];
        }
}

} // namespace emu
