// The types of cuda_fp16.h and cuda_bf16.h, which differ only in names and conversions.
#pragma once

#include "number_formats.h"
#include "vector_types.h"

#define EMU_HALF(T, T2, to_bits, from_bits)                                                                   \
    struct T {                                                                                                \
        uint16_t raw;                                                                                         \
        T() = default;                                                                                        \
        T(float x) : raw(emu::to_bits(x)) {}                                                                  \
        explicit operator float() const { return emu::from_bits(raw); }                                       \
    };                                                                                                        \
    struct __attribute__((aligned(4))) T2 {                                                                   \
        T x, y;                                                                                               \
    };                                                                                                        \
    static inline T operator+(T a, T b) { return T(float(a) + float(b)); }                                    \
    static inline T operator-(T a, T b) { return T(float(a) - float(b)); }                                    \
    static inline T operator*(T a, T b) { return T(float(a) * float(b)); }                                    \
    static inline T operator/(T a, T b) { return T(float(a) / float(b)); }                                    \
    static inline T operator-(T a) { return T(-float(a)); }                                                   \
    static inline bool operator<(T a, T b) { return float(a) < float(b); }                                    \
    static inline bool operator>(T a, T b) { return float(a) > float(b); }                                    \
    static inline T __hadd(T a, T b) { return a + b; }                                                        \
    static inline T __hsub(T a, T b) { return a - b; }                                                        \
    static inline T __hmul(T a, T b) { return a * b; }                                                        \
    static inline T2 __hadd2(T2 a, T2 b) { return {a.x + b.x, a.y + b.y}; }                                   \
    static inline T2 __hsub2(T2 a, T2 b) { return {a.x - b.x, a.y - b.y}; }                                   \
    static inline T2 __hmul2(T2 a, T2 b) { return {a.x * b.x, a.y * b.y}; }
