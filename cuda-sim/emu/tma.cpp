// Tensor copies: the box is NaN from the moment a copy begins. It arrives at a time that the
// schedule chooses, often only when a thread waits for it.

#include <algorithm>
#include <cstring>
#include <deque>
#include <utility>
#include <vector>

#include "block.h"
#include "mbarrier.h"
#include "ptx90.h"
#include "shared.h"
#include "swizzle.h"
#include "tensor_map.h"
#include "tma.h"

namespace emu {

// A box of a tensor, and its position in shared memory.
struct Box : Asynchronous {
    TensorMap map;
    int at[TensorMap::MAX_RANK];
    unsigned char *shared;
    uint32_t address;

    int row_bytes() const { return map.box[0] * map.element_bytes; }
    int rows() const {
        int rows = 1;
        for (int d = 1; d < map.rank; d++) rows *= map.box[d];
        return rows;
    }
    int bytes() const { return rows() * row_bytes(); }
    // The part of a row of the box that lies in the tensor, as bytes of the row: [first, last).
    struct Part {
        const unsigned char *row; // where the row's first byte would be
        int first, last;
    };
    Part part(int row) const;
    // Returns the position of a byte of the box in shared memory. A swizzle never changes the order
    // within a 16-byte unit.
    unsigned char *place(int row, int byte) const {
        const uint32_t plain = address + uint32_t(row * row_bytes() + byte);
        return shared + (swizzled(plain, map.swizzle) - address);
    }
    // Returns how many bytes from there on are copied at once: a unit of 16 bytes, or an element if
    // an edge cuts the unit.
    int whole(const Part &inside, int byte) const {
        const bool whole = byte % 16 == 0 && (inside.last <= byte || inside.first >= byte + 16 ||
                                              (inside.first <= byte && inside.last >= byte + 16));
        return whole ? 16 : map.element_bytes;
    }
    void prepare(const char *what, const TensorMap &known, const void *place, const int *coordinates, bool write);
};

Box::Part Box::part(int row) const {
    auto *base = reinterpret_cast<const unsigned char *>(map.address);
    bool inside = true;
    for (int d = 1; d < map.rank; d++) {
        const int64_t coordinate = int64_t(at[d]) + row % map.box[d];
        row /= map.box[d];
        inside = inside && coordinate >= 0 && coordinate < int64_t(map.dims[d]);
        base += coordinate * int64_t(map.strides[d]);
    }
    const int64_t start = at[0], box = map.box[0], size = map.element_bytes;
    const int64_t first = std::min(std::max<int64_t>(0, -start), box);
    const int64_t last = std::max(std::min<int64_t>(box, int64_t(map.dims[0]) - start), first);
    return {base + start * size, int(first * size), inside ? int(last * size) : int(first * size)};
}

// Checks both sides of the copy; `write` tells whether it writes to the tensor or reads it.
void Box::prepare(const char *what, const TensorMap &known, const void *in_shared, const int *coordinates, bool write) {
    map = known;
    for (int d = 0; d < known.rank; d++) at[d] = coordinates[d];
    shared = static_cast<unsigned char *>(const_cast<void *>(in_shared));
    address = shared_address(what, in_shared, size_t(bytes()), 128);
    // A swizzle depends on the address; a box that begins within its pattern is certainly a
    // mistake.
    const uint32_t pattern = known.swizzle > 0 ? known.swizzle * 8u : 128u;
    if (address % pattern)
        fail(MISALIGNED_ADDRESS, "%s: shared address 0x%x is not aligned to the %u bytes of the swizzle's pattern", what,
             address, pattern);
    // This is not documented, but an H100 behaves this way. Where the box lies otherwise, inside or
    // outside of the tensor, does not matter.
    if (at[0] * known.element_bytes % 16)
        fail(ILLEGAL_INSTRUCTION, "%s: a box that begins at column %d, which is no multiple of 16 bytes", what, at[0]);
    for (int row = 0; row < rows(); row++) {
        const Part inside = part(row);
        if (inside.last <= inside.first) continue;
        const size_t count = size_t(inside.last - inside.first);
        check_global(what, inside.row + inside.first, count, 1, write);
        if (write)
            writes(const_cast<unsigned char *>(inside.row + inside.first), count);
        else
            reads(inside.row + inside.first, count);
    }
}

struct TensorCopy : Box {
    uint64_t *barrier;
    void finish() override;
};

void TensorCopy::finish() {
    for (int row = 0; row < rows(); row++) {
        const Part inside = part(row);
        for (int byte = 0, count; byte < row_bytes(); byte += count) {
            count = whole(inside, byte);
            if (byte >= inside.first && byte < inside.last)
                memcpy(place(row, byte), inside.row + byte, size_t(count));
            else
                memset(place(row, byte), 0, size_t(count));
        }
    }
    mbarrier_bytes_came(barrier, bytes());
}

// A copy from shared memory to the tensor. It reads its source when it finishes.
struct TensorStore : Box {
    int thread;
    void finish() override;
};

template <class P> static void remove(std::vector<P> &from, P what) {
    from.erase(std::remove(from.begin(), from.end(), what), from.end());
}

// The running stores of each thread: the stores since the last group, and the groups.
struct Stores {
    std::vector<TensorStore *> open;
    std::deque<std::vector<TensorStore *>> groups;
    void over(TensorStore *store) {
        remove(open, store);
        for (auto &group : groups) remove(group, store);
    }
};
static Stores stores[MAX_THREADS];

void forget_stores() {
    for (int i = 0; i < block.threads; i++) stores[i] = Stores();
}

void TensorStore::finish() {
    for (int row = 0; row < rows(); row++) {
        const Part inside = part(row);
        for (int byte = 0, count; byte < row_bytes(); byte += count) {
            count = whole(inside, byte);
            if (byte >= inside.first && byte < inside.last)
                memcpy(const_cast<unsigned char *>(inside.row) + byte, place(row, byte), size_t(count));
        }
    }
    stores[thread].over(this);
}

static const TensorMap &checked_map(const char *what, const void *map) {
    if (reinterpret_cast<uintptr_t>(map) % 64) fail(MISALIGNED_ADDRESS, "%s: the tensor map is not aligned to 64", what);
    const auto &known = *static_cast<const TensorMap *>(map);
    if (known.magic != TensorMap::MAGIC)
        fail(ILLEGAL_INSTRUCTION, "%s: no tensor map that cuTensorMapEncodeTiled made", what);
    return known;
}

void tma_prefetch(const void *map) { checked_map("tma_prefetch", map); }

void tma_load(void *to, const void *map, const int *coordinates, int rank, uint64_t *barrier) {
    const char *const what = rank == 2 ? "tma_load_2d" : rank == 3 ? "tma_load_3d" : "tma_load_4d";
    const TensorMap &known = checked_map(what, map);
    if (known.rank != rank) fail(ILLEGAL_INSTRUCTION, "%s of a tensor map of rank %d", what, known.rank);
    check_mbarrier(what, barrier);
    if (!is_fenced(barrier))
        fail(LAUNCH_FAILED, "%s: the barrier was initialised without fence_mbar_init by the same thread", what);
    auto copy = new TensorCopy;
    copy->prepare(what, known, to, coordinates, false);
    copy->barrier = barrier;
    writes(to, size_t(copy->bytes()));
    released(barrier);
    memset(to, 0xff, size_t(copy->bytes()));
    block.asynchronous.push_back(copy);
    maybe_yield();
}

void tma_store(const void *map, const int *coordinates, const void *from) {
    const char *what = "tma_store_2d";
    const TensorMap &known = checked_map(what, map);
    if (known.rank != 2) fail(ILLEGAL_INSTRUCTION, "%s of a tensor map of rank %d", what, known.rank);
    auto store = new TensorStore;
    store->prepare(what, known, from, coordinates, true);
    store->thread = block.current;
    reads(from, size_t(store->bytes()));
    stores[block.current].open.push_back(store);
    block.asynchronous.push_back(store);
    maybe_yield();
}

void tma_store_commit() {
    Stores &mine = stores[block.current];
    mine.groups.push_back(std::move(mine.open));
    mine.open.clear();
}

void tma_store_wait_read(int groups) {
    Stores &mine = stores[block.current];
    while (mine.groups.size() > size_t(groups)) {
        const std::vector<TensorStore *> first = std::move(mine.groups.front());
        mine.groups.pop_front();
        for (TensorStore *store : first) {
            remove(block.asynchronous, static_cast<Asynchronous *>(store));
            store->finish();
            delete store;
        }
    }
    maybe_yield();
}

} // namespace emu
