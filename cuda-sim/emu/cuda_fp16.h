// A substitute for CUDA's header of this name.
#pragma once

#include "half_type.h"

EMU_HALF(__half, __half2, f32_to_f16, f16_to_f32)
typedef __half half;
typedef __half2 half2;

static inline float __half2float(__half x) { return float(x); }
static inline __half __float2half(float x) { return __half(x); }
static inline __half __float2half_rn(float x) { return __half(x); }
static inline __half2 __float2half2_rn(float x) { return {__half(x), __half(x)}; }
static inline __half2 __floats2half2_rn(float x, float y) { return {__half(x), __half(y)}; }
static inline __half2 __float22half2_rn(float2 v) { return {__half(v.x), __half(v.y)}; }
static inline __half2 __halves2half2(__half x, __half y) { return {x, y}; }
static inline __half __low2half(__half2 v) { return v.x; }
static inline __half __high2half(__half2 v) { return v.y; }
static inline float __low2float(__half2 v) { return float(v.x); }
static inline float __high2float(__half2 v) { return float(v.y); }
static inline float2 __half22float2(__half2 v) { return {float(v.x), float(v.y)}; }
static inline unsigned short __half_as_ushort(__half x) { return x.raw; }
static inline __half __ushort_as_half(unsigned short bits) {
    __half x;
    x.raw = bits;
    return x;
}
