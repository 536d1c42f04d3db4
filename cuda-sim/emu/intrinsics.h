// CUDA's mathematical and integer intrinsics.
//
// Approximate functions are exact here, except where the wrappers of `ptx.cuh` document a
// deviation: a kernel's tolerance must hold on the device anyway.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "vector_types.h"

// glibc declares these names itself, some of them only in newer versions.
#define rsqrtf(x) (1.0f / sqrtf(x))
#define __expf(x) expf(x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __exp10f(x) exp10f(x)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)
#define __sincosf(x, sine, cosine) sincosf(x, sine, cosine)

static inline float __fdividef(float a, float b) { return a / b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __frcp_rn(float a) { return 1.0f / a; }
static inline float __frsqrt_rn(float a) { return float(1.0 / sqrt(double(a))); }
static inline float __fsqrt_rn(float a) { return sqrtf(a); }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline double __dadd_rn(double a, double b) { return a + b; }
static inline double __dmul_rn(double a, double b) { return a * b; }
static inline float __saturatef(float a) { return a > 0 ? (a < 1 ? a : 1.0f) : 0.0f; }

namespace emu {
template <typename To, typename From> inline To bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "bits are moved, none made");
    To to;
    memcpy(&to, &from, sizeof(to));
    return to;
}
} // namespace emu

static inline float __uint_as_float(unsigned x) { return emu::bits<float>(x); }
static inline float __int_as_float(int x) { return emu::bits<float>(x); }
static inline unsigned __float_as_uint(float x) { return emu::bits<unsigned>(x); }
static inline int __float_as_int(float x) { return emu::bits<int>(x); }
static inline double __longlong_as_double(long long x) { return emu::bits<double>(x); }
static inline long long __double_as_longlong(double x) { return emu::bits<long long>(x); }

static inline int __float2int_rn(float x) { return int(nearbyintf(x)); }
static inline int __float2int_rd(float x) { return int(floorf(x)); }
static inline int __float2int_rz(float x) { return int(x); }
static inline float __int2float_rn(int x) { return float(x); }
static inline float __uint2float_rn(unsigned x) { return float(x); }

static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
static inline unsigned __brev(unsigned x) {
    unsigned reversed = 0;
    for (int bit = 0; bit < 32; bit++) reversed |= (x >> bit & 1) << (31 - bit);
    return reversed;
}
static inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned((uint64_t(a) * b) >> 32); }
static inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    return unsigned((uint64_t(high) << 32 | low) >> (shift & 31));
}
static inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
    const uint64_t both = uint64_t(y) << 32 | x;
    unsigned result = 0;
    for (int i = 0; i < 4; i++) {
        const unsigned nibble = selector >> (4 * i);
        unsigned byte = unsigned(both >> (8 * (nibble & 7))) & 0xff;
        if (nibble & 8) byte = byte & 0x80 ? 0xff : 0;
        result |= byte << (8 * i);
    }
    return result;
}

#define EMU_MIN_MAX(A, B, R)                                                                                  \
    static inline R min(A a, B b) { return (R)a < (R)b ? (R)a : (R)b; }                                       \
    static inline R max(A a, B b) { return (R)a > (R)b ? (R)a : (R)b; }
EMU_MIN_MAX(int, int, int)
EMU_MIN_MAX(unsigned, unsigned, unsigned)
EMU_MIN_MAX(int, unsigned, unsigned)
EMU_MIN_MAX(unsigned, int, unsigned)
EMU_MIN_MAX(long, long, long)
EMU_MIN_MAX(unsigned long, unsigned long, unsigned long)
EMU_MIN_MAX(long long, long long, long long)
EMU_MIN_MAX(unsigned long long, unsigned long long, unsigned long long)
#undef EMU_MIN_MAX
static inline float min(float a, float b) { return fminf(a, b); }
static inline float max(float a, float b) { return fmaxf(a, b); }
static inline double min(double a, double b) { return fmin(a, b); }
static inline double max(double a, double b) { return fmax(a, b); }

// Loads and stores with a chosen caching policy.
template <typename T> inline T __ldg(const T *from) { return *from; }
template <typename T> inline T __ldcg(const T *from) { return *from; }
template <typename T> inline T __ldcs(const T *from) { return *from; }
template <typename T> inline T __ldca(const T *from) { return *from; }
template <typename T> inline void __stcg(T *to, T value) { *to = value; }
template <typename T> inline void __stcs(T *to, T value) { *to = value; }

// Atomics. The fibers run on one host thread, so nothing can interrupt them.
template <typename T> inline T atomicAdd(T *to, T value) {
    T old, sum;
    __atomic_load(to, &old, __ATOMIC_RELAXED);
    do sum = old + value;
    while (!__atomic_compare_exchange(to, &old, &sum, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return old;
}
template <typename T> inline T atomicMax(T *to, T value) {
    T old;
    __atomic_load(to, &old, __ATOMIC_RELAXED);
    while (old < value && !__atomic_compare_exchange(to, &old, &value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
    return old;
}
template <typename T> inline T atomicMin(T *to, T value) {
    T old;
    __atomic_load(to, &old, __ATOMIC_RELAXED);
    while (value < old && !__atomic_compare_exchange(to, &old, &value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
    return old;
}
template <typename T> inline T atomicExch(T *to, T value) {
    T old;
    __atomic_exchange(to, &value, &old, __ATOMIC_RELAXED);
    return old;
}
template <typename T> inline T atomicCAS(T *to, T compare, T value) {
    __atomic_compare_exchange(to, &compare, &value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    return compare;
}
