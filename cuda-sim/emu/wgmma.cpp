// wgmma: products are carried out when a thread waits for them. Until then the registers of the
// sums hold a NaN; operands in shared memory are read at the end.

#include "wgmma.h"

#include <cstring>
#include <deque>
#include <memory>
#include <vector>

#include "block.h"
#include "product.h"
#include "ptx90.h"
#include "shared.h"
#include "swizzle.h"

namespace emu {

static constexpr int M = 64, K = 16, MAX_N = 256, GROUPS = MAX_THREADS / WARPGROUP;
static constexpr uint32_t UNFINISHED = 0x7fdeadfe; // a NaN that no arithmetic produces

// The sums of one array of registers, while products that add to them are running.
struct Sums {
    int n;
    int products = 0; // number of running products
    float *registers[WARPGROUP] = {};
    std::vector<float> values; // [M, n]
};

struct PendingProduct {
    Product product;
    std::shared_ptr<Sums> sums;
    uint32_t a[WARPGROUP][4];
};

struct Warpgroup {
    std::deque<PendingProduct> products;        // the first one has number `finished`
    size_t finished = 0;
    std::deque<size_t> groups;                  // committed groups: the number of products up to the end of each group
    size_t groups_finished = 0;
    std::vector<std::shared_ptr<Sums>> sums;
    size_t issued[WARPGROUP] = {};              // number of products
    size_t committed[WARPGROUP] = {};           // number of groups
    bool fenced[WARPGROUP] = {};
    int waiting = 0;
    int wait_for = 0;
};

static Warpgroup warpgroups[GROUPS];

void forget_products() {
    for (int g = 0; g * WARPGROUP < block.threads; g++) warpgroups[g] = Warpgroup();
}

static Warpgroup &current_group(const char *what) {
    const int group = block.current / WARPGROUP;
    if ((group + 1) * WARPGROUP > block.threads)
        fail(ILLEGAL_INSTRUCTION, "%s: the block's last %d threads are no warpgroup", what, block.threads % WARPGROUP);
    return warpgroups[group];
}
static int in_group() { return block.current % WARPGROUP; }

// Returns the index of the i-th sum of a thread.
static size_t place(int thread, int i, int n) {
    const int lane = thread % LANES, row = thread / LANES * 16 + lane / 4 + i / 2 % 2 * 8;
    return size_t(row * n + i / 4 * 8 + lane % 4 * 2 + i % 2);
}

// ---- Operands in shared memory.

uint64_t wg_desc(const void *matrix, uint32_t leading_bytes, uint32_t stride_bytes, int swizzle) {
    const uint64_t layout = swizzle == 128 ? 1 : swizzle == 64 ? 2 : swizzle == 32 ? 3 : 0;
    const uint32_t address = shared_address("wg_desc", matrix, 16, 16);
    return uint64_t((address & 0x3ffff) >> 4) | uint64_t((leading_bytes & 0x3ffff) >> 4) << 16 |
           uint64_t((stride_bytes & 0x3ffff) >> 4) << 32 | layout << 62;
}

struct Descriptor {
    uint32_t start, leading, stride, span; // bytes
    explicit Descriptor(uint64_t bits)
        : start(uint32_t(bits & 0x3fff) << 4), leading(uint32_t(bits >> 16 & 0x3fff) << 4),
          stride(uint32_t(bits >> 32 & 0x3fff) << 4) {
        constexpr uint32_t SPANS[4] = {0, 128, 64, 32};
        span = SPANS[bits >> 62];
    }
};

// Returns 8 adjacent elements: for row `r` of M or N the elements k to k + 7, or for column k the
// rows r to r + 7.
static const uint16_t *unit(const Descriptor &d, bool mn_major, uint32_t r, uint32_t k) {
    uint32_t address = d.start;
    if (!mn_major) {
        const uint32_t line = d.span ? d.span : 16;
        address += r % 8 * line + r / 8 * d.stride + k / 8 * (d.span ? 16 : d.leading);
    } else if (d.span) {
        const uint32_t units = d.span / 16;
        address += r / 8 % units * 16 + r / 8 / units * d.leading + k % 8 * d.span + k / 8 * d.stride;
    } else {
        address += r / 8 * d.stride + k % 8 * 16 + k / 8 * d.leading;
    }
    const unsigned char *at = shared_pointer("wgmma", swizzled(address, d.span), 16);
    reads(at, 16);
    return reinterpret_cast<const uint16_t *>(at);
}

// Writes an operand to `to`, where one step in `r` is `r_step` floats and one step in `k` is
// `k_step`.
static void load_operand(float *to, int rows, size_t r_step, size_t k_step, uint64_t descriptor, bool mn_major,
                         bool bf16) {
    const Descriptor d(descriptor);
    for (int r = 0; r < rows; r += mn_major ? 8 : 1)
        for (int k = 0; k < K; k += mn_major ? 1 : 8) {
            const uint16_t *elements = unit(d, mn_major, uint32_t(r), uint32_t(k));
            for (int i = 0; i < 8; i++) {
                const size_t row = size_t(mn_major ? r + i : r), column = size_t(mn_major ? k : k + i);
                to[row * r_step + column * k_step] = to_f32(elements[i], bf16);
            }
        }
}

static void finish(PendingProduct &pending) {
    const Product &product = pending.product;
    const bool bf16 = product.bf16;
    static float a[M * K], b[K * MAX_N];
    if (product.a_in_registers) {
        for (int t = 0; t < WARPGROUP; t++)
            for (int r = 0; r < 4; r++) {
                const int row = t / LANES * 16 + t % LANES / 4 + r % 2 * 8, k = t % 4 * 2 + r / 2 * 8;
                unpack(pending.a[t][r], bf16, &a[row * K + k], 1);
            }
    } else {
        load_operand(a, M, K, 1, product.a_descriptor, false, bf16);
    }
    load_operand(b, product.n, 1, size_t(product.n), product.b_descriptor, product.transposed_b, bf16);
    Sums &sums = *pending.sums;
    if (!product.scale_d) std::fill(sums.values.begin(), sums.values.end(), 0.0f);
    multiply(sums.values.data(), a, b, M, product.n, K);
    sums.products--;
}

// ---- Issue.

void wg_fence() { current_group("wg_fence").fenced[in_group()] = true; }

static bool same(const Product &a, const Product &b) {
    return a.n == b.n && a.bf16 == b.bf16 && a.transposed_b == b.transposed_b &&
           a.a_in_registers == b.a_in_registers && a.a_descriptor == b.a_descriptor &&
           a.b_descriptor == b.b_descriptor && a.scale_d == b.scale_d;
}

static std::shared_ptr<Sums> sums_of(Warpgroup &group, const float *d) {
    for (auto &sums : group.sums)
        if (sums->registers[in_group()] == d) return sums;
    return nullptr;
}

// The first thread that reaches a product creates it; the other threads must issue the same
// product.
static PendingProduct &join_product(Warpgroup &group, const float *d, const Product &product) {
    const size_t number = group.issued[in_group()]++ - group.finished;
    if (number < group.products.size()) {
        PendingProduct &pending = group.products[number];
        if (!same(pending.product, product))
            fail(ILLEGAL_INSTRUCTION, "wgmma: descriptors or shapes differ among the threads of the warpgroup");
        return pending;
    }
    PendingProduct fresh;
    fresh.product = product;
    fresh.sums = sums_of(group, d);
    if (!fresh.sums) {
        fresh.sums = std::make_shared<Sums>();
        fresh.sums->n = product.n;
        fresh.sums->values.resize(size_t(M * product.n));
        group.sums.push_back(fresh.sums);
    }
    fresh.sums->products++;
    group.products.push_back(std::move(fresh));
    return group.products.back();
}

void wgmma(float *d, const uint32_t *a, const Product &product) {
    Warpgroup &group = current_group("wgmma");
    const int self = in_group();
    PendingProduct &pending = join_product(group, d, product);
    Sums &sums = *pending.sums;
    if (a) memcpy(pending.a[self], a, sizeof pending.a[self]);
    if (sums.n != product.n) fail(ILLEGAL_INSTRUCTION, "wgmma: N of %d to sums that have %d", product.n, sums.n);
    if (!sums.registers[self]) {
        // Until now the registers belonged to the thread.
        if (!group.fenced[self]) fail(LAUNCH_FAILED, "wgmma without wg_fence since its registers were last touched");
        sums.registers[self] = d;
        for (int i = 0; i < product.n / 2; i++) sums.values[place(self, i, product.n)] = d[i];
        for (int i = 0; i < product.n / 2; i++) memcpy(&d[i], &UNFINISHED, 4);
    } else if (sums.registers[self] != d) {
        fail(ILLEGAL_INSTRUCTION, "wgmma: the threads of the warpgroup disagree on which sums are meant");
    }
}

void wg_commit() {
    Warpgroup &group = current_group("wg_commit");
    const int self = in_group();
    const size_t number = group.committed[self]++ - group.groups_finished;
    if (number == group.groups.size())
        group.groups.push_back(group.issued[self]);
    else if (group.groups[number] != group.issued[self])
        fail(ILLEGAL_INSTRUCTION, "wg_commit: the threads of the warpgroup have issued different products");
}

// ---- Wait.

static void give_back(Warpgroup &group, int first_thread) {
    auto &all = group.sums;
    for (size_t s = 0; s < all.size();) {
        Sums &sums = *all[s];
        if (sums.products) {
            s++;
            continue;
        }
        for (int t = 0; t < WARPGROUP; t++) {
            for (int i = 0; i < sums.n / 2; i++) {
                float &sum = sums.registers[t][i];
                if (memcmp(&sum, &UNFINISHED, 4) != 0)
                    fail_block(LAUNCH_FAILED, "thread %d of the block wrote to the sums of a wgmma under way",
                               first_thread + t);
                sum = sums.values[place(t, i, sums.n)];
            }
            group.fenced[t] = false;
        }
        all.erase(all.begin() + long(s));
    }
}

static void check_agreement(const Warpgroup &group) {
    for (int t = 1; t < WARPGROUP; t++)
        if (group.issued[t] != group.issued[0] || group.committed[t] != group.committed[0])
            fail_block(ILLEGAL_INSTRUCTION, "wg_wait: the threads of a warpgroup have issued different products");
}

void wg_wait(int groups) {
    Warpgroup &group = current_group("wg_wait");
    if (group.waiting && group.wait_for != groups)
        fail(ILLEGAL_INSTRUCTION, "wg_wait<%d>, but other threads of the warpgroup wait for %d", groups, group.wait_for);
    group.wait_for = groups;
    if (++group.waiting < WARPGROUP) {
        wait_in("wg_wait");
        // The last thread finished the products for all threads, so every thread is ordered after
        // them.
        acquired(&group);
        return;
    }
    group.waiting = 0;
    check_agreement(group);
    const int first_thread = block.current - in_group();
    while (group.groups.size() > size_t(groups)) {
        const size_t end = group.groups.front();
        for (; group.finished < end; group.finished++) {
            finish(group.products.front());
            group.products.pop_front();
        }
        group.groups.pop_front();
        group.groups_finished++;
    }
    give_back(group, first_thread);
    released(&group);
    for (int t = 0; t < WARPGROUP; t++) make_runnable(first_thread + t);
    maybe_yield();
}

void set_registers(int) { current_group("setmaxnreg"); }

// The emulator makes everything visible at once, so this fence has nothing to do.
void fence_proxy_async() {}

} // namespace emu
