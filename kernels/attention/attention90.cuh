// Attention for Hopper (sm_90a) with heads of 64 columns that are to be rotated, f16 and bf16: the kernels
// attention90_T_64. What they compute is what attention_long.cuh does, without ALiBi. (Sequences of more than
// HOPPER_ROTATES tokens, and heads that are not to be rotated, have attention90_tensor.cuh.)
//
// A persistent block takes one head of an item (params.h, AttentionItem) after the other, heads fastest. Its last
// warpgroup is the producer: cp.async brings tiles of 64 keys and 64 values into a ring of stages (common/ring.cuh), in
// the 128-byte swizzle that wgmma reads, and the keys are rotated there, once for all queries of the item. The other
// warpgroups are consumers, which take turns at 64 queries and go through all tiles of keys: s = q k^T by wgmma, q in
// registers; the online softmax in registers; o += p v by wgmma, p in registers. Nothing keeps them in step: one has its
// softmax while another has its products, or those of the next item. A sequence that fits into the ring (HOPPER_WHOLE)
// is one item, and its keys stay for all its queries; others have items of as many queries as one turn takes. Grid: one
// block per SM.
//
// Bound, in 64 queries by 64 keys an SM: 256 cycles by the tensor cores, as many by the exponentials; below about 200
// tokens by the bytes of q, k, v and out. On an H200, f16, 20 heads, rotated, in TFLOP/s: 96 at length 100, 177 at 170,
// 273 at 350, 365 at 512, and 346 to 359 at 1022. (mma.sync there, rotated: 64 at 100, 124 at 350, 164 at 1022.
// FlashAttention-3 publishes 333 at 512 and 392 at 1024, without rotation.)
//
// What made rotation cheap (at length 1022 all took 663 us on the H200, of which it took some 140, and now 512 to 525):
// - Angles come by cp.async two tiles ahead. Loads into the 32 registers of a producing thread were waited for four
//   times per tile. They come by way of the L1 cache: all SMs ask for the same lines at once, which the second level gives
//   out slowly (at length 100 past L1: 388 us, through it 180).
// - 16 lanes per row, two columns per lane, rows r and r + 4 together: no bank is read twice. With eight bytes per lane,
//   in rows one after the other, each access took ten turns instead of two.
//
// Tensor copies (TMA) of keys and values are not faster where keys are rotated after them. One thread began them, those
// of a tile's queries to L2 too, the producers waited for a tile, made its values past the end zeros, and rotated as here:
// the same bits, on one H200 in one run, some 34,000 tokens, in us (here, by tensor copies): 182 and 238 at length 100, 224
// and 229 at 350, 512 and 609 at 1022, 2083 and 2319 at 4096, 334 and 360 with lengths of proteins. (Commit 9ff0259.)
//
// Everything is counted from the sequence's first token. Rows past the end are zeros in shared memory and never a
// neighbour's.
#pragma once

#include "attention.cuh"
#include "../common/ptx90.cuh"
#include "../common/ring.cuh"

#ifdef SM90A

// The fragment of wgmma's sums that a thread holds: element i of [64, columns] is in one of two rows, g and g + 8 of the
// warp's 16 rows (g = lane / 4), and of each 8 columns in 2 (lane % 4) or the next.
__device__ constexpr int fragment_row(int i) { return (i / 2) % 2 * 8; }
__device__ constexpr int fragment_column(int i) { return (i / 4) * 8 + i % 2; }

// 64 rows of a warpgroup: queries, scores and results. `t` is lane % 4.
template <typename T> struct Rows64 {
    uint32_t q[4][4]; // A of four products of 16 columns
    float o[32];
    float row_max[2], row_sum[2];

    // `row` is the thread's row g, counted from the item's first, `q0` the item's first row.
    __device__ __forceinline__ void load_q(const T *q0, uint64_t stride, const float2 *rotary, int row, int rows,
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
                    first = pack2<T>(fmaf(a[0], angle.x, -(b[0] * angle.y)), fmaf(a[1], angle.z, -(b[1] * angle.w)));
                    second = pack2<T>(fmaf(b[0], angle.x, a[0] * angle.y), fmaf(b[1], angle.z, a[1] * angle.w));
                }
#pragma unroll
        for (int i = 0; i < 32; i++) o[i] = 0;
        row_max[0] = row_max[1] = -INFINITY;
        row_sum[0] = row_sum[1] = 0;
    }

    static __device__ __forceinline__ void unpack(float (&to)[2], uint32_t pair) {
        const Packed<T, 2> values = *reinterpret_cast<const Packed<T, 2> *>(&pair);
        to[0] = to_f32(values.values[0]);
        to[1] = to_f32(values.values[1]);
    }

    // Scores become weights, and what is summed so far is rescaled.
    template <bool CUT, int KEYS>
    __device__ __forceinline__ void softmax(float (&s)[KEYS / 2], int valid, float scale2, int t) {
        if constexpr (CUT) {
#pragma unroll
            for (int i = 0; i < KEYS / 2; i++)
                if (fragment_column(i) + 2 * t >= valid) s[i] = -INFINITY;
        }
        // A score that is not finite must not pass as a number: NaN stays NaN in its weight, inf - inf is NaN.
        float rescale[2];
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float new_max = row_max[r];
#pragma unroll
            for (int i = 2 * r; i < KEYS / 2; i += 4) new_max = fmaxf(new_max, fmaxf(s[i], s[i + 1]));
            new_max = fmaxf(new_max, __shfl_xor_sync(0xffffffffu, new_max, 1));
            new_max = fmaxf(new_max, __shfl_xor_sync(0xffffffffu, new_max, 2));
            rescale[r] = exp2_approx((row_max[r] - new_max) * scale2);
            row_max[r] = new_max;
            const float minus = -new_max * scale2;
            float tile_sum[2] = {0, 0};
#pragma unroll
            for (int i = 2 * r; i < KEYS / 2; i += 4)
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    s[i + j] = exp2_approx(fmaf(s[i + j], scale2, minus));
                    tile_sum[j] += s[i + j];
                }
            row_sum[r] = fmaf(row_sum[r], rescale[r], tile_sum[0] + tile_sum[1]);
        }
        // Mostly nothing is larger than what came before, and times 1 changes no bit.
        if (__any_sync(0xffffffffu, rescale[0] != 1.0f || rescale[1] != 1.0f)) {
#pragma unroll
            for (int i = 0; i < 32; i++) o[i] *= rescale[(i / 2) % 2];
        }
    }

    // A tile of KEYS keys and their values, given as descriptors: s = q k^T, softmax, o += p v. Of the keys `valid` are
    // the sequence's: with CUT those may be fewer than KEYS. `scale2` is the scores' scale times log2 e.
    template <bool CUT, int KEYS>
    __device__ __forceinline__ void mma(uint64_t keys, uint64_t values, int valid, float scale2, int t) {
        float s[KEYS / 2];
        wg_fence();
#pragma unroll
        for (int k = 0; k < 4; k++) wgmma_rs<T, KEYS, 0>(s, q[k], keys + 2 * k, k > 0);
        wg_commit();
        wg_wait<0>();
        softmax<CUT, KEYS>(s, valid, scale2, t);
        uint32_t p[KEYS / 16][4];
#pragma unroll
        for (int i = 0; i < KEYS / 4; i++) p[i / 4][i % 4] = pack2<T>(s[2 * i], s[2 * i + 1]);
        wg_fence();
#pragma unroll
        for (int k = 0; k < KEYS / 16; k++) wgmma_rs<T, 64, 1>(o, p[k], values + 128 * k, 1);
        wg_commit();
        wg_wait<0>();
    }

    // Divides by row_sum and writes the rows below `rows` and nothing else: the rows of the next sequence lie right
    // behind. Lanes exchange halves, so that four of them write 32 bytes that lie together.
    __device__ __forceinline__ void store_o(T *out, uint64_t stride, int row, int rows, int t) {
        const bool odd = t % 2 != 0;
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float sum = row_sum[r];
            sum += __shfl_xor_sync(0xffffffffu, sum, 1);
            sum += __shfl_xor_sync(0xffffffffu, sum, 2);
            const float inverse = 1.0f / sum;
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

// The work of a persistent block: the heads of its items, one after the other. All lanes call these functions together.
// The item of the next head is read one head ahead, one word per lane. Since shuffles share it out, the compiler knows
// that it is the same in all lanes, and keeps it in uniform registers: of the others a producing thread has 32.
struct Heads90 {
    uint32_t block, blocks, heads;
    int coming = 0;
    AttentionItem item;

    __device__ __forceinline__ Heads90(const AttentionParams &p)
        : block(blockIdx.x), blocks(p.heads * p.count), heads(p.heads) {
        ask(p, block);
        open(p);
    }
    __device__ __forceinline__ bool ended() const { return block >= blocks; }
    __device__ __forceinline__ uint32_t head() const { return block % heads; }
    __device__ __forceinline__ void next(const AttentionParams &p) {
        block += gridDim.x;
        open(p);
    }

  private:
    __device__ __forceinline__ void ask(const AttentionParams &p, uint32_t of) {
        if (of < blocks) coming = at<const int>(p.items)[of / heads * 4 + threadIdx.x % 4];
    }
    __device__ __forceinline__ void open(const AttentionParams &p) {
        item.first = __shfl_sync(0xffffffffu, coming, 0);
        item.length = __shfl_sync(0xffffffffu, coming, 1);
        item.row = __shfl_sync(0xffffffffu, coming, 2);
        item.rows = __shfl_sync(0xffffffffu, coming, 3);
        ask(p, block + gridDim.x);
    }
};

// A block's shared memory.
template <typename T> struct Shared90 {
    T *ring;                // stages of keys and values
    float2 *angles;         // of the tiles under way and of the tile that is rotated
    uint64_t *full, *empty; // the barriers of each stage
};

#ifdef SM90A

// The numbers of the kernels for heads of 64 columns.
namespace head64 {
constexpr int D = 64, KEYS = HOPPER_KEYS, TILE = KEYS * D;
constexpr int CONSUMERS = HOPPER_CONSUMERS, STAGES = HOPPER_STAGES, AHEAD = HOPPER_AHEAD;
static_assert(HOPPER_HEAD_DIM == D && KEYS == 64, "a producing warp has 16 rows of a tile");

// The producing warpgroup: it fetches tiles, rotates keys, and hands the tiles on.
template <typename T>
__device__ __forceinline__ void produce(const AttentionParams &p, const Shared90<T> &shared, Heads90 &work) {
    T *const ring = shared.ring;
    float2 *const angles = shared.angles;
    uint64_t *const full = shared.full, *const empty = shared.empty;
    const int lane = threadIdx.x % 32;
    const uint64_t row_stride = uint64_t(p.heads) * D, stride = 3 * row_stride;
    const float2 *rotary = at<const float2>(p.rotary);
    // A warp has eight rows of each half of a tile. Of a row a thread fetches two chunks of 16 bytes, in keys and
    // in values. The eight lanes that write at once have rows r and r + 4, whose chunks the swizzle keeps in
    // different banks.
    constexpr int HALF = KEYS / 2, OTHER = 32; // the other chunk is 32 columns on
    const int thread = threadIdx.x % 128, warp_row = thread / 32 * 8;
    const int upper = (lane / 4) % 2; // whether the lane has one of the upper four rows
    const int row = warp_row + 4 * upper + lane / 8, chunk = 8 * (lane % 4);
    // It rotates what its warp fetched, 16 lanes per row and two columns per lane: so the angles of a row are read as
    // they lie, and rows r and r + 4 take all banks. A thread has the angles of 4 rows of each half.
    const int rotated_row = warp_row + 4 * (lane / 16), pair = 2 * (lane % 16);
    RingCursor<STAGES> free; // the stage to fetch to
    int key = 0;             // the first key of the tile, counted from the sequence's first
    int under_way = 0;       // tiles that are fetched and not yet handed on
    int ready = -AHEAD;      // the stage to hand on, once AHEAD tiles are under way
    int part = 0;            // of `angles`, for the tile that is fetched; the oldest is the next
#pragma unroll 1
    while (!work.ended() || under_way > 0) {
        const int oldest = part < AHEAD ? part + 1 : 0;
        if (!work.ended()) {
            mbar_wait(&empty[free.stage], free.phase ^ 1);
            const int length = int(work.item.length);
            const uint32_t to = free.stage * (2 * TILE) + row * D + (chunk ^ (8 * (row % 8)));
            const uint64_t first = uint64_t(work.item.first) + key;
            const T *keys = at<const T>(p.qkv) + first * stride + row_stride + work.head() * D;
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const bool inside = key + i * HALF + row < length;
                const T *from = keys + (inside ? (i * HALF + row) * uint32_t(stride) + chunk : 0);
                T *const here = ring + to + i * HALF * D, *const there = ring + (to ^ OTHER) + i * HALF * D;
                cp_async16(here, from, inside);
                cp_async16(there, from + OTHER, inside);
                cp_async16(here + TILE, from + row_stride, inside);
                cp_async16(there + TILE, from + row_stride + OTHER, inside);
                // The queries of these rows are needed soon, too.
                if (chunk == 0) prefetch_l2(from - row_stride);
            }
#pragma unroll
            for (int i = 0; i < 8; i++) { // rows past the end are zeros, whatever the angle
                const int position = min(key + rotated_row + (i / 4) * HALF + i % 4, length - 1);
                const float2 *from = rotary + uint32_t(position) * (D / 2) + pair;
                cp_async16_l1(&angles[((part * 8 + i) * 128 + thread) * 2], from);
            }
            under_way++;
            free.next();
            key += KEYS;
            if (key >= length) {
                key = 0;
                work.next(p);
            }
        }
        cp_async_commit(); // perhaps of nothing: so the groups count the tiles
        part = oldest;
        if (ready < 0) {
            ready++;
            continue;
        }
        cp_async_wait<AHEAD>();
        __syncwarp(); // what the other lanes fetched is there, too
        const uint32_t tile = ready * (2 * TILE) + rotated_row * D + (pair ^ (8 * (rotated_row % 8)));
#pragma unroll
        for (int i = 0; i < 8; i++) {
            T *const rows = ring + ((i / 4) * HALF + i % 4) * D;
            const uint32_t at = tile ^ (8 * (i % 4)); // the swizzle of the row
            const float2 *const row_angles = &angles[((oldest * 8 + i) * 128 + thread) * 2];
            rotate_pairs<2>(rows + at, rows + (at ^ OTHER), row_angles);
        }
        fence_proxy_async();
        __syncwarp();
        if (lane == 0) mbar_arrive(&full[ready]);
        ready = ready + 1 < STAGES ? ready + 1 : 0;
        under_way--;
    }
}

// One of the consuming warpgroups, number `group`: it computes, and releases the tiles.
template <typename T>
__device__ __forceinline__ void consume(const AttentionParams &p, const Shared90<T> &shared, Heads90 &work, int group) {
    constexpr uint64_t TILE_STEP = TILE * sizeof(T) / 16; // in a descriptor
    uint64_t *const full = shared.full, *const empty = shared.empty;
    const int lane = threadIdx.x % 32;
    const uint64_t row_stride = uint64_t(p.heads) * D, stride = 3 * row_stride;
    const float2 *rotary = at<const float2>(p.rotary);
    const int t = lane % 4;
    const float scale2 = p.scale * 1.44269504088896340736f;
    const uint64_t first_keys = wg_desc(shared.ring, 0, 8 * 128);
    RingCursor<STAGES> item_start; // the stage of the item's first keys
    int turn = group; // the number of this warpgroup's first 64 queries: all take turns, across the items too
    Rows64<T> queries;
#pragma unroll 1
    for (; !work.ended(); work.next(p)) {
        const int length = int(work.item.length), rows = int(work.item.rows), item_row = int(work.item.row);
        const uint64_t first = work.item.first + work.item.row;
        int begin = turn * 64;
        turn = (turn + (CONSUMERS << 16) - (rows + 63) / 64) % CONSUMERS;
        RingCursor<STAGES> cursor;
#pragma unroll 1
        do {
            const bool last_pass = begin + CONSUMERS * 64 >= rows;
            cursor = item_start;
            const auto wait = [&] { mbar_wait(&full[cursor.stage], cursor.phase); };
            const auto release = [&] {
                __syncwarp();
                if (last_pass && lane == 0) mbar_arrive(&empty[cursor.stage]);
                cursor.next();
            };
            if (begin >= rows) { // no queries, but all consumers must release every tile
                for (int remaining = length; remaining > 0; remaining -= KEYS) {
                    wait();
                    release();
                }
                break;
            }
            const int row = begin + (threadIdx.x % 128) / 32 * 16 + lane / 4;
            queries.load_q(at<const T>(p.qkv) + first * stride + work.head() * D, stride,
                           rotary + uint64_t(item_row) * (D / 2), row, rows, t);
            const auto keys = [&] { return first_keys + cursor.stage * (2 * TILE_STEP); };
            int remaining = length; // keys of the sequence
#pragma unroll 1
            for (; remaining >= KEYS; remaining -= KEYS) {
                wait();
                queries.template mma<false, KEYS>(keys(), keys() + TILE_STEP, KEYS, scale2, t);
                release();
            }
            if (remaining > 0) {
                wait();
                const uint64_t values = keys() + TILE_STEP;
                if (remaining > KEYS / 2)
                    queries.template mma<true, KEYS>(keys(), values, remaining, scale2, t);
                else
                    queries.template mma<true, KEYS / 2>(keys(), values, remaining, scale2, t);
                release();
            }
            queries.store_o(at<T>(p.out) + first * row_stride + work.head() * D, row_stride, row, rows, t);
            begin += CONSUMERS * 64;
        } while (begin < rows);
        item_start = cursor;
    }
}

} // namespace head64

#endif

template <typename T> __device__ __forceinline__ void attention90(const AttentionParams &p) {
#ifdef SM90A
    using namespace head64;
    static_assert(HOPPER_SHARED_BYTES == STAGES * 2 * TILE * sizeof(T) + STAGES * 2 * sizeof(uint64_t) +
                                             (AHEAD + 1) * 8 * 128 * 2 * sizeof(float2),
                  "the host asks for as much");
    DYN_SMEM(memory);
    Shared90<T> shared;
    shared.ring = reinterpret_cast<T *>(memory);
    shared.full = reinterpret_cast<uint64_t *>(memory + STAGES * 2 * TILE * sizeof(T));
    shared.empty = shared.full + STAGES;
    shared.angles = reinterpret_cast<float2 *>(shared.empty + STAGES); // 8 pairs per producing thread and tile

    // A shuffle, so that the compiler knows it for the same in all lanes.
    const int group = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0);
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            mbar_init(&shared.full[i], 4);
            mbar_init(&shared.empty[i], 4 * CONSUMERS);
        }
        fence_mbar_init();
    }
    __syncthreads();

    Heads90 work(p);
    if (group == CONSUMERS) {
        setmaxnreg_dec<HOPPER_PRODUCER_REGISTERS>();
        produce(p, shared, work);
    } else {
        setmaxnreg_inc<HOPPER_CONSUMER_REGISTERS>();
        consume(p, shared, work, group);
    }
#endif
}
