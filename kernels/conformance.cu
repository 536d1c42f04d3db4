// Computes: one tiny kernel for each wrapper of `ptx.cuh` and `ptx90.cuh` that has a result of its
// own. `tests/cuda/conformance` compares the raw numbers with what the PTX ISA documents, on the
// emulator and on a device. Hints (for registers and caches) have no kernel; copies back to memory
// are tested by the kernels that make such copies.
//
// Shapes: `from` and `to` are as each kernel's comment says; the scalars of `n` are named where
// they are read.
//
// Launch: one block, of 32 threads unless the kernel's comment gives another number.
//
// Bound and measured: not for speed, so nothing is measured.
#include "common/kernel.cuh"
#include "common/number.cuh"
#include "common/ptx.cuh"
#include "common/ptx90.cuh"

struct ConformanceParams {
    alignas(64) uint64_t maps[2][16]; // tensor maps
    uint64_t from, from2, from3, to;
    uint32_t n[8];
};
static_assert(sizeof(ConformanceParams) == 320, "the test has the same struct");

__device__ void copy_words(uint32_t *to, const uint32_t *from, uint32_t words) {
    for (uint32_t i = threadIdx.x; i < words; i += blockDim.x) to[i] = from[i];
}

// from: 32 rows of 8 u16, each stored in shared memory at a pitch of 48 bytes; to: u32 [32][4].
// n[0]: selects the form.
__device__ void load_matrices(const ConformanceParams &p) {
    __shared__ __align__(16) uint32_t rows[32][12];
    const uint32_t *from = reinterpret_cast<const uint32_t *>(p.from);
    uint32_t *to = reinterpret_cast<uint32_t *>(p.to) + threadIdx.x * 4;
    for (int i = 0; i < 4; i++) rows[threadIdx.x][i] = from[threadIdx.x * 4 + i];
    __syncwarp();
    const void *row = rows[threadIdx.x];
    uint32_t r[4] = {0, 0, 0, 0}, half[2] = {0, 0};
    if (p.n[0] == 0) ldmatrix_x4(r, row);
    if (p.n[0] == 1) ldmatrix_x4_trans(r, row);
    if (p.n[0] == 2) ldmatrix_x2(half, row);
    if (p.n[0] == 3) ldmatrix_x2_trans(half, row);
    for (int i = 0; i < 4; i++) to[i] = p.n[0] < 2 ? r[i] : i < 2 ? half[i] : 0;
}
KERNEL(conformance_ldmatrix, ConformanceParams, 32, load_matrices)

// from: a, u32 [32][4]; from2: b, u32 [32][2]; to: d, f32 [32][4], read and written. n[0]: k.
template <typename T> __device__ void multiply_fragments(const ConformanceParams &p) {
    const uint32_t *a = reinterpret_cast<const uint32_t *>(p.from) + threadIdx.x * 4;
    const uint32_t *b = reinterpret_cast<const uint32_t *>(p.from2) + threadIdx.x * 2;
    float *to = reinterpret_cast<float *>(p.to) + threadIdx.x * 4;
    float d[4] = {to[0], to[1], to[2], to[3]};
    const uint32_t fragment[4] = {a[0], a[1], a[2], a[3]};
    if (p.n[0] == 16)
        mma_m16n8k16<T>(d, fragment, b[0], b[1]);
    else
        mma_m16n8k8<T>(d, a[0], a[1], b[0]);
    for (int i = 0; i < 4; i++) to[i] = d[i];
}
KERNEL(conformance_mma_f16, ConformanceParams, 32, multiply_fragments<__half>)
KERNEL(conformance_mma_bf16, ConformanceParams, 32, multiply_fragments<__nv_bfloat16>)

// from: 32 x 16 bytes; to: the same bytes, with zeroes for lanes whose bit in n[0] is not set. The
// copies form two groups; the second group, of the upper half warp, is waited for last.
__device__ void copy_asynchronously(const ConformanceParams &p) {
    __shared__ __align__(16) uint32_t landed[32][4];
    const uint32_t *from = reinterpret_cast<const uint32_t *>(p.from) + threadIdx.x * 4;
    uint32_t *to = reinterpret_cast<uint32_t *>(p.to) + threadIdx.x * 4;
    const bool valid = p.n[0] >> threadIdx.x & 1;
    if (threadIdx.x < 16) cp_async16(landed[threadIdx.x], from, valid);
    cp_async_commit();
    if (threadIdx.x >= 16) cp_async16(landed[threadIdx.x], from, valid);
    cp_async_commit();
    cp_async_wait<1>();
    if (threadIdx.x < 16)
        for (int i = 0; i < 4; i++) to[i] = landed[threadIdx.x][i];
    cp_async_wait<0>();
    if (threadIdx.x >= 16)
        for (int i = 0; i < 4; i++) to[i] = landed[threadIdx.x][i];
}
KERNEL(conformance_cp_async, ConformanceParams, 32, copy_asynchronously)

// from, to: f32 [n[0]].
__device__ void powers(const ConformanceParams &p) {
    const float *from = reinterpret_cast<const float *>(p.from);
    float *to = reinterpret_cast<float *>(p.to);
    for (uint32_t i = threadIdx.x; i < p.n[0]; i += blockDim.x) to[i] = exp2_approx(from[i]);
}
KERNEL(conformance_exp2, ConformanceParams, 32, powers)

// from: f32 [n[0], 2]; to: u32 [n[0], 2], the results of `pack2` and of `from_f32`.
template <typename T> __device__ void conversions(const ConformanceParams &p) {
    const float *from = reinterpret_cast<const float *>(p.from);
    uint32_t *to = reinterpret_cast<uint32_t *>(p.to);
    for (uint32_t i = threadIdx.x; i < p.n[0]; i += blockDim.x) {
        const float low = from[2 * i], high = from[2 * i + 1];
        to[2 * i] = pack2<T>(low, high);
        // This does not use memcpy of bytes, because nvcc 13.0 (ptxas) then stores the byte that
        // the half's *value* converts to.
        T *halves = reinterpret_cast<T *>(&to[2 * i + 1]);
        halves[0] = from_f32<T>(low);
        halves[1] = from_f32<T>(high);
    }
}
KERNEL(conformance_convert_f16, ConformanceParams, 32, conversions<__half>)
KERNEL(conformance_convert_bf16, ConformanceParams, 32, conversions<__nv_bfloat16>)

// to: u32 [32][9].
__device__ void shuffles(const ConformanceParams &p) {
    constexpr unsigned ALL = 0xffffffff;
    const uint32_t lane = threadIdx.x, value = lane * lane + 7;
    uint32_t *to = reinterpret_cast<uint32_t *>(p.to) + lane * 9;
    to[0] = __shfl_xor_sync(ALL, value, 5);
    to[1] = __shfl_sync(ALL, value, 11);
    to[2] = __shfl_up_sync(ALL, value, 3);
    to[3] = __shfl_down_sync(ALL, value, 3);
    to[4] = __shfl_xor_sync(ALL, value, 1, 4);
    to[5] = __shfl_down_sync(ALL, value, 2, 8);
    to[6] = __ballot_sync(ALL, lane % 3 == 0);
    to[7] = uint32_t(__any_sync(ALL, lane == 31)) + 2 * uint32_t(__all_sync(ALL, lane < 31));
    to[8] = lane < 16 ? __shfl_sync(0xffff, value, lane + 1, 16) : __shfl_sync(0xffff0000, value, lane + 2, 16);
}
KERNEL(conformance_shuffle, ConformanceParams, 32, shuffles)

// from: u32 [32][4]; to: the shared memory after the store, 32 rows of 8 u16. n[0]: whether
// transposed.
__device__ void store_matrices([[maybe_unused]] const ConformanceParams &p) {
#ifdef SM90A
    __shared__ __align__(16) uint32_t rows[32][4];
    const uint32_t *from = reinterpret_cast<const uint32_t *>(p.from) + threadIdx.x * 4;
    const uint32_t r[4] = {from[0], from[1], from[2], from[3]};
    if (p.n[0])
        stmatrix_x4_trans(r, rows[threadIdx.x]);
    else
        stmatrix_x4(r, rows[threadIdx.x]);
    __syncwarp();
    copy_words(reinterpret_cast<uint32_t *>(p.to), &rows[0][0], 128);
#endif
}
KERNEL(conformance_stmatrix, ConformanceParams, 32, store_matrices)

// to: the box of the first map at coordinates n[2], n[3], n[4], n[5], in the layout of shared memory.
// n[0]: rank; n[1]: bytes. A block has 128 threads; dynamic shared memory: the box and 1024 bytes.
__device__ void copy_box([[maybe_unused]] const ConformanceParams &p) {
#ifdef SM90A
    DYN_SMEM(smem);
    __shared__ uint64_t barrier;
    if (threadIdx.x == 0) {
        tma_prefetch(&p.maps[0]);
        mbar_init(&barrier, 1);
        fence_mbar_init();
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        mbar_expect_tx(&barrier, int(p.n[1]));
        const int c0 = int(p.n[2]), c1 = int(p.n[3]), c2 = int(p.n[4]);
        if (p.n[0] == 2)
            tma_load_2d(smem, &p.maps[0], c0, c1, &barrier);
        else if (p.n[0] == 3)
            tma_load_3d(smem, &p.maps[0], c0, c1, c2, &barrier);
        else
            tma_load_4d(smem, &p.maps[0], c0, c1, c2, int(p.n[5]), &barrier);
    }
    mbar_wait(&barrier, 0);
    copy_words(reinterpret_cast<uint32_t *>(p.to), reinterpret_cast<uint32_t *>(smem), p.n[1] / 4);
#endif
}
KERNEL(conformance_tma, ConformanceParams, 128, copy_box)

// A ring of three slots between 64 threads that fill it and 64 threads that read it. to: u32 [64],
// sums over n[0] rounds. A block has 128 threads.
__device__ void pass_through_ring([[maybe_unused]] const ConformanceParams &p) {
#ifdef SM90A
    constexpr uint32_t SLOTS = 3;
    __shared__ uint32_t slots[SLOTS][64];
    __shared__ uint64_t full[SLOTS], empty[SLOTS];
    const uint32_t rounds = p.n[0], self = threadIdx.x % 64;
    if (threadIdx.x == 0) {
        for (uint32_t i = 0; i < SLOTS; i++) {
            mbar_init(&full[i], 64);
            mbar_init(&empty[i], 64);
        }
        fence_mbar_init();
    }
    __syncthreads();
    if (threadIdx.x < 64) {
        for (uint32_t round = 0; round < rounds; round++) {
            const uint32_t slot = round % SLOTS, turn = round / SLOTS;
            const int parity = int(turn & 1) ^ 1;
            if (!mbar_test(&empty[slot], parity)) mbar_wait(&empty[slot], parity);
            slots[slot][self] = round * 64 + self;
            mbar_arrive(&full[slot]);
        }
    } else {
        uint32_t sum = 0;
        for (uint32_t round = 0; round < rounds; round++) {
            const uint32_t slot = round % SLOTS, turn = round / SLOTS;
            mbar_wait(&full[slot], int(turn & 1));
            sum += slots[slot][63 - self];
            mbar_arrive(&empty[slot]);
        }
        reinterpret_cast<uint32_t *>(p.to)[self] = sum;
    }
#endif
}
KERNEL(conformance_mbarrier, ConformanceParams, 128, pass_through_ring)

// Warps 0 and 1 write, and do not wait; warps 2 and 3 read what these warps wrote. to: u32 [64]. A
// block has 128 threads.
__device__ void meet_at_named_barrier([[maybe_unused]] const ConformanceParams &p) {
#ifdef SM90A
    __shared__ uint32_t slots[64];
    const uint32_t self = threadIdx.x % 64;
    if (threadIdx.x < 64) {
        slots[self] = self * 3;
        named_barrier_arrive(5, 128);
    } else {
        named_barrier_sync(5, 128);
        const uint32_t other = slots[63 - self];
        named_barrier_sync(6, 64);
        reinterpret_cast<uint32_t *>(p.to)[self] = other;
    }
#endif
}
KERNEL(conformance_named_barrier, ConformanceParams, 128, meet_at_named_barrier)

#ifdef SM90A
__device__ uint64_t descriptor(const void *at, uint32_t leading, uint32_t stride, uint32_t swizzle) {
    switch (swizzle) {
    case 128: return wg_desc<128>(at, leading, stride);
    case 64: return wg_desc<64>(at, leading, stride);
    case 32: return wg_desc<32>(at, leading, stride);
    default: return wg_desc<0>(at, leading, stride);
    }
}

// Multiplies step after step in one form; `registers` points to a thread's registers of A, 512
// words per step.
template <typename T, int N, bool InRegisters, int TransB>
__device__ void multiply_steps(float (&d)[N / 2], const ConformanceParams &p, uint64_t a, uint64_t b) {
    const uint32_t *registers = reinterpret_cast<const uint32_t *>(p.from2) + threadIdx.x * 4;
    for (uint32_t step = 0; step < p.n[0]; step++) {
        const int scale = p.from3 || step > 0;
        if constexpr (InRegisters) {
            const uint32_t *of_step = registers + step * 512;
            const uint32_t r[4] = {of_step[0], of_step[1], of_step[2], of_step[3]};
            wg_fence();
            wgmma_rs<T, N, TransB>(d, r, b, scale);
        } else {
            wg_fence();
            wgmma_ss<T, N, TransB>(d, a, b, scale);
        }
        wg_commit();
        wg_wait<0>();
        a += (p.n[6] & 0xffff) >> 4;
        b += p.n[6] >> 20;
    }
}
#endif

// Multiplies n[0] steps of 16 columns of K. The operands lie in shared memory as the test has laid
// them out. from: n[1] words, the first 32 KiB of which are A. from2: A in registers, u32
// [steps][128][4]. from3: the sums before, f32 [128][N / 2], or none; to: the sums after. n[2]: 1
// for A in registers, 2 for B N-major. n[3]: swizzle. n[4], n[5]: leading and stride bytes of A
// and, in the upper half word, of B. n[6]: bytes from step to step of A and, in the upper half
// word, of B. A block has 128 threads; dynamic shared memory: 4 n[1] bytes.
template <typename T, int N> __device__ void multiply_group([[maybe_unused]] const ConformanceParams &p) {
#ifdef SM90A
    DYN_SMEM(smem);
    copy_words(reinterpret_cast<uint32_t *>(smem), reinterpret_cast<const uint32_t *>(p.from), p.n[1]);
    const float *before = reinterpret_cast<const float *>(p.from3);
    float d[N / 2];
    for (int i = 0; i < N / 2; i++) d[i] = before ? before[threadIdx.x * (N / 2) + i] : 0.5f;
    const uint64_t a = descriptor(smem, p.n[4] & 0xffff, p.n[5] & 0xffff, p.n[3]);
    const uint64_t b = descriptor(smem + 32768, p.n[4] >> 16, p.n[5] >> 16, p.n[3]);
    fence_proxy_async();
    __syncthreads();
    if (p.n[2] == 0) multiply_steps<T, N, false, 0>(d, p, a, b);
    if (p.n[2] == 1) multiply_steps<T, N, true, 0>(d, p, a, b);
    if (p.n[2] == 2) multiply_steps<T, N, false, 1>(d, p, a, b);
    if (p.n[2] == 3) multiply_steps<T, N, true, 1>(d, p, a, b);
    float *to = reinterpret_cast<float *>(p.to) + threadIdx.x * (N / 2);
    for (int i = 0; i < N / 2; i++) to[i] = d[i];
#endif
}
KERNEL(conformance_wgmma_f16_8, ConformanceParams, 128, multiply_group<__half, 8>)
KERNEL(conformance_wgmma_f16_16, ConformanceParams, 128, multiply_group<__half, 16>)
KERNEL(conformance_wgmma_f16_24, ConformanceParams, 128, multiply_group<__half, 24>)
KERNEL(conformance_wgmma_f16_32, ConformanceParams, 128, multiply_group<__half, 32>)
KERNEL(conformance_wgmma_f16_64, ConformanceParams, 128, multiply_group<__half, 64>)
KERNEL(conformance_wgmma_f16_96, ConformanceParams, 128, multiply_group<__half, 96>)
KERNEL(conformance_wgmma_f16_128, ConformanceParams, 128, multiply_group<__half, 128>)
KERNEL(conformance_wgmma_f16_192, ConformanceParams, 128, multiply_group<__half, 192>)
KERNEL(conformance_wgmma_f16_256, ConformanceParams, 128, multiply_group<__half, 256>)
KERNEL(conformance_wgmma_bf16_64, ConformanceParams, 128, multiply_group<__nv_bfloat16, 64>)
KERNEL(conformance_wgmma_bf16_256, ConformanceParams, 128, multiply_group<__nv_bfloat16, 256>)

// A pipeline as in a real kernel. One warp copies tiles of A [64, 64] by the first map and of B
// [64, N = 128] (K rows) by the second map, in two boxes of 64 columns; one warpgroup multiplies
// them. There are two stages of both tiles, and n[0] tiles of K. to: d, f32 [64][128]. A block has
// 160 threads; dynamic shared memory: 2 x 24 KiB.
__device__ void pipeline([[maybe_unused]] const ConformanceParams &p) {
#ifdef SM90A
    constexpr int STAGES = 2, A_BYTES = 8192, B_BYTES = 16384, STAGE = A_BYTES + B_BYTES;
    DYN_SMEM(smem);
    __shared__ uint64_t full[STAGES], empty[STAGES];
    const int tiles = int(p.n[0]);
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            mbar_init(&full[i], 1);
            mbar_init(&empty[i], 128);
        }
        fence_mbar_init();
    }
    __syncthreads();
    if (threadIdx.x >= 128) {
        if (threadIdx.x == 128)
            for (int tile = 0; tile < tiles; tile++) {
                const int stage = tile % STAGES, turn = tile / STAGES;
                unsigned char *at = smem + stage * STAGE;
                mbar_wait(&empty[stage], (turn & 1) ^ 1);
                mbar_expect_tx(&full[stage], STAGE);
                tma_load_2d(at, &p.maps[0], tile * 64, 0, &full[stage]);
                tma_load_2d(at + A_BYTES, &p.maps[1], 0, tile * 64, &full[stage]);
                tma_load_2d(at + A_BYTES + B_BYTES / 2, &p.maps[1], 64, tile * 64, &full[stage]);
            }
        return;
    }
    float d[64];
    for (int tile = 0; tile < tiles; tile++) {
        const int stage = tile % STAGES, turn = tile / STAGES;
        const unsigned char *at = smem + stage * STAGE;
        mbar_wait(&full[stage], turn & 1);
        const uint64_t a = wg_desc(at, 16, 1024), b = wg_desc(at + A_BYTES, B_BYTES / 2, 1024);
        wg_fence();
        for (int k = 0; k < 4; k++)
            wgmma_ss<__half, 128, 1>(d, a + uint64_t(k * 2), b + uint64_t(k * 128), tile > 0 || k > 0);
        wg_commit();
        wg_wait<1>();
        if (tile > 0) mbar_arrive(&empty[(tile - 1) % STAGES]);
    }
    wg_wait<0>();
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float *to = reinterpret_cast<float *>(p.to) + (warp * 16 + lane / 4) * 128 + lane % 4 * 2;
    for (int i = 0; i < 64; i++) to[i / 2 % 2 * 8 * 128 + i / 4 * 8 + i % 2] = d[i];
#endif
}
KERNEL(conformance_pipeline, ConformanceParams, 160, pipeline)
