// CUDA's vector types, with their alignments.
#pragma once

#include <cstdint>

struct uint3 {
    unsigned x, y, z;
};

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

#define EMU_VECTORS(T, name, align2, align4)                                                                  \
    struct name##1 {                                                                                          \
        T x;                                                                                                  \
    };                                                                                                        \
    struct __attribute__((aligned(align2))) name##2 {                                                         \
        T x, y;                                                                                               \
    };                                                                                                        \
    struct __attribute__((aligned(align4))) name##4 {                                                         \
        T x, y, z, w;                                                                                         \
    };                                                                                                        \
    static inline name##2 make_##name##2(T x, T y) { return {x, y}; }                                         \
    static inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }

EMU_VECTORS(signed char, char, 2, 4)
EMU_VECTORS(unsigned char, uchar, 2, 4)
EMU_VECTORS(short, short, 4, 8)
EMU_VECTORS(unsigned short, ushort, 4, 8)
EMU_VECTORS(int, int, 8, 16)
EMU_VECTORS(unsigned, uint, 8, 16)
EMU_VECTORS(float, float, 8, 16)
EMU_VECTORS(double, double, 16, 16)
EMU_VECTORS(long long, longlong, 16, 16)
EMU_VECTORS(unsigned long long, ulonglong, 16, 16)
#undef EMU_VECTORS

struct float3 {
    float x, y, z;
};
static inline float3 make_float3(float x, float y, float z) { return {x, y, z}; }
