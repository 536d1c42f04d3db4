// cp.async, ldmatrix, stmatrix, mma.sync.

#include "ptx.h"

#include <cstring>

#include "block.h"
#include "product.h"
#include "shared.h"

namespace emu {

// ---- cp.async: the copy is carried out when a thread waits for it; until then the target holds
// NaN.

void cp_async16(void *shared, const void *global, bool valid) {
    constexpr const char *NAME = "cp_async16";
    shared_address(NAME, shared, 16, 16);
    if (valid) check_global(NAME, global, 16, 16, false);
    writes(shared, 16);
    if (valid) reads(global, 16);
    memset(shared, 0xff, 16);
    current_thread().copies.push_back({shared, valid ? global : nullptr});
}

void cp_async_commit() {
    Thread &thread = current_thread();
    thread.copy_groups.push_back(std::move(thread.copies));
    thread.copies.clear();
}

void cp_async_wait(int groups) {
    auto &pending = current_thread().copy_groups;
    for (; pending.size() > size_t(groups); pending.pop_front())
        for (const Copy &copy : pending.front()) {
            writes(copy.to, 16);
            if (copy.from)
                memcpy(copy.to, copy.from, 16);
            else
                memset(copy.to, 0, 16);
        }
}

// ---- ldmatrix and stmatrix: a lane gives the address of a row. Of each matrix (or of the
// transposed matrix), lane l holds the elements (l / 4, l % 4 * 2) and the next element.

struct Matrices {
    uint32_t *registers;
    void *row;
    int count;
    bool transposed;
};

static void move_matrices(void *const *given, bool load) {
    const Matrices &first = *static_cast<Matrices *>(given[0]);
    for (int m = 0; m < first.count; m++)
        for (int l = 0; l < LANES; l++) {
            uint16_t halves[2];
            uint32_t &of_lane = static_cast<Matrices *>(given[l])->registers[m];
            memcpy(halves, &of_lane, 4);
            for (int i = 0; i < 2; i++) {
                int row = l / 4, column = l % 4 * 2 + i;
                if (first.transposed) std::swap(row, column);
                auto *elements = static_cast<uint16_t *>(static_cast<Matrices *>(given[m * 8 + row])->row);
                if (load)
                    halves[i] = elements[column];
                else
                    elements[column] = halves[i];
            }
            if (load) memcpy(&of_lane, halves, 4);
        }
}

void ldmatrix(uint32_t *to, int registers, bool transposed, const void *row) {
    if (current_lane() < registers * 8) {
        shared_address("ldmatrix", row, 16, 16);
        reads(row, 16);
    }
    Matrices mine = {to, const_cast<void *>(row), registers, transposed};
    meet(registers == 4 ? "ldmatrix_x4" : "ldmatrix_x2", ALL_LANES, &mine,
         [](void *const *given, uint32_t) { move_matrices(given, true); });
}

void stmatrix(const uint32_t *from, int registers, bool transposed, void *row) {
    if (current_lane() < registers * 8) {
        shared_address("stmatrix", row, 16, 16);
        writes(row, 16);
    }
    Matrices mine = {const_cast<uint32_t *>(from), row, registers, transposed};
    meet(registers == 4 ? "stmatrix_x4" : "stmatrix_x2", ALL_LANES, &mine,
         [](void *const *given, uint32_t) { move_matrices(given, false); });
}

// ---- mma.m16n8k8 and mma.m16n8k16.

struct Fragments {
    float *d;
    const uint32_t *a, *b;
    int k;
    bool bf16;
};

static void multiply_fragments(void *const *given, uint32_t) {
    const Fragments &first = *static_cast<Fragments *>(given[0]);
    const bool bf16 = first.bf16;
    const int k = first.k;
    float a[16 * 16], b[16 * 8], d[16 * 8];
    for (int l = 0; l < LANES; l++) {
        const Fragments &of_lane = *static_cast<Fragments *>(given[l]);
        const int group = l / 4, pair = l % 4 * 2;
        for (int r = 0; r < k / 4; r++) // rows `group` and `group + 8` in turn, then the next 8 columns
            unpack(of_lane.a[r], bf16, &a[(group + r % 2 * 8) * k + pair + r / 2 * 8], 1);
        for (int r = 0; r < k / 8; r++) unpack(of_lane.b[r], bf16, &b[(pair + r * 8) * 8 + group], 8);
        for (int i = 0; i < 4; i++) d[(group + i / 2 * 8) * 8 + pair + i % 2] = of_lane.d[i];
    }
    multiply(d, a, b, 16, 8, k);
    for (int l = 0; l < LANES; l++) {
        const Fragments &of_lane = *static_cast<Fragments *>(given[l]);
        for (int i = 0; i < 4; i++) of_lane.d[i] = d[(l / 4 + i / 2 * 8) * 8 + l % 4 * 2 + i % 2];
    }
}

void mma(float *d, const uint32_t *a, const uint32_t *b, int k, bool bf16) {
    Fragments mine = {d, a, b, k, bf16};
    meet(k == 16 ? "mma_m16n8k16" : "mma_m16n8k8", ALL_LANES, &mine, multiply_fragments);
}

} // namespace emu
