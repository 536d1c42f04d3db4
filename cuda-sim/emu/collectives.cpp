// Barriers, shuffles and votes.

#include "collectives.h"

#include <cstring>

#include "block.h"

namespace emu {

int lane() { return current_lane(); }
uint32_t active_mask() { return 1u << current_lane(); }
void trap() { fail(LAUNCH_FAILED, "__trap"); }

// ---- Collectives of a warp.

struct Exchange {
    void *value;
    int bytes, source;
};

void shuffle(const char *name, uint32_t mask, void *value, int bytes, int source) {
    if (!(mask >> source & 1)) fail(LAUNCH_FAILED, "%s: lane %d is read, which the mask 0x%08x lacks", name, source, mask);
    Exchange mine = {value, bytes, source};
    meet(name, mask, &mine, [](void *const *given, uint32_t lanes) {
        unsigned char values[LANES][16];
        for (int l = 0; l < LANES; l++)
            if (lanes >> l & 1) {
                const auto &one = *static_cast<Exchange *>(given[l]);
                if (one.bytes > 16) fail(LAUNCH_FAILED, "a shuffle of %d bytes", one.bytes);
                memcpy(values[l], one.value, size_t(one.bytes));
            }
        for (int l = 0; l < LANES; l++)
            if (lanes >> l & 1) {
                const auto &one = *static_cast<Exchange *>(given[l]);
                memcpy(one.value, values[one.source], size_t(one.bytes));
            }
    });
}

static int within(int source, int width) {
    const int lane = current_lane(), first = lane & ~(width - 1);
    return source >= first && source < first + width ? source : lane;
}
int shuffle_up(int distance, int width) { return within(current_lane() - distance, width); }
int shuffle_down(int distance, int width) { return within(current_lane() + distance, width); }
int shuffle_index(int index, int width) { return (current_lane() & ~(width - 1)) | (index & (width - 1)); }
int shuffle_xor(int mask, int width) {
    // A lane of an earlier segment may be read, but not a lane of a later segment.
    const int source = (current_lane() ^ mask) & (LANES - 1);
    return (source & ~(width - 1)) > (current_lane() & ~(width - 1)) ? current_lane() : source;
}

struct Vote {
    int predicate;
    uint32_t result;
};

uint32_t vote(const char *name, uint32_t mask, int predicate) {
    Vote mine = {predicate, 0};
    meet(name, mask, &mine, [](void *const *given, uint32_t lanes) {
        uint32_t result = 0;
        for (int l = 0; l < LANES; l++)
            if (lanes >> l & 1 && static_cast<Vote *>(given[l])->predicate) result |= 1u << l;
        for (int l = 0; l < LANES; l++)
            if (lanes >> l & 1) static_cast<Vote *>(given[l])->result = result;
    });
    return mine.result;
}

void sync_warp(uint32_t mask) {
    const void *order = &block.warp[current_warp()].order;
    released(order);
    meet("__syncwarp", mask, nullptr, [](void *const *, uint32_t) {});
    acquired(order);
}

// ---- Barriers of a block.

static void open_barrier(Barrier &barrier, int id) {
    for (int w = 0; w < block.warps; w++) {
        Warp &warp = block.warp[w];
        if (barrier.arrived[w] & ~warp.alive) continue;
        if (id != 0 && barrier.arrived[w] && barrier.arrived[w] != warp.alive)
            fail(LAUNCH_FAILED, "named barrier %d: of warp %d only the lanes 0x%08x came", id, w, barrier.arrived[w]);
    }
    for (int w = 0; w < block.warps; w++) {
        block.warp[w].runnable |= barrier.waiting[w];
        barrier.waiting[w] = barrier.arrived[w] = 0;
    }
    barrier.here = barrier.expected = 0;
    barrier.turn++;
}

static bool is_full(const Barrier &barrier) {
    return barrier.here > 0 && barrier.here >= (barrier.expected ? barrier.expected : block.alive);
}

// The names of the waits, by the number of the barrier.
static const char *const NAMES[BARRIERS] = {
    "__syncthreads",    "named barrier 1",  "named barrier 2",  "named barrier 3",
    "named barrier 4",  "named barrier 5",  "named barrier 6",  "named barrier 7",
    "named barrier 8",  "named barrier 9",  "named barrier 10", "named barrier 11",
    "named barrier 12", "named barrier 13", "named barrier 14", "named barrier 15",
};

static void arrive(int id, int threads, bool wait) {
    Barrier &barrier = block.barrier[id];
    const uint32_t self = 1u << current_lane();
    if (barrier.here && barrier.expected != threads)
        fail(LAUNCH_FAILED, "%s for %d threads, but others came for %d", NAMES[id], threads, barrier.expected);
    if (barrier.arrived[current_warp()] & self)
        fail(LAUNCH_FAILED, "%s: the thread has arrived and comes again before the others", NAMES[id]);
    barrier.expected = threads;
    barrier.arrived[current_warp()] |= self;
    barrier.here++;
    const void *order = &barrier.order[barrier.turn % 2];
    released(order);
    if (is_full(barrier)) {
        open_barrier(barrier, id);
        maybe_yield();
    } else if (wait) {
        barrier.waiting[current_warp()] |= self;
        wait_in(NAMES[id]);
    }
    if (wait) acquired(order);
}

void sync_block() { arrive(0, 0, true); }

static void check_named(int id, int threads) {
    if (id < 1 || id >= BARRIERS) fail(LAUNCH_FAILED, "named barrier %d: they are 1 to 15", id);
    if (threads <= 0 || threads % LANES || threads > block.threads)
        fail(LAUNCH_FAILED, "named barrier %d for %d threads of %d: not whole warps of the block", id, threads,
             block.threads);
}
void named_barrier(int id, int threads, bool wait) {
    check_named(id, threads);
    arrive(id, threads, wait);
}

void barrier_thread_ended() {
    if (is_full(block.barrier[0])) open_barrier(block.barrier[0], 0);
}

} // namespace emu
