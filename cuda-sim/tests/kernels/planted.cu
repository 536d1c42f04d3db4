// Kernels with one mistake each, and right ones beside them, for the tests of the emulator.
//
// `to` and `from`: f32 or u32, as each comment says; `bug` plants the mistake.
#include "common/kernel.cuh"
#include "common/ptx.cuh"
#include "common/ptx90.cuh"

struct PlantedParams {
    alignas(64) uint64_t map[16];
    uint64_t from, to;
    uint32_t bug, count;
};

static __device__ uint32_t *to_u32(const PlantedParams &p) { return reinterpret_cast<uint32_t *>(p.to); }
static __device__ const uint32_t *from_u32(const PlantedParams &p) {
    return reinterpret_cast<const uint32_t *>(p.from);
}

// to[i] = from[n - 1 - i] of each block's n, through shared memory. bug 1: no barrier; 2: writes behind the end of
// dynamic shared memory; 3: far behind it; 4: reads shared memory that nobody wrote; 5: a null address.
static __device__ void reverse(const PlantedParams &p) {
    DYN_SMEM(smem);
    __shared__ uint32_t never_written[4];
    uint32_t *values = reinterpret_cast<uint32_t *>(smem);
    const uint32_t n = blockDim.x, at = blockIdx.x * n;
    values[threadIdx.x] = from_u32(p)[at + threadIdx.x];
    if (p.bug == 2 && threadIdx.x == 7) values[n] = 1;
    if (p.bug == 3 && threadIdx.x == 7) values[n + 4096] = 1;
    if (p.bug != 1) __syncthreads();
    to_u32(p)[at + threadIdx.x] = values[n - 1 - threadIdx.x];
    if (p.bug == 4) to_u32(p)[at + threadIdx.x] = never_written[threadIdx.x % 4];
    if (p.bug == 5 && threadIdx.x == 3) *reinterpret_cast<volatile uint32_t *>(p.from - p.from) = 1;
    if (p.bug == 6) never_written[threadIdx.x % 4] = 0;
}
KERNEL(planted_reverse, PlantedParams, 256, reverse)

// to[i] = from[i] by vectors of 4. bug 1: from an address that is not aligned.
static __device__ void vectors(const PlantedParams &p) {
    const float4 v = reinterpret_cast<const float4 *>(p.from + (p.bug ? 4 : 0))[threadIdx.x];
    reinterpret_cast<float4 *>(p.to)[threadIdx.x] = v;
}
KERNEL(planted_vectors, PlantedParams, 256, vectors)

// to[i] = from[count - 1 - i], 4 words a thread, through cp.async. bug 1: no wait; 2: no barrier after it; 3: a shared
// address that is not aligned; 4: reads behind the end of `from`.
static __device__ void copy(const PlantedParams &p) {
    DYN_SMEM(smem);
    uint32_t *values = reinterpret_cast<uint32_t *>(smem);
    const uint32_t i = threadIdx.x, n = blockDim.x;
    unsigned char *place = smem + i * 16 + (p.bug == 3 && i == 5 ? 8 : 0);
    cp_async16(place, from_u32(p) + i * 4 + (p.bug == 4 ? 4 : 0), true);
    cp_async_commit();
    if (p.bug != 1) cp_async_wait<0>();
    if (p.bug != 2) __syncthreads();
    for (int k = 0; k < 4; k++) to_u32(p)[i * 4 + k] = values[n * 4 - 1 - (i * 4 + k)];
}
KERNEL(planted_copy, PlantedParams, 256, copy)

// Barriers. bug 1: one thread does not come; 2: a lane is missing in a shuffle; 3: lanes of a warp meet in different
// collectives; 4: a named barrier for different numbers of threads.
static __device__ void barriers(const PlantedParams &p) {
    if (p.bug == 1 && threadIdx.x == 9) {
        named_barrier_sync(3, 64);
        return;
    }
    if (p.bug == 2 && threadIdx.x == 9) return;
    uint32_t sum = threadIdx.x;
    if (p.bug == 3 && threadIdx.x == 9)
        __syncwarp();
    else
        sum += __shfl_xor_sync(0xffffffff, sum, 1);
    if (p.bug == 4) named_barrier_sync(1, threadIdx.x < 32 ? 64 : 32);
    __syncthreads();
    to_u32(p)[threadIdx.x] = sum;
}
KERNEL(planted_barriers, PlantedParams, 64, barriers)

// to: a box of [32, 64] 16-bit elements by a tensor copy of 128-byte swizzle, put straight again. bug 1: no wait;
// 2: expects too many bytes; 3: the barrier was never initialised; 4: no fence after the initialisation; 5: read
// without the swizzle; 6: waits for the wrong parity; 7: 64 bytes beside an aligned address; 8:
// waits for a parity of 2.
static __device__ void tensor(const PlantedParams &p) {
#ifdef SM90A
    DYN_SMEM(smem);
    __shared__ uint64_t barrier;
    if (threadIdx.x == 0 && p.bug != 3) mbar_init(&barrier, 1);
    if (threadIdx.x == 0 && p.bug != 4) fence_mbar_init();
    __syncthreads();
    if (threadIdx.x == 0) {
        mbar_expect_tx(&barrier, p.bug == 2 ? 4100 : 4096);
        tma_load_2d(smem + (p.bug == 7 ? 64 : 0), p.map, 0, 0, &barrier);
    }
    if (p.bug != 1) mbar_wait(&barrier, p.bug == 6 ? 1 : p.bug == 8 ? 2 : 0);
    const uint16_t *box = reinterpret_cast<const uint16_t *>(smem);
    for (uint32_t i = threadIdx.x; i < 32 * 64; i += blockDim.x) {
        const uint32_t row = i / 64, column = i % 64;
        const uint32_t unit = p.bug == 5 ? column / 8 : (column / 8) ^ (row % 8);
        reinterpret_cast<uint16_t *>(p.to)[i] = box[row * 64 + unit * 8 + column % 8];
    }
    // Without the wait this does not cure what was read above; it lets the block end.
    if (p.bug == 1 || p.bug == 6) mbar_wait(&barrier, 0);
#endif
}
KERNEL(planted_tensor, PlantedParams, 128, tensor)

// to: f32 [128][4], a product of zeroes to sums of 3. bug 1: no wait; 2: no fence; 3: no commit; 4: the sums are
// written to while the product is under way.
static __device__ void product(const PlantedParams &p) {
#ifdef SM90A
    DYN_SMEM(smem);
    for (uint32_t i = threadIdx.x; i < 4096; i += blockDim.x) reinterpret_cast<uint32_t *>(smem)[i] = 0;
    fence_proxy_async();
    __syncthreads();
    float d[4] = {3, 3, 3, 3};
    if (p.bug != 2) wg_fence();
    wgmma_ss<__half, 8, 0>(d, wg_desc(smem, 16, 1024), wg_desc(smem + 8192, 16, 1024), 1);
    if (p.bug != 3) wg_commit();
    if (p.bug == 4) d[1] = 0;
    if (p.bug != 1) wg_wait<0>();
    for (int i = 0; i < 4; i++) reinterpret_cast<float *>(p.to)[threadIdx.x * 4 + i] = d[i];
#endif
}
KERNEL(planted_product, PlantedParams, 128, product)

// to[i] = i, by blocks of a few barriers: for the time that a launch takes.
static __device__ void many(const PlantedParams &p) {
    uint32_t x = threadIdx.x;
    for (int i = 0; i < 4; i++) {
        x += __shfl_xor_sync(0xffffffff, x, 1) & 0;
        __syncthreads();
    }
    to_u32(p)[blockIdx.x * blockDim.x + threadIdx.x] = x;
}
KERNEL(planted_many, PlantedParams, 128, many)
