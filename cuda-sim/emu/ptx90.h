// The emulated wrappers of `../../kernels/common/ptx90.cuh`. That file documents what each wrapper does.
#pragma once

#include <cstdint>

#include "ptx.h"

namespace emu {

void mbar_init(uint64_t *barrier, int count);
void fence_mbar_init();
void mbar_arrive(uint64_t *barrier, int expected_bytes);
void mbar_wait(uint64_t *barrier, int parity);
bool mbar_test(uint64_t *barrier, int parity);
void fence_proxy_async();

void tma_prefetch(const void *map);
void tma_store(const void *map, const int *coordinates, const void *from);
void tma_store_commit();
void tma_store_wait_read(int groups);
void tma_load(void *to, const void *map, const int *coordinates, int rank, uint64_t *barrier);

void named_barrier(int id, int threads, bool wait);
void set_registers(int registers);

struct Product {
    int n;
    bool bf16, transposed_b, a_in_registers;
    uint64_t a_descriptor, b_descriptor;
    int scale_d;
};
uint64_t wg_desc(const void *matrix, uint32_t leading_bytes, uint32_t stride_bytes, int swizzle);
void wg_fence();
void wg_commit();
void wg_wait(int groups);
// `a` is null if A is not in registers.
void wgmma(float *d, const uint32_t *a, const Product &product);

} // namespace emu

static inline void mbar_init(uint64_t *barrier, int count) { emu::mbar_init(barrier, count); }
static inline void fence_mbar_init() { emu::fence_mbar_init(); }
static inline void mbar_expect_tx(uint64_t *barrier, int bytes) { emu::mbar_arrive(barrier, bytes); }
static inline void mbar_arrive(uint64_t *barrier) { emu::mbar_arrive(barrier, 0); }
static inline void mbar_wait(uint64_t *barrier, int parity) { emu::mbar_wait(barrier, parity); }
static inline bool mbar_test(uint64_t *barrier, int parity) { return emu::mbar_test(barrier, parity); }
static inline void fence_proxy_async() { emu::fence_proxy_async(); }

static inline uint32_t load_now(const uint32_t *from) { return *from; }
static inline float4 load_now(const float4 *from) { return *from; }

static inline void tma_prefetch(const void *map) { emu::tma_prefetch(map); }
static inline void tma_load_2d(void *to, const void *map, int c0, int c1, uint64_t *barrier) {
    const int coordinates[2] = {c0, c1};
    emu::tma_load(to, map, coordinates, 2, barrier);
}
static inline void tma_load_3d(void *to, const void *map, int c0, int c1, int c2, uint64_t *barrier) {
    const int coordinates[3] = {c0, c1, c2};
    emu::tma_load(to, map, coordinates, 3, barrier);
}
static inline void tma_load_4d(void *to, const void *map, int c0, int c1, int c2, int c3, uint64_t *barrier) {
    const int coordinates[4] = {c0, c1, c2, c3};
    emu::tma_load(to, map, coordinates, 4, barrier);
}

static inline void tma_store_2d(const void *map, int c0, int c1, const void *from) {
    const int coordinates[2] = {c0, c1};
    emu::tma_store(map, coordinates, from);
}
static inline void tma_store_commit() { emu::tma_store_commit(); }
template <int N> inline void tma_store_wait_read() { emu::tma_store_wait_read(N); }

static inline void named_barrier_sync(int id, int threads) { emu::named_barrier(id, threads, true); }
static inline void named_barrier_arrive(int id, int threads) { emu::named_barrier(id, threads, false); }
template <int N> inline void setmaxnreg_inc() {
    static_assert(N % 8 == 0 && N >= 24 && N <= 256, "a multiple of 8 from 24 to 256");
    emu::set_registers(N);
}
template <int N> inline void setmaxnreg_dec() { setmaxnreg_inc<N>(); }

static inline void stmatrix_x4(const uint32_t (&r)[4], void *row) { emu::stmatrix(r, 4, false, row); }
static inline void stmatrix_x4_trans(const uint32_t (&r)[4], void *row) { emu::stmatrix(r, 4, true, row); }

static inline void wg_fence() { emu::wg_fence(); }
static inline void wg_commit() { emu::wg_commit(); }
template <int N> inline void wg_wait() { emu::wg_wait(N); }
template <int Swizzle = 128>
inline uint64_t wg_desc(const void *p, uint32_t leading_bytes, uint32_t stride_bytes) {
    static_assert(Swizzle == 0 || Swizzle == 32 || Swizzle == 64 || Swizzle == 128, "bytes of a swizzle, or 0");
    return emu::wg_desc(p, leading_bytes, stride_bytes, Swizzle);
}
template <typename T, int N, int TransB>
inline void wgmma_ss(float (&d)[N / 2], uint64_t a_desc, uint64_t b_desc, int scale_d) {
    static_assert(N == 8 || N == 16 || N == 24 || (N % 32 == 0 && N <= 256), "as the device's side has them");
    emu::wgmma(d, nullptr, {N, emu::is_bf16<T>(), TransB != 0, false, a_desc, b_desc, scale_d});
}
template <typename T, int N, int TransB>
inline void wgmma_rs(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b_desc, int scale_d) {
    static_assert(N == 8 || N == 16 || N == 24 || (N % 32 == 0 && N <= 256), "as the device's side has them");
    emu::wgmma(d, a, {N, emu::is_bf16<T>(), TransB != 0, true, 0, b_desc, scale_d});
}
