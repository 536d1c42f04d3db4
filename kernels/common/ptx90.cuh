// Instructions of sm_90a: mbarriers, tensor copies (TMA), products by a warpgroup (wgmma). With `ptx.cuh` the only
// file with inline PTX; under CUDA_EMU each function is the one of `cuda-sim/emu/ptx90.h`.
//
// They exist where SM90A is defined: in the pass for sm_90a, and emulated. A kernel for Hopper has its body in
// `#ifdef SM90A`, and is empty elsewhere.
#pragma once

#include "ptx.cuh"

#if defined(CUDA_EMU)
#define SM90A 1
#include "ptx90.h"
#elif defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define SM90A 1

// ---- Barriers in shared memory. A barrier's phase is over when `count` arrivals and all expected bytes have come;
// then the next phase begins, with the same count.

// One thread calls it; then `fence_mbar_init`, and __syncthreads before anybody else touches the barrier.
__device__ __forceinline__ void mbar_init(uint64_t *barrier, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(count) : "memory");
}

// Makes this thread's new barriers known to tensor copies.
__device__ __forceinline__ void fence_mbar_init() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// Arrives, and has this phase wait for so many bytes of tensor copies more.
__device__ __forceinline__ void mbar_expect_tx(uint64_t *barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
                 : "memory");
}

__device__ __forceinline__ void mbar_arrive(uint64_t *barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}

// Waits until the phase of this parity is over. The first phase has parity 0; a wait for parity 1 on a new barrier
// returns at once.
__device__ __forceinline__ void mbar_wait(uint64_t *barrier, int parity) {
    uint32_t over;
    do {
        asm volatile("{\n"
                     ".reg .pred over;\n"
                     "mbarrier.try_wait.parity.shared::cta.b64 over, [%1], %2;\n"
                     "selp.u32 %0, 1, 0, over;\n"
                     "}"
                     : "=r"(over)
                     : "r"(shared_address(barrier)), "r"(parity)
                     : "memory");
    } while (!over);
}

// Whether the phase of this parity is over. Where it is, what came before the arrivals is seen, as after `mbar_wait`.
__device__ __forceinline__ bool mbar_test(uint64_t *barrier, int parity) {
    uint32_t over;
    asm volatile("{\n"
                 ".reg .pred over;\n"
                 "mbarrier.test_wait.parity.shared::cta.b64 over, [%1], %2;\n"
                 "selp.u32 %0, 1, 0, over;\n"
                 "}"
                 : "=r"(over)
                 : "r"(shared_address(barrier)), "r"(parity)
                 : "memory");
    return over != 0;
}

// What this thread wrote to shared memory is seen by tensor copies and wgmma that come after it, and after a barrier.
__device__ __forceinline__ void fence_proxy_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// ---- Loads of what no kernel of the launch writes, which begin where they stand: the compiler may move other loads to
// where their values are used.

__device__ __forceinline__ uint32_t load_now(const uint32_t *from) {
    uint32_t to;
    asm volatile("ld.global.nc.u32 %0, [%1];" : "=r"(to) : "l"(from));
    return to;
}
__device__ __forceinline__ float4 load_now(const float4 *from) {
    float4 to;
    asm volatile("ld.global.nc.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(to.x), "=f"(to.y), "=f"(to.z), "=f"(to.w)
                 : "l"(from));
    return to;
}

// ---- Tensor copies. `map` is a tensor map in a kernel's parameters (or in global memory), aligned to 64.

__device__ __forceinline__ void tma_prefetch(const void *map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// Begins to copy the map's box from coordinates (c0, c1), c0 innermost and a multiple of 16 bytes (anything else is an
// illegal instruction to an H100), to `to`, aligned to 128, or to the 1024 of a swizzle of 128 bytes. What lies outside
// of the tensor is 0. The whole box counts at `barrier`. One thread calls it.
__device__ __forceinline__ void tma_load_2d(void *to, const void *map, int c0, int c1, uint64_t *barrier) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], "
                 "[%4];" ::"r"(shared_address(to)),
                 "l"(map), "r"(c0), "r"(c1), "r"(shared_address(barrier))
                 : "memory");
}

__device__ __forceinline__ void tma_load_3d(void *to, const void *map, int c0, int c1, int c2, uint64_t *barrier) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], "
                 "[%1, {%2, %3, %4}], [%5];" ::"r"(shared_address(to)),
                 "l"(map), "r"(c0), "r"(c1), "r"(c2), "r"(shared_address(barrier))
                 : "memory");
}

__device__ __forceinline__ void tma_load_4d(void *to, const void *map, int c0, int c1, int c2, int c3,
                                            uint64_t *barrier) {
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], "
                 "[%1, {%2, %3, %4, %5}], [%6];" ::"r"(shared_address(to)),
                 "l"(map), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(shared_address(barrier))
                 : "memory");
}

// ---- Tensor copies from shared memory. The thread that begins them also closes the group and waits for it; what it
// copies, other threads have written before `fence_proxy_async` and a barrier.

// Begins to copy the map's box at coordinates (c0, c1) from `from`, aligned to 128, or to 8 spans of the swizzle. What
// lies outside of the tensor is not written.
__device__ __forceinline__ void tma_store_2d(const void *map, int c0, int c1, const void *from) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];" ::"l"(map), "r"(c0),
                 "r"(c1), "r"(shared_address(from))
                 : "memory");
}

// Closes the group of this thread's stores since the last one.
__device__ __forceinline__ void tma_store_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }

// Waits until all but this thread's last N groups have read what they copy: it may be overwritten.
template <int N> __device__ __forceinline__ void tma_store_wait_read() {
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(N) : "memory");
}

// ---- Barriers 1 to 15 among `threads` threads, whole warps.

__device__ __forceinline__ void named_barrier_sync(int id, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

__device__ __forceinline__ void named_barrier_arrive(int id, int threads) {
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// ---- Registers a thread, for all warps of a warpgroup.

template <int N> __device__ __forceinline__ void setmaxnreg_inc() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}
template <int N> __device__ __forceinline__ void setmaxnreg_dec() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}

// ---- stmatrix: ldmatrix the other way.

__device__ __forceinline__ void stmatrix_x4(const uint32_t (&r)[4], void *row) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(row)),
                 "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
                 : "memory");
}
__device__ __forceinline__ void stmatrix_x4_trans(const uint32_t (&r)[4], void *row) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(row)),
                 "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
                 : "memory");
}

// ---- Products of 64 x N x 16 by a warpgroup, asynchronous: `wg_fence`, some products, `wg_commit`, and the sums may
// be touched only after `wg_wait`. The sums d [64, N]: thread t of the warpgroup has of rows
// 16 (t / 32) + t % 32 / 4 + 8 (i / 2 % 2) and columns 8 (i / 4) + 2 (t % 4) + i % 2 the element i.

// Before the first product, and after other code has touched the registers of one: sums, or A.
__device__ __forceinline__ void wg_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

// Closes the group of products since the last one.
__device__ __forceinline__ void wg_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits until at most N groups are under way.
template <int N> __device__ __forceinline__ void wg_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

// A matrix in shared memory, as a tensor copy of that swizzle (128, 64 or 32 bytes, or 0) leaves it.
//
// K-major (rows of M or N, each with its K's in one swizzle's span): `stride_bytes` from 8 rows to the next 8, usually
// 8 spans; `leading_bytes` is not used but without swizzle, where it is from 8 K's to the next 8. The next 16 K's
// begin 32 bytes on.
// MN-major (rows of K): `stride_bytes` from 8 K's to the next 8; `leading_bytes` from one span of M or N to the next.
// The next 16 K's begin two strides on.
template <int Swizzle = 128>
__device__ __forceinline__ uint64_t wg_desc(const void *p, uint32_t leading_bytes, uint32_t stride_bytes) {
    static_assert(Swizzle == 0 || Swizzle == 32 || Swizzle == 64 || Swizzle == 128, "bytes of a swizzle, or 0");
    constexpr uint64_t layout = Swizzle == 128 ? 1 : Swizzle == 64 ? 2 : Swizzle == 32 ? 3 : 0;
    return uint64_t((shared_address(p) & 0x3ffff) >> 4) | uint64_t((leading_bytes & 0x3ffff) >> 4) << 16 |
           uint64_t((stride_bytes & 0x3ffff) >> 4) << 32 | layout << 62;
}

// The instructions, by type and N.
template <typename T, int N> struct Wgmma {
    static_assert(N < 0, "no wgmma of this type and N is written out");
};

// A PTX register list %0, %1, ...; the operands that stand for it; and the numbers of the operands that follow.
#define WG_LIST_4 "%0, %1, %2, %3"
#define WG_LIST_8 WG_LIST_4 ", %4, %5, %6, %7"
#define WG_LIST_12 WG_LIST_8 ", %8, %9, %10, %11"
#define WG_LIST_16 WG_LIST_8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define WG_LIST_32 WG_LIST_16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define WG_LIST_48 WG_LIST_32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define WG_LIST_64 WG_LIST_48 ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define WG_LIST_80 WG_LIST_64 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79"
#define WG_LIST_96 WG_LIST_80 ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define WG_LIST_112 WG_LIST_96 ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111"
#define WG_LIST_128 WG_LIST_112 ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define WG_SUMS_4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define WG_SUMS_8(i) WG_SUMS_4(i), WG_SUMS_4(i + 4)
#define WG_SUMS_12(i) WG_SUMS_8(i), WG_SUMS_4(i + 8)
#define WG_SUMS_16(i) WG_SUMS_8(i), WG_SUMS_8(i + 8)
#define WG_SUMS_32(i) WG_SUMS_16(i), WG_SUMS_16(i + 16)
#define WG_SUMS_48(i) WG_SUMS_32(i), WG_SUMS_16(i + 32)
#define WG_SUMS_64(i) WG_SUMS_48(i), WG_SUMS_16(i + 48)
#define WG_SUMS_80(i) WG_SUMS_64(i), WG_SUMS_16(i + 64)
#define WG_SUMS_96(i) WG_SUMS_80(i), WG_SUMS_16(i + 80)
#define WG_SUMS_112(i) WG_SUMS_96(i), WG_SUMS_16(i + 96)
#define WG_SUMS_128(i) WG_SUMS_112(i), WG_SUMS_16(i + 112)

#define WGMMA(T, type, N, REGISTERS, a0, a1, a2, a3, a4, a5, a6)                                               \
    template <> struct Wgmma<T, N> {                                                                          \
        template <int TransB>                                                                                 \
        static __device__ __forceinline__ void ss(float (&d)[N / 2], uint64_t a, uint64_t b, int scale_d) {   \
            asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #a2 ", 0;\n"                                    \
                         "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." type "." type " {"                 \
                         WG_LIST_##REGISTERS "}, %" #a0 ", %" #a1 ", p, 1, 1, 0, %" #a3 ";\n}"                \
                         : WG_SUMS_##REGISTERS(0)                                                             \
                         : "l"(a), "l"(b), "r"(scale_d), "n"(TransB));                                        \
        }                                                                                                     \
        template <int TransB>                                                                                 \
        static __device__ __forceinline__ void rs(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b,      \
                                                  int scale_d) {                                              \
            asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #a5 ", 0;\n"                                    \
                         "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." type "." type " {"                 \
                         WG_LIST_##REGISTERS "}, {%" #a0 ", %" #a1 ", %" #a2 ", %" #a3 "}, %" #a4             \
                         ", p, 1, 1, %" #a6 ";\n}"                                                            \
                         : WG_SUMS_##REGISTERS(0)                                                             \
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(scale_d), "n"(TransB));    \
        }                                                                                                     \
    };
#define WGMMA_BOTH(...)                                                                                       \
    WGMMA(__half, "f16", __VA_ARGS__)                                                                         \
    WGMMA(__nv_bfloat16, "bf16", __VA_ARGS__)
WGMMA_BOTH(8, 4, 4, 5, 6, 7, 8, 9, 10)
WGMMA_BOTH(16, 8, 8, 9, 10, 11, 12, 13, 14)
WGMMA_BOTH(24, 12, 12, 13, 14, 15, 16, 17, 18)
WGMMA_BOTH(32, 16, 16, 17, 18, 19, 20, 21, 22)
WGMMA_BOTH(64, 32, 32, 33, 34, 35, 36, 37, 38)
WGMMA_BOTH(96, 48, 48, 49, 50, 51, 52, 53, 54)
WGMMA_BOTH(128, 64, 64, 65, 66, 67, 68, 69, 70)
WGMMA_BOTH(160, 80, 80, 81, 82, 83, 84, 85, 86)
WGMMA_BOTH(192, 96, 96, 97, 98, 99, 100, 101, 102)
WGMMA_BOTH(224, 112, 112, 113, 114, 115, 116, 117, 118)
WGMMA_BOTH(256, 128, 128, 129, 130, 131, 132, 133, 134)

// d = a * b, or with `scale_d` d += a * b, of T (__half or __nv_bfloat16) with f32 sums; N of 8, 16, 24, or a
// multiple of 32 up to 256. a is [64, 16] K-major; b [N, 16] K-major, or with TransB [16, N].
template <typename T, int N, int TransB>
__device__ __forceinline__ void wgmma_ss(float (&d)[N / 2], uint64_t a_desc, uint64_t b_desc, int scale_d) {
    Wgmma<T, N>::template ss<TransB>(d, a_desc, b_desc, scale_d);
}

// The same with a in registers: for each warp of the warpgroup, its 16 rows as `mma_m16n8k16` has them.
template <typename T, int N, int TransB>
__device__ __forceinline__ void wgmma_rs(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b_desc, int scale_d) {
    Wgmma<T, N>::template rs<TransB>(d, a, b_desc, scale_d);
}

#endif
