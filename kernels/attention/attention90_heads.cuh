// Attention for Hopper (sm_90a) with heads of 16, 24, 32 and 128 columns that are to be rotated, f16 and bf16: the kernels
// attention90_T_D. (Heads of 64 columns have attention90.cuh, which is made in the same way and came first. Heads that
// are not to be rotated, and sequences of more than 384 tokens with heads of 128, have attention90_tensor.cuh.)
//
// Computes: what attention_long.cuh computes, softmax(q k^T * scale) v within each sequence, by FlashAttention's online
// softmax, with q and k rotated. Products are wgmma with f32 sums; weights are rounded to T.
//
// Shapes: params.h, AttentionParams. HOPPER_TILES in launch.h has, for each width, the numbers of warpgroups, keys and
// stages. Heads of 24 columns lie in rows of 32 in shared memory: the last 8 columns are zeros.
//
// Launch: 128 * (consumers + 1) threads, one block for each multiprocessor, the tile's shared_bytes of dynamic shared memory.
// A persistent block takes one head of an item after the other, heads fastest. Its last warpgroup is the producer:
// cp.async brings tiles of keys and values into a ring of stages, and the keys are rotated there. The other warpgroups
// are consumers: they take turns at 64 queries, and go through all tiles of keys. A sequence that fits into the ring is
// one item, and its keys stay for all its queries.
//
// Bound and measured: benches/results/2026-11-29-attention-h200.md has the figures, and what was tried. Exponentials
// bound heads of up to 32 columns (248, 371 and 495 TFLOP/s with 16, 24 and 32), the tensor cores heads of 128. On an H200,
// f16, at lengths 350, 1022 and 4096, in TFLOP/s: 114, 136 and 159 with 20 heads of 16; 150, 185 and 211 with 20 of 24;
// 198, 243 and 280 with 20 of 32; at 350 292 with 40 of 128. (mma.sync at 350: 76, 75, 95 and 129.)
//
// - A producing warp asks whether a stage is free, and hands on a tile that has arrived rather than wait for it. So a
//   sequence may fill the whole ring.
// - The angles of a thread's rows follow from those of the first two: cos((n + 1) x) = 2 cos(x) cos(n x) -
//   cos((n - 1) x), and the same for sines. Loads of all angles took as many bytes as the keys and values themselves.
//   Over the 16 rows of a thread this is off by less than 1e-5, a twentieth of what rounding to f16 costs.
//
// Everything is counted from the sequence's first token. Rows past the end are zeros in shared memory and never a
// neighbour's.
#pragma once

#include "attention90.cuh"

// A head's width and numbers, for device code.
template <int D_> struct Shape90 {
    static constexpr HopperTile TILE = hopper_tile(D_);
    static_assert(TILE.head_dim == D_, "no tile for this head_dim: add one to launch.h");
    static constexpr int D = D_;
    static constexpr int CONSUMERS = TILE.consumers, KEYS = TILE.keys, STAGES = TILE.stages;
    // Columns in shared memory: what wgmma reads has rows of 32, 64 or 128 bytes.
    static constexpr int WIDE = D <= 16 ? 16 : D <= 32 ? 32 : (D + 63) / 64 * 64;
    static constexpr int SPAN = WIDE < 64 ? WIDE * 2 : 128; // bytes of the swizzle
    static constexpr int ELEMENTS = KEYS * WIDE;   // of a tile of keys, or of values
    static constexpr int DEPTH = (D + 15) / 16;    // products of 16 columns
    static constexpr int THREADS = 128 * (CONSUMERS + 1);
    static constexpr int CUT = 32; // the last tile's keys are rounded up to a multiple of this
    static_assert(KEYS % 32 == 0, "the swizzle repeats itself after 8 rows, and each of 4 warps has a quarter");
};

#ifdef SM90A

template <int N> struct Number {
    static constexpr int value = N;
};
// Calls f with the smallest multiple of STEP that is not below `count`, as a number that the compiler knows. `count` is
// at most MOST - STEP.
template <int MOST, int STEP, int N = STEP, class F> __device__ __forceinline__ void rounded_up(int count, F f) {
    if constexpr (N + STEP >= MOST) {
        f(Number<N>());
    } else {
        if (count <= N)
            f(Number<N>());
        else
            rounded_up<MOST, STEP, N + STEP>(count, f);
    }
}

// 64 rows of a warpgroup: queries, scores and results. Thread 32 w + 4 g + t of the warpgroup has rows 16 w + g and
// 16 w + g + 8, and of each 8 columns 2 t and 2 t + 1.
template <typename T, class S> struct Rows90 {
    static constexpr int D = S::D;
    uint32_t q[S::DEPTH][4]; // A of the products with the keys
    float o[D / 2];
    float row_max[2], row_sum[2];

    // `row` is the thread's first row, counted from the item's first; `q0` the item's first row.
    __device__ __forceinline__ void load_q(const T *q0, uint64_t stride, const float2 *rotary, int row, int rows, int t) {
        // Rows past the item's read another row, which nobody sees.
        const int at_row[2] = {row < rows ? row : 0, row + 8 < rows ? row + 8 : 0};
#pragma unroll
        for (int r = 0; r < 2; r++)
#pragma unroll
            for (int b = 0; b < 2 * S::DEPTH; b++) // blocks of 8 columns
                q[b / 2][r + 2 * (b % 2)] =
                    8 * b < D ? *reinterpret_cast<const uint32_t *>(q0 + at_row[r] * stride + 2 * t + 8 * b) : 0;
        rotate_q(rotary, row, rows, t);
        clear();
    }

    // Before the first tile of keys.
    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int i = 0; i < D / 2; i++) o[i] = 0;
        row_max[0] = row_max[1] = -INFINITY;
        row_sum[0] = row_sum[1] = 0;
    }

    // Rotates the queries by the angles of `rotary`, which begin with those of the item's first row.
    __device__ __forceinline__ void rotate_q(const float2 *rotary, int row, int rows, int t) {
        const int at_row[2] = {row < rows ? row : 0, row + 8 < rows ? row + 8 : 0};
        if constexpr (D % 16 == 0)
            rotate(rotary, at_row, t);
        else
            rotate_24(rotary, at_row, t);
    }

    // Both columns of a pair are the same thread's.
    __device__ __forceinline__ void rotate(const float2 *rotary, const int (&at_row)[2], int t) {
        constexpr int BLOCKS = D / 16; // of 8 columns, half a head
        float4 angles[2][BLOCKS];      // all loads before the first use
#pragma unroll
        for (int r = 0; r < 2; r++)
#pragma unroll
            for (int b = 0; b < BLOCKS; b++)
                angles[r][b] = *reinterpret_cast<const float4 *>(rotary + at_row[r] * (D / 2) + 2 * t + 8 * b);
#pragma unroll
        for (int r = 0; r < 2; r++)
#pragma unroll
            for (int b = 0; b < BLOCKS; b++)
                rotate_pair(q[b / 2][r + 2 * (b % 2)], q[(b + BLOCKS) / 2][r + 2 * ((b + BLOCKS) % 2)], angles[r][b]);
    }

    // Column c is rotated with column c + 12, which lane t ^ 2 has.
    __device__ __forceinline__ void rotate_24(const float2 *rotary, const int (&at_row)[2], int t) {
        static_assert(D % 16 == 0 || D == 24, "columns that are rotated together are another lane's");
        const bool low = t < 2;
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const uint32_t own[3] = {q[0][r], q[0][r + 2], q[1][r]};
            uint32_t theirs[3];
#pragma unroll
            for (int b = 0; b < 3; b++) theirs[b] = __shfl_xor_sync(0xffffffffu, own[b], 2);
            const float2 *line = rotary + at_row[r] * (D / 2);
            const auto angle = [&](int column) { return *reinterpret_cast<const float4 *>(line + column); };
            // Columns 0 to 7 are first ones of pairs, 16 to 23 second ones; of 8 to 15 the first four are.
            uint32_t first = own[0], second = low ? theirs[1] : theirs[2];
            rotate_pair(first, second, angle(2 * t));
            q[0][r] = first;
            first = low ? own[1] : theirs[0], second = low ? theirs[2] : own[1];
            rotate_pair(first, second, angle(low ? 8 + 2 * t : 2 * t - 4));
            q[0][r + 2] = low ? first : second;
            first = low ? theirs[0] : theirs[1], second = own[2];
            rotate_pair(first, second, angle(4 + 2 * t));
            q[1][r] = second;
        }
    }

    static __device__ __forceinline__ void rotate_pair(uint32_t &first, uint32_t &second, const float4 &angle) {
        float a[2], b[2];
        unpack(a, first);
        unpack(b, second);
        first = pack2<T>(fmaf(a[0], angle.x, -(b[0] * angle.y)), fmaf(a[1], angle.z, -(b[1] * angle.w)));
        second = pack2<T>(fmaf(b[0], angle.x, a[0] * angle.y), fmaf(b[1], angle.z, a[1] * angle.w));
    }
    static __device__ __forceinline__ void unpack(float (&to)[2], uint32_t pair) {
        const Packed<T, 2> values = *reinterpret_cast<const Packed<T, 2> *>(&pair);
        to[0] = to_f32(values.values[0]);
        to[1] = to_f32(values.values[1]);
    }

    // Scores become weights, and what is summed so far is rescaled. Of the keys `valid` are the sequence's: at least
    // KEYS - CUT + 1. `distance` is that of the thread's first row from the thread's first key; `slope` is ALiBi's over
    // `scale`, or 0.
    template <int KEYS>
    __device__ __forceinline__ void softmax(float (&s)[KEYS / 2], int valid, float distance, float slope, float scale2,
                                            int t) {
        if (slope != 0) {
#pragma unroll
            for (int i = 0; i < KEYS / 2; i++)
                s[i] = fmaf(-slope, fabsf(distance + float(fragment_row(i) - fragment_column(i))), s[i]);
        }
        if (valid < KEYS) {
#pragma unroll
            for (int i = (KEYS - S::CUT) / 2; i < KEYS / 2; i++)
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
            for (int i = 0; i < D / 2; i++) o[i] *= rescale[(i / 2) % 2];
        }
    }

    // A tile of KEYS keys and their values, given as descriptors: s = q k^T, softmax, o += p v. `scale2` is the scores'
    // scale times log2 e.
    template <int KEYS>
    __device__ __forceinline__ void mma(uint64_t keys, uint64_t values, int valid, float scale2, int t) {
        float s[KEYS / 2];
        mma_qk<KEYS>(s, keys);
        softmax<KEYS>(s, valid, 0, 0, scale2, t);
        mma_pv<KEYS>(s, values);
    }

    // s = q k^T for a tile of keys.
    template <int KEYS> __device__ __forceinline__ void mma_qk(float (&s)[KEYS / 2], uint64_t keys) {
        constexpr int SPAN_DEPTH = S::SPAN / 32; // products of 16 columns, a span
        wg_fence();
#pragma unroll
        for (int k = 0; k < S::DEPTH; k++)
            wgmma_rs<T, KEYS, 0>(s, q[k], keys + (k / SPAN_DEPTH) * (S::KEYS * S::SPAN / 16) + 2 * (k % SPAN_DEPTH), k > 0);
        wg_commit();
        wg_wait<0>();
    }

    // o += p v for a tile of values; `s` has the weights p in f32.
    template <int KEYS> __device__ __forceinline__ void mma_pv(const float (&s)[KEYS / 2], uint64_t values) {
        uint32_t p[KEYS / 16][4];
#pragma unroll
        for (int i = 0; i < KEYS / 4; i++) p[i / 4][i % 4] = pack2<T>(s[2 * i], s[2 * i + 1]);
        wg_fence();
#pragma unroll
        for (int k = 0; k < KEYS / 16; k++) wgmma_rs<T, D, 1>(o, p[k], values + k * S::SPAN, 1);
        wg_commit();
        wg_wait<0>();
    }

    // Divides by row_sum and writes the rows below `rows` and nothing else: the rows of the next sequence lie right
    // behind. Lanes exchange halves of 16 columns, so that four of them write 32 bytes that lie together.
    __device__ __forceinline__ void store_o(T *out, uint64_t stride, int row, int rows, int t) {
        const bool odd = t % 2 != 0;
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float sum = row_sum[r];
            sum += __shfl_xor_sync(0xffffffffu, sum, 1);
            sum += __shfl_xor_sync(0xffffffffu, sum, 2);
            const float inverse = 1.0f / sum;
            const bool inside = row + 8 * r < rows;
            T *const line = out + (row + 8 * r) * stride;
            const auto block = [&](int b) {
                return pack2<T>(o[4 * b + 2 * r] * inverse, o[4 * b + 2 * r + 1] * inverse);
            };
#pragma unroll
            for (int b = 0; b + 1 < D / 8; b += 2) {
                const uint32_t even_block = block(b), odd_block = block(b + 1);
                const uint32_t other = __shfl_xor_sync(0xffffffffu, odd ? even_block : odd_block, 1);
                uint2 both;
                both.x = odd ? other : even_block;
                both.y = odd ? odd_block : other;
                if (inside) *reinterpret_cast<uint2 *>(line + 8 * b + 8 * (t % 2) + 4 * (t / 2)) = both;
            }
            if constexpr (D % 16 != 0) {
                if (inside) *reinterpret_cast<uint32_t *>(line + D - 8 + 2 * t) = block(D / 8 - 1);
            }
        }
    }
};

// The producing warpgroup. Each warp has a quarter of a tile's rows, and rotates what it fetched itself.
template <typename T, class S> struct Producer90 {
    static constexpr int D = S::D, KEYS = S::KEYS, WIDE = S::WIDE, SPAN = S::SPAN, STAGES = S::STAGES;
    static constexpr int LINE_ROWS = 128 / SPAN, SPAN_CHUNKS = SPAN / 16; // rows of 128 bytes; 16 bytes of a span
    static constexpr int WARP_ROWS = KEYS / 4;
    // Fetching: a lane has 16 bytes of a row, FETCHES times.
    static constexpr int CHUNKS = WIDE / 8, AT_ONCE = 32 / CHUNKS, FETCHES = WARP_ROWS / AT_ONCE;
    // Rotating: a lane has two columns of the first half of a row and their partners, TURNS times, GROUPS rows apart.
    static constexpr int PAIR_LANES = WIDE / 4, GROUPS = 32 / PAIR_LANES, TURNS = WARP_ROWS / GROUPS;
    static_assert(FETCHES * AT_ONCE == WARP_ROWS && TURNS * GROUPS == WARP_ROWS, "lanes share rows evenly");
    static constexpr int BATCH = TURNS % 4 == 0 ? 4 : 2; // rows that are read before the first is written

    // Where a column of a row is in a tile, in elements.
    static __device__ __forceinline__ int place(int row, int column) {
        const int chunk = (column / 8) % SPAN_CHUNKS, span = column / (SPAN / 2);
        return span * (KEYS * SPAN / 2) + row * (SPAN / 2) + swizzle(row, chunk) * 8 + column % 8;
    }
    static __device__ __forceinline__ int swizzle(int row, int chunk) { return chunk ^ ((row / LINE_ROWS) % SPAN_CHUNKS); }
    // Where the same column of a row further down is. `down` is a multiple of what lanes have at once, so that it moves
    // bits of the swizzle that the lane's own row does not.
    static __device__ __forceinline__ int below(int cell, int down) {
        return (cell ^ swizzle(down, 0) * 8) + down * (SPAN / 2);
    }

    T *const ring;
    float2 *const angles;
    uint64_t *const full, *const empty;
    const AttentionParams &p;
    const int thread = threadIdx.x % 128, lane = thread % 32, warp_row = thread / 32 * WARP_ROWS;

    // Keys and values of `rows` rows from the thread's row on; `start` is a place that may be read.
    __device__ __forceinline__ void fetch(T *to, const T *from, const T *start, uint64_t row_stride, int remaining) const {
        const int row = warp_row + lane / CHUNKS, chunk = 8 * (lane % CHUNKS);
        const bool padding = chunk >= D;
        int cell = place(row, chunk), down = AT_ONCE * int(3 * row_stride);
        forget(cell); // or the compiler keeps every address, for which there are no registers
        forget(down);
        const auto one = [&](int i, bool inside) {
            const T *keys = inside ? from + uint32_t(i * down) : start;
            const T *values = keys + uint32_t(row_stride);
            T *const here = to + below(cell, i * AT_ONCE);
            cp_async16(here, keys, inside);
            cp_async16(here + S::ELEMENTS, values, inside);
            // The queries of these rows are needed soon, too.
            if (D <= 32 && chunk == 0) prefetch_l2(keys - row_stride);
        };
        if (remaining >= KEYS) {
#pragma unroll
            for (int i = 0; i < FETCHES; i++) one(i, WIDE == D || !padding);
        } else {
#pragma unroll
            for (int i = 0; i < FETCHES; i++) one(i, !padding && row + i * AT_ONCE < remaining);
        }
    }

    // The thread's part of `angles` for a tile: of its first row, of its second, and of as many rows as lie between.
    __device__ __forceinline__ float2 *angles_of(int part) const { return &angles[(part * 3 * 128 + thread) * 2]; }
    __device__ __forceinline__ void fetch_angles(int part, int key, int length) const {
        const int position = key + warp_row + lane / PAIR_LANES;
        const float2 *const table = at<const float2>(p.rotary) + pair();
        // Rows past the end are zeros, or are not used, whatever the angle.
        const auto row = [&](int r) { return table + uint32_t(min(r, length - 1)) * (D / 2); };
        float2 *const here = angles_of(part);
        cp_async16_l1(here, row(position));
        cp_async16_l1(here + 2 * 128, row(position + GROUPS));
        cp_async16_l1(here + 4 * 128, row(GROUPS));
    }
    // The first of the thread's columns. With heads of 24 columns there are more lanes than pairs.
    __device__ __forceinline__ bool has_pair() const { return 2 * (lane % PAIR_LANES) < D / 2; }
    __device__ __forceinline__ int pair() const { return has_pair() ? 2 * (lane % PAIR_LANES) : 0; }

    __device__ __forceinline__ void rotate(T *tile, int part) const {
        if (!has_pair()) return;
        const float2 *const here = angles_of(part);
        float4 angle = *reinterpret_cast<const float4 *>(here);
        float4 next = *reinterpret_cast<const float4 *>(here + 2 * 128);
        const float4 step = *reinterpret_cast<const float4 *>(here + 4 * 128);
        const float twice[2] = {2 * step.x, 2 * step.z};
        // Half the rows that are read at once begin with the second halves, which lie in other banks: the rotation is then
        // by the opposite angle.
        const bool swapped = WIDE == 32 && lane / 16 != 0;
        if (swapped) angle.y = -angle.y, angle.w = -angle.w, next.y = -next.y, next.w = -next.w;
        const int row = warp_row + lane / PAIR_LANES;
        int first = place(row, pair() + (swapped ? D / 2 : 0)), second = place(row, pair() + (swapped ? 0 : D / 2));
        forget(first);
        if constexpr (D > 64)
            second = first + KEYS * SPAN / 2;
        else
            forget(second);
        // After so many rows the swizzle is the same again.
        constexpr int PERIOD = D > 64 ? 8 : BATCH;
        static_assert(TURNS % PERIOD == 0 && PERIOD * GROUPS % (LINE_ROWS * SPAN_CHUNKS) == 0, "the swizzle");
#pragma unroll 1
        for (int begin = 0; begin < TURNS; begin += PERIOD, tile += PERIOD * GROUPS * (SPAN / 2)) {
#pragma unroll
            for (int i = 0; i < PERIOD; i += BATCH) {
                Packed<T, 2> a[BATCH], b[BATCH];
                const auto first_of = [&](int j) { return tile + below(first, (i + j) * GROUPS); };
                const auto second_of = [&](int j) {
                    return D > 64 ? first_of(j) + KEYS * SPAN / 2 : tile + below(second, (i + j) * GROUPS);
                };
#pragma unroll
                for (int j = 0; j < BATCH; j++) {
                    a[j] = *reinterpret_cast<const Packed<T, 2> *>(first_of(j));
                    b[j] = *reinterpret_cast<const Packed<T, 2> *>(second_of(j));
                }
#pragma unroll
                for (int j = 0; j < BATCH; j++) {
                    const float a0 = to_f32(a[j].values[0]), a1 = to_f32(a[j].values[1]);
                    const float b0 = to_f32(b[j].values[0]), b1 = to_f32(b[j].values[1]);
                    *reinterpret_cast<uint32_t *>(first_of(j)) =
                        pack2<T>(fmaf(a0, angle.x, -(b0 * angle.y)), fmaf(a1, angle.z, -(b1 * angle.w)));
                    *reinterpret_cast<uint32_t *>(second_of(j)) =
                        pack2<T>(fmaf(b0, angle.x, a0 * angle.y), fmaf(b1, angle.z, a1 * angle.w));
                    const float4 last = angle;
                    angle = next;
                    next.x = fmaf(twice[0], angle.x, -last.x);
                    next.y = fmaf(twice[0], angle.y, -last.y);
                    next.z = fmaf(twice[1], angle.z, -last.z);
                    next.w = fmaf(twice[1], angle.w, -last.w);
                }
            }
        }
    }

    __device__ __forceinline__ void produce(Heads90 &work) const {
        constexpr int AHEAD = HOPPER_AHEAD;
        const uint64_t row_stride = uint64_t(p.heads) * D, stride = 3 * row_stride;
        int remaining = 0;                          // keys of the item that are not fetched yet
        const T *from = nullptr, *start = nullptr; // the thread's part of the next tile; the item's first key
        const auto begin_item = [&] {
            remaining = work.ended() ? 0 : int(work.item.length);
            start = at<const T>(p.qkv) + uint64_t(work.item.first) * stride + row_stride + work.head() * D;
            const int chunk = 8 * (lane % CHUNKS);
            from = start + (warp_row + lane / CHUNKS) * stride + (chunk < D ? chunk : 0);
        };
        begin_item();
        RingCursor<STAGES> free; // the stage to fetch to
        int ready = 0;           // the stage to hand on
        int under_way = 0;       // stages that are fetched and not handed on
        int part = 0, ready_part = 0;
#pragma unroll 1
        while (remaining > 0 || under_way > 0) {
            bool fetching = false;
            if (remaining > 0 && under_way <= AHEAD) {
                uint64_t *const barrier = &empty[free.stage];
                if (under_way == 0) {
                    mbar_wait(barrier, free.phase ^ 1);
                    fetching = true;
                } else {
                    fetching = !__any_sync(0xffffffffu, !mbar_test(barrier, free.phase ^ 1));
                }
            }
            if (fetching) {
                fetch(ring + free.stage * (2 * S::ELEMENTS), from, start, row_stride, remaining);
                const int length = int(work.item.length);
                fetch_angles(part, length - remaining, length);
                cp_async_commit();
                part = part < AHEAD ? part + 1 : 0;
                under_way++;
                free.next();
                from += KEYS * uint32_t(stride);
                remaining -= KEYS;
                if (remaining <= 0) {
                    work.next(p);
                    begin_item();
                }
                continue;
            }
            static_assert(AHEAD == 2, "as many cases as tiles may be under way");
            if (under_way == 1) {
                cp_async_wait<0>();
            } else if (under_way == 2) {
                cp_async_wait<1>();
            } else {
                cp_async_wait<2>();
            }
            __syncwarp(); // what the other lanes fetched is there, too
            rotate(ring + ready * (2 * S::ELEMENTS), ready_part);
            fence_proxy_async();
            __syncwarp();
            if (lane == 0) mbar_arrive(&full[ready]);
            ready = ready + 1 < STAGES ? ready + 1 : 0;
            ready_part = ready_part < AHEAD ? ready_part + 1 : 0;
            under_way--;
        }
    }
};

// One of the consuming warpgroups, number `group`: it computes, and releases the tiles.
template <typename T, class S>
__device__ __forceinline__ void consume90(const AttentionParams &p, const Shared90<T> &shared, Heads90 &work, int group) {
    constexpr int D = S::D, KEYS = S::KEYS, CONSUMERS = S::CONSUMERS, STAGES = S::STAGES;
    constexpr uint64_t TILE_STEP = S::ELEMENTS * sizeof(T) / 16; // in a descriptor
    uint64_t *const full = shared.full, *const empty = shared.empty;
    const int lane = threadIdx.x % 32;
    const int t = lane % 4;
    const uint64_t row_stride = uint64_t(p.heads) * D, stride = 3 * row_stride;
    const float scale2 = p.scale * 1.44269504088896340736f;
    const uint64_t first_keys = wg_desc<S::SPAN>(shared.ring, KEYS * S::SPAN, 8 * S::SPAN);
    RingCursor<STAGES> item_start; // the stage of the item's first keys
    int turn = group; // the number of this warpgroup's first 64 queries: all take turns, across the items too
    Rows90<T, S> queries;
#pragma unroll 1
    for (; !work.ended(); work.next(p)) {
        const int length = int(work.item.length), rows = int(work.item.rows), item_row = int(work.item.row);
        const uint64_t first = work.item.first + work.item.row;
        const float2 *rotary = at<const float2>(p.rotary) + uint64_t(item_row) * (D / 2);
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
            queries.load_q(at<const T>(p.qkv) + first * stride + work.head() * D, stride, rotary, row, rows, t);
            int remaining = length; // keys of the sequence
            const auto mma = [&](auto keys) {
                const uint64_t at = first_keys + cursor.stage * (2 * TILE_STEP);
                wait();
                queries.template mma<decltype(keys)::value>(at, at + TILE_STEP, remaining, scale2, t);
                release();
            };
#pragma unroll 1
            for (; remaining > KEYS - S::CUT; remaining -= KEYS) mma(Number<KEYS>());
            if (remaining > 0) rounded_up<KEYS, S::CUT>(remaining, mma);
            queries.store_o(at<T>(p.out) + first * row_stride + work.head() * D, row_stride, row, rows, t);
            begin += CONSUMERS * 64;
        } while (begin < rows);
        item_start = cursor;
    }
}

#endif

template <typename T, int HEAD_DIM> __device__ __forceinline__ void attention90_heads(const AttentionParams &p) {
#ifdef SM90A
    using S = Shape90<HEAD_DIM>;
    constexpr int CONSUMERS = S::CONSUMERS, STAGES = S::STAGES;
    static_assert(S::TILE.shared_bytes == STAGES * 2 * S::ELEMENTS * sizeof(T) +
                                              (HOPPER_AHEAD + 1) * 3 * 128 * 2 * sizeof(float2) +
                                              STAGES * 2 * sizeof(uint64_t),
                  "the host asks for as much");
    DYN_SMEM(memory);
    Shared90<T> shared;
    shared.ring = reinterpret_cast<T *>(memory);
    shared.angles = reinterpret_cast<float2 *>(memory + STAGES * 2 * S::ELEMENTS * sizeof(T));
    shared.full = reinterpret_cast<uint64_t *>(shared.angles + (HOPPER_AHEAD + 1) * 3 * 128 * 2);
    shared.empty = shared.full + STAGES;

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
        setmaxnreg_dec<S::TILE.producer_registers>();
        Producer90<T, S>{shared.ring, shared.angles, shared.full, shared.empty, p}.produce(work);
    } else {
        setmaxnreg_inc<S::TILE.consumer_registers>();
        consume90<T, S>(p, shared, work, group);
    }
#endif
}
