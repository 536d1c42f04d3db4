// The emulated wrappers of `../../kernels/common/ptx.cuh`. That file documents what each wrapper does.
#pragma once

#include <cmath>
#include <cstdint>

#include "collectives.h"
#include "cuda_bf16.h"
#include "cuda_fp16.h"
#include "intrinsics.h"

namespace emu {

void cp_async16(void *shared, const void *global, bool valid);
void cp_async_commit();
void cp_async_wait(int groups);
// `registers`: the number of registers, each of which holds a matrix of 8x8.
void ldmatrix(uint32_t *to, int registers, bool transposed, const void *row);
void stmatrix(const uint32_t *from, int registers, bool transposed, void *row);
// Computes d += a * b, with k of 8 or 16.
void mma(float *d, const uint32_t *a, const uint32_t *b, int k, bool bf16);

template <typename T> constexpr bool is_bf16() {
    static_assert(std::is_same<T, __half>::value || std::is_same<T, __nv_bfloat16>::value, "f16 or bf16");
    return std::is_same<T, __nv_bfloat16>::value;
}

} // namespace emu

static inline void cp_async16(void *shared, const void *global, bool valid) {
    emu::cp_async16(shared, global, valid);
}
static inline void cp_async16_l1(void *shared, const void *global) { emu::cp_async16(shared, global, true); }
static inline void prefetch_l2(const void *) {}
static inline void forget(int &) {}
static inline void cp_async_commit() { emu::cp_async_commit(); }
template <int N> inline void cp_async_wait() { emu::cp_async_wait(N); }

static inline void ldmatrix_x4(uint32_t (&r)[4], const void *row) { emu::ldmatrix(r, 4, false, row); }
static inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void *row) { emu::ldmatrix(r, 4, true, row); }
static inline void ldmatrix_x2(uint32_t (&r)[2], const void *row) { emu::ldmatrix(r, 2, false, row); }
static inline void ldmatrix_x2_trans(uint32_t (&r)[2], const void *row) { emu::ldmatrix(r, 2, true, row); }

template <typename T>
inline void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    const uint32_t b[2] = {b0, b1};
    emu::mma(d, a, b, 16, emu::is_bf16<T>());
}
template <typename T> inline void mma_m16n8k8(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t b0) {
    const uint32_t a[2] = {a0, a1};
    emu::mma(d, a, &b0, 8, emu::is_bf16<T>());
}

// Subnormal numbers become 0, both as input and as result.
static inline float exp2_approx(float x) {
    const float power = exp2f(x);
    return power < 0x1p-126f ? 0.0f : power;
}

template <typename T> inline uint32_t pack2(float low, float high) {
    return uint32_t(T(low).raw) | uint32_t(T(high).raw) << 16;
}
