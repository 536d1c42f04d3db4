// Tensor copies: the box is NaN from the moment a copy begins, and comes when the schedule wants it, often as late as
// somebody waits for it.

#include <algorithm>
#include <cstring>

#include "block.h"
#include "mbarrier.h"
#include "ptx90.h"
#include "shared.h"
#include "swizzle.h"
#include "tensor_map.h"

namespace emu {

struct TensorCopy : Asynchronous {
    TensorMap map;
    int at[TensorMap::MAX_RANK];
    unsigned char *to;
    uint32_t address;
    uint64_t *barrier;

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
    void put(int row, int byte, const unsigned char *from, int count);
    void finish() override;
};

TensorCopy::Part TensorCopy::part(int row) const {
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

// Within a unit of 16 bytes no swizzle moves anything. A null source stands for zeroes.
void TensorCopy::put(int row, int byte, const unsigned char *from, int count) {
    const uint32_t plain = address + uint32_t(row * row_bytes() + byte);
    unsigned char *place = to + (swizzled(plain, map.swizzle) - address);
    if (from)
        memcpy(place, from, size_t(count));
    else
        memset(place, 0, size_t(count));
}

void TensorCopy::finish() {
    {
        const Unwatched unwatched;
        const int size = map.element_bytes;
        for (int row = 0; row < rows(); row++) {
            const Part inside = part(row);
            for (int byte = 0; byte < row_bytes();) {
                const bool copied = byte >= inside.first && byte < inside.last;
                // By units of 16 bytes, and by elements where an edge cuts one.
                const bool whole = byte % 16 == 0 && (inside.last <= byte || inside.first >= byte + 16 ||
                                                      (inside.first <= byte && inside.last >= byte + 16));
                const int count = whole ? 16 : size;
                put(row, byte, copied ? inside.row + byte : nullptr, count);
                byte += count;
            }
        }
    }
    mbarrier_bytes_came(barrier, bytes());
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
    const char *what = rank == 2 ? "tma_load_2d" : "tma_load_3d";
    const TensorMap &known = checked_map(what, map);
    if (known.rank != rank) fail(ILLEGAL_INSTRUCTION, "%s of a tensor map of rank %d", what, known.rank);
    check_mbarrier(what, barrier);
    if (!is_fenced(barrier))
        fail(LAUNCH_FAILED, "%s: the barrier was initialised without fence_mbar_init by the same thread", what);
    auto copy = new TensorCopy;
    copy->map = known;
    for (int d = 0; d < rank; d++) copy->at[d] = coordinates[d];
    copy->to = static_cast<unsigned char *>(to);
    copy->barrier = barrier;
    copy->address = shared_address(what, to, size_t(copy->bytes()), 128);
    // A swizzle goes by the address; a box that begins within its pattern is not what anybody computes with.
    const uint32_t pattern = known.swizzle > 0 ? known.swizzle * 8u : 128u;
    if (copy->address % pattern)
        fail(MISALIGNED_ADDRESS, "%s: shared address 0x%x is not aligned to the %u bytes of the swizzle's pattern", what,
             copy->address, pattern);
    for (int row = 0; row < copy->rows(); row++) {
        const TensorCopy::Part inside = copy->part(row);
        if (inside.last > inside.first) {
            const size_t bytes = size_t(inside.last - inside.first);
            check_global(what, inside.row + inside.first, bytes, 1, false);
            reads(inside.row + inside.first, bytes);
        }
    }
    writes(to, size_t(copy->bytes()));
    released(barrier);
    {
        const Unwatched unwatched;
        memset(to, 0xff, size_t(copy->bytes()));
    }
    block.asynchronous.push_back(copy);
    maybe_yield();
}

} // namespace emu
