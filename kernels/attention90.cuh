// Attention for Hopper (sm_90a) with heads of 64 columns, f16 and bf16: the kernels attention90_T_64. What they compute
// is what attention_long.cuh does.
//
// A block stays on its SM and takes one head of an item (params.h, AttentionItem) after the other, heads fastest. Its
// first warpgroup produces: cp.async brings tiles of 64 keys and 64 values into a ring, in the 128-byte swizzle that
// wgmma reads, and the keys are rotated there, once for all queries of the item. The others consume: they take turns at
// 64 queries, which meet all keys: s = q k^T by wgmma, q in registers; the online softmax in registers; o += p v by
// wgmma, p in registers. Nothing keeps them in step: one has its softmax while another has its products, or the next
// item's. A sequence that fits into the ring (HOPPER_WHOLE) is one item, and its keys stay for all its queries; others
// have items of as many queries as one turn takes. Grid: a block an SM.
//
// Bound, in 64 queries by 64 keys an SM: 256 cycles by the tensor cores, as many by the exponentials; below about 200
// tokens by the bytes of q, k, v and out. On an H100, f16, 20 heads, in TFLOP/s: 231 at length 350, 303 at 512, 275 at
// 1022, 289 at 2048; without rotation 261 at 350 and 370 at 1022. (mma.sync: 124, 155, 169, 177; 177 and 250.
// FlashAttention-3 publishes 333 at 512 and 392 at 1024.) What rotation costs is the reading of angles: all SMs read
// the same lines of the second-level cache at once. Asynchronous copies of them were slower (206 at 350).
//
// Everything is counted from the sequence's first token. Rows past the end are zeros in shared memory and never a
// neighbour's.
#pragma once

#include "attention.cuh"
#include "ptx90.cuh"

#ifdef SM90A

// 64 queries of a warpgroup, and what has become of them. Thread t of the warpgroup has rows g and g + 8 of its warp's
// 16, g = t % 32 / 4, and of each 8 columns 2 (t % 4) and the next.
template <typename T> struct Queries90 {
    uint32_t q[4][4]; // A of four products of 16 columns
    float o[32];
    float top[2], sum[2];

    // `row` is the thread's row g, counted from the item's first, `q0` the item's first row.
    __device__ __forceinline__ void begin(const T *q0, uint64_t stride, const float2 *rotary, int row, int rows,
                                          int t) {
        // All loads before the first use. Rows past the item's read another's, which nobody sees.
        const int at_row[2] = {row < rows ? row : 0, row + 8 < rows ? row + 8 : 0};
#pragma unroll
        for (int r = 0; r < 2; r++)
#pragma unroll
            for (int k = 0; k < 4; k++)
#pragma unroll
                for (int h = 0; h < 2; h++)
                    q[k][r + 2 * h] =
                        *reinterpret_cast<const uint32_t *>(q0 + at_row[r] * stride + 2 * t + 16 * k + 8 * h);
        if (rotary) {
            float4 angles[2][2][2];
#pragma unroll
            for (int r = 0; r < 2; r++)
#pragma unroll
                for (int k = 0; k < 2; k++)
#pragma unroll
                    for (int h = 0; h < 2; h++)
                        angles[r][k][h] =
                            *reinterpret_cast<const float4 *>(rotary + at_row[r] * 32 + 2 * t + 16 * k + 8 * h);
#pragma unroll
            for (int r = 0; r < 2; r++)
#pragma unroll
                for (int k = 0; k < 2; k++)
#pragma unroll
                    for (int h = 0; h < 2; h++) {
                        const float4 angle = angles[r][k][h];
                        uint32_t &first = q[k][r + 2 * h], &second = q[k + 2][r + 2 * h];
                        float a[2], b[2];
                        unpack(a, first);
                        unpack(b, second);
                        first = pack2<T>(fmaf(a[0], angle.x, -(b[0] * angle.y)),
                                         fmaf(a[1], angle.z, -(b[1] * angle.w)));
                        second = pack2<T>(fmaf(b[0], angle.x, a[0] * angle.y), fmaf(b[1], angle.z, a[1] * angle.w));
                    }
        }
#pragma unroll
        for (int i = 0; i < 32; i++) o[i] = 0;
        top[0] = top[1] = -INFINITY;
        sum[0] = sum[1] = 0;
    }

    static __device__ __forceinline__ void unpack(float (&to)[2], uint32_t pair) {
        const Packed<T, 2> values = *reinterpret_cast<const Packed<T, 2> *>(&pair);
        to[0] = to_f32(values.values[0]);
        to[1] = to_f32(values.values[1]);
    }

    // Scores become weights, and what is summed so far is rescaled.
    template <bool CUT, int KEYS>
    __device__ __forceinline__ void weigh(float (&s)[KEYS / 2], int valid, float apart, float slope, float scale2,
                                          int t) {
        if (slope != 0) {
#pragma unroll
            for (int i = 0; i < KEYS / 2; i++)
                s[i] = fmaf(-slope, fabsf(apart + float(i / 2 % 2 * 8 - i / 4 * 8 - i % 2)), s[i]);
        }
        if constexpr (CUT) {
#pragma unroll
            for (int i = 0; i < KEYS / 2; i++)
                if (i / 4 * 8 + 2 * t + i % 2 >= valid) s[i] = -INFINITY;
        }
        // A score that is not finite must not pass as a number: NaN stays NaN in its weight, inf - inf is NaN.
        float shrink[2];
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float most = top[r];
#pragma unroll
            for (int i = 2 * r; i < KEYS / 2; i += 4) most = fmaxf(most, fmaxf(s[i], s[i + 1]));
            most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
            most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
            shrink[r] = exp2_approx((top[r] - most) * scale2);
            top[r] = most;
            const float minus = -most * scale2;
            float part[2] = {0, 0};
#pragma unroll
            for (int i = 2 * r; i < KEYS / 2; i += 4)
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    s[i + j] = exp2_approx(fmaf(s[i + j], scale2, minus));
                    part[j] += s[i + j];
                }
            sum[r] = fmaf(sum[r], shrink[r], part[0] + part[1]);
        }
        // Mostly nothing is larger than what came before, and times 1 changes no bit.
        if (__any_sync(0xffffffffu, shrink[0] != 1.0f || shrink[1] != 1.0f)) {
#pragma unroll
            for (int i = 0; i < 32; i++) o[i] *= shrink[i / 2 % 2];
        }
    }

    // They meet KEYS keys, and then their values. Of the keys `valid` are the sequence's: with CUT those may be fewer.
    // `apart` is the distance of the thread's first row from the thread's first key; `slope` ALiBi's over `scale`, or
    // 0; `scale2` the scores' scale times log2 e.
    template <bool CUT, int KEYS>
    __device__ __forceinline__ void meet(uint64_t keys, uint64_t values, int valid, float apart, float slope,
                                         float scale2, int t) {
        float s[KEYS / 2];
        wg_fence();
#pragma unroll
        for (int k = 0; k < 4; k++) wgmma_rs<T, KEYS, 0>(s, q[k], keys + 2 * k, k > 0);
        wg_commit();
        wg_wait<0>();
        weigh<CUT, KEYS>(s, valid, apart, slope, scale2, t);
        uint32_t p[KEYS / 16][4];
#pragma unroll
        for (int i = 0; i < KEYS / 4; i++) p[i / 4][i % 4] = pack2<T>(s[2 * i], s[2 * i + 1]);
        wg_fence();
#pragma unroll
        for (int k = 0; k < KEYS / 16; k++) wgmma_rs<T, 64, 1>(o, p[k], values + 128 * k, 1);
        wg_commit();
        wg_wait<0>();
    }

    // Divides by the sums and writes the rows below `rows`: nothing else, the next sequence's lie right behind. Lanes
    // exchange halves, so that four of them write 32 bytes that lie together.
    __device__ __forceinline__ void end(T *out, uint64_t stride, int row, int rows, int t) {
        const bool odd = t % 2 != 0;
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float all = sum[r];
            all += __shfl_xor_sync(0xffffffffu, all, 1);
            all += __shfl_xor_sync(0xffffffffu, all, 2);
            const float inverse = 1.0f / all;
            T *to = out + (row + 8 * r) * stride + 8 * (t % 2) + 4 * (t / 2);
#pragma unroll
            for (int m = 0; m < 4; m++) {
                const uint32_t even_block = pack2<T>(o[8 * m + 2 * r] * inverse, o[8 * m + 2 * r + 1] * inverse);
                const uint32_t odd_block = pack2<T>(o[8 * m + 4 + 2 * r] * inverse, o[8 * m + 5 + 2 * r] * inverse);
                const uint32_t other = __shfl_xor_sync(0xffffffffu, odd ? even_block : odd_block, 1);
                uint2 both;
                both.x = odd ? other : even_block;
                both.y = odd ? odd_block : other;
                if (row + 8 * r < rows) *reinterpret_cast<uint2 *>(to + 16 * m) = both;
            }
        }
    }
};

#endif

// Where a block is in its work: a tile of keys of an item.
struct Cursor90 {
    uint32_t block, blocks; // heads times items
    int tile, tiles;        // of the item; blocks past the end have none
    uint32_t first, head;
    int length;

    __device__ __forceinline__ void open(const AttentionParams &p, int keys) {
        tile = 0;
        tiles = 0x7fffffff;
        if (block >= blocks) return;
        const AttentionItem item = at<const AttentionItem>(p.items)[block / p.heads];
        head = block % p.heads;
        first = item.first;
        length = int(item.length);
        tiles = (length + keys - 1) / keys;
    }
    __device__ __forceinline__ void next(const AttentionParams &p, int keys) {
        if (++tile < tiles) return;
        block += gridDim.x;
        open(p, keys);
    }
};

template <typename T> __device__ __forceinline__ void attention90(const AttentionParams &p) {
#ifdef SM90A
    constexpr int D = 64, KEYS = HOPPER_KEYS, TILE = KEYS * D;
    constexpr int CONSUMERS = HOPPER_CONSUMERS, STAGES = HOPPER_STAGES, AHEAD = HOPPER_AHEAD;
    constexpr uint64_t TILE_STEP = TILE * sizeof(T) / 16; // in a descriptor
    static_assert(KEYS == 64, "a producing thread has two rows of a tile");
    DYN_SMEM(shared);
    T *ring = reinterpret_cast<T *>(shared); // stages of KEYS keys and KEYS values
    uint64_t *full = reinterpret_cast<uint64_t *>(shared + STAGES * 2 * TILE * sizeof(T)), *empty = full + STAGES;

    const int group = threadIdx.x / 128, lane = threadIdx.x % 32;
    const uint32_t blocks = p.heads * p.count;
    const uint64_t row_stride = uint64_t(p.heads) * D, stride = 3 * row_stride;
    const float2 *rotary = at<const float2>(p.rotary);

    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            mbar_init(&full[i], 4);
            mbar_init(&empty[i], 4 * CONSUMERS);
        }
        fence_mbar_init();
    }
    __syncthreads();

    if (group == 0) {
        setmaxnreg_dec<HOPPER_PRODUCER_REGISTERS>();
        // Of each half of a tile a thread has one row, two chunks of 16 bytes that are rotated with each other, in keys
        // and in values: it rotates what it fetched itself, and needs no barrier between.
        const int row = threadIdx.x / 4, column = threadIdx.x % 4 * 8;
        const int mine = row * D + (column ^ row % 8 * 8); // in a tile; the partner is 32 columns on
        constexpr int HALF = KEYS / 2, OTHER = 32;
        const T *const from = at<const T>(p.qkv) + row_stride + column;
        Cursor90 fetched = {blockIdx.x, blocks}, ready = {blockIdx.x, blocks};
        fetched.open(p, KEYS);
        ready.open(p, KEYS);
        int fetched_stage = 0, parity = 1, ready_stage = 0, ahead = 0;
#pragma unroll 1
        while (ready.block < blocks) {
            if (fetched.block < blocks) {
                mbar_wait(&empty[fetched_stage], parity);
                T *const to = ring + fetched_stage * 2 * TILE;
                const int left = fetched.length - fetched.tile * KEYS - row;
                const T *k = from + uint64_t(fetched.first + fetched.tile * KEYS + row) * stride + fetched.head * D;
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    const bool inside = left > i * HALF;
                    const T *source = inside ? k + i * HALF * stride : from;
                    cp_async16(to + i * HALF * D + mine, source, inside);
                    cp_async16(to + i * HALF * D + (mine ^ OTHER), source + OTHER, inside);
                    cp_async16(to + TILE + i * HALF * D + mine, source + row_stride, inside);
                    cp_async16(to + TILE + i * HALF * D + (mine ^ OTHER), source + row_stride + OTHER, inside);
                    // The queries of these rows are wanted soon, too.
                    if (column == 0) prefetch_l2(source - row_stride);
                }
                if (++fetched_stage == STAGES) {
                    fetched_stage = 0;
                    parity ^= 1;
                }
                fetched.next(p, KEYS);
            }
            cp_async_commit(); // perhaps of nothing: so the groups count the tiles
            if (ahead < AHEAD) {
                ahead++;
                continue;
            }
            cp_async_wait<AHEAD>();
            if (rotary) {
                const int key = ready.tile * KEYS + row;
                T *const keys = ring + ready_stage * 2 * TILE;
                const float2 *angles = rotary + uint64_t(key) * (D / 2) + column;
#pragma unroll
                for (int i = 0; i < 2; i++)
                    if (key + i * HALF < ready.length)
#pragma unroll
                        for (int c = 0; c < 8; c += 4)
                            rotate_pairs<4>(keys + i * HALF * D + mine + c, keys + i * HALF * D + (mine ^ OTHER) + c,
                                            angles + i * HALF * (D / 2) + c);
            }
            fence_proxy_async();
            __syncwarp();
            if (lane == 0) mbar_arrive(&full[ready_stage]);
            ready_stage = ready_stage + 1 < STAGES ? ready_stage + 1 : 0;
            ready.next(p, KEYS);
        }
    } else {
        setmaxnreg_inc<HOPPER_CONSUMER_REGISTERS>();
        const int t = lane % 4, in_group = threadIdx.x % 128 / 32 * 16 + lane / 4;
        const float scale2 = p.scale * 1.44269504088896340736f;
        const uint64_t first_keys = wg_desc(ring, 0, 8 * 128);
        int item_stage = 0, item_parity = 0; // where the item's keys begin
        int turn = group - 1;                // this warpgroup's first 64 queries: all take turns, over the items too
        Queries90<T> queries;
#pragma unroll 1
        for (uint32_t block = blockIdx.x; block < blocks; block += gridDim.x) {
            const uint32_t head = block % p.heads;
            const AttentionItem item = at<const AttentionItem>(p.items)[block / p.heads];
            const int length = int(item.length), rows = int(item.rows);
            const float slope = p.slopes ? at<const float>(p.slopes)[head] / p.scale : 0.0f;
            const T *q = at<const T>(p.qkv) + (item.first + item.row) * stride + head * D;
            T *out = at<T>(p.out) + (item.first + item.row) * row_stride + head * D;
            int stage = item_stage, parity = item_parity;
            int begin = turn * 64;
            turn = (turn + (CONSUMERS << 16) - (rows + 63) / 64) % CONSUMERS;
#pragma unroll 1
            do {
                const int row = begin + in_group;
                const bool last_pass = begin + CONSUMERS * 64 >= rows;
                stage = item_stage;
                parity = item_parity;
                const auto release = [&](int released) {
                    __syncwarp();
                    if (last_pass && lane == 0) mbar_arrive(&empty[released]);
                };
                const auto next = [&] {
                    if (++stage == STAGES) {
                        stage = 0;
                        parity ^= 1;
                    }
                };
                if (begin >= rows) { // nothing to do, but the others' tiles are to be released
                    for (int key = 0; key < length; key += KEYS) {
                        mbar_wait(&full[stage], parity);
                        release(stage);
                        next();
                    }
                    break;
                }
                queries.begin(q, stride, rotary ? rotary + uint64_t(item.row) * (D / 2) : nullptr, row, rows, t);
                float apart = float(int(item.row) + row - 2 * t);
                const auto keys = [&] { return first_keys + stage * (2 * TILE_STEP); };
                int left = length;
#pragma unroll 1
                for (; left >= KEYS; left -= KEYS) {
                    mbar_wait(&full[stage], parity);
                    queries.template meet<false, KEYS>(keys(), keys() + TILE_STEP, KEYS, apart, slope, scale2, t);
                    release(stage);
                    next();
                    apart -= KEYS;
                }
                if (left > 0) {
                    mbar_wait(&full[stage], parity);
                    const uint64_t values = keys() + TILE_STEP;
                    if (left > KEYS / 2)
                        queries.template meet<true, KEYS>(keys(), values, left, apart, slope, scale2, t);
                    else
                        queries.template meet<true, KEYS / 2>(keys(), values, left, apart, slope, scale2, t);
                    release(stage);
                    next();
                }
                queries.end(out, row_stride, row, rows, t);
                begin += CONSUMERS * 64;
            } while (begin < rows);
            item_stage = stage;
            item_parity = parity;
        }
    }
#endif
}
