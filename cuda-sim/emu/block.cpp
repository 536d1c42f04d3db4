#include "block.h"

#include <cstdarg>
#include <cstdio>
#include <cstring>

#include "mbarrier.h"
#include "shared.h"
#include "tma.h"
#include "wgmma.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace emu {

Block block;

uint32_t random_below(uint32_t bound) {
    // SplitMix64.
    uint64_t z = block.random += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return uint32_t(((z ^ z >> 31) & 0xffffffff) * bound >> 32);
}

static Fiber &fiber_of(int thread) { return thread < 0 ? block.main : block.thread[thread].fiber; }

// Switches to a thread; -1 is the caller of run_block.
static void go_to(int thread) {
    const int from = block.current;
    if (from == thread) return;
    block.current = thread;
    if (thread >= 0) threadIdx = block.thread[thread].index;
    switch_fiber(fiber_of(from), fiber_of(thread));
}

static void set_error(Error error, bool of_thread, const char *format, va_list arguments) {
    block.error = error;
    int used = 0;
    if (of_thread) {
        const uint3 at = current_thread().index;
        used = snprintf(block.message, block.message_size, "thread [%u, %u, %u]: ", at.x, at.y, at.z);
    }
    vsnprintf(block.message + used, block.message_size - size_t(used), format, arguments);
}

[[noreturn]] static void abandon() {
    block.abandoned = true;
    go_to(-1);
    __builtin_unreachable(); // nobody switches to an abandoned fiber
}

void fail(Error error, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    set_error(error, true, format, arguments);
    va_end(arguments);
    abandon();
}

void fail_block(Error error, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    set_error(error, false, format, arguments);
    va_end(arguments);
    abandon();
}

static bool same_wait(int one, int other) {
    const MBarrierWait a = waited_mbarrier(one), b = waited_mbarrier(other);
    return block.thread[one].waits_in == block.thread[other].waits_in && a.barrier == b.barrier &&
           a.parity == b.parity;
}

// Reports which threads wait for what, as far as the message's capacity allows.
[[noreturn]] static void report_deadlock() {
    char text[400];
    size_t used = 0;
    for (int first = 0; first < block.threads && used < sizeof text;) {
        const Thread &thread = block.thread[first];
        if (!(block.warp[first / LANES].alive >> first % LANES & 1)) {
            first++;
            continue;
        }
        int last = first;
        while (last + 1 < block.threads && (block.warp[(last + 1) / LANES].alive >> (last + 1) % LANES & 1) &&
               same_wait(first, last + 1))
            last++;
        used += size_t(snprintf(text + used, sizeof text - used, "%s threads %d to %d wait in %s", used ? "," : "",
                                first, last, thread.waits_in));
        const MBarrierWait wait = waited_mbarrier(first);
        if (wait.barrier && used < sizeof text)
            used += size_t(snprintf(text + used, sizeof text - used, " at 0x%x for parity %d",
                                    shared_address("mbar_wait", wait.barrier, 8, 8), wait.parity));
        first = last + 1;
    }
    fail_block(LAUNCH_TIMEOUT, "deadlock (threads counted through the block):%s", text);
}

static bool finish_one_asynchronous() {
    auto &all = block.asynchronous;
    if (all.empty()) return false;
    const size_t at = random_below(uint32_t(all.size()));
    Asynchronous *one = all[at];
    all.erase(all.begin() + long(at));
    one->finish();
    delete one;
    return true;
}

static int runnable_warp() {
    const int start = int(random_below(uint32_t(block.warps)));
    for (int i = 0; i < block.warps; i++) {
        const int warp = (start + i) % block.warps;
        if (block.warp[warp].runnable) return warp;
    }
    return -1;
}

static int some_lane(uint32_t lanes) {
    // Starts at a random lane, so that kernels cannot rely on an order among lanes.
    const uint32_t above = lanes & (ALL_LANES << random_below(LANES));
    return __builtin_ctz(above ? above : lanes);
}

static void go_to_some_warp() {
    // With a probability of 1 in 16, something asynchronous finishes early.
    if (!block.asynchronous.empty() && random_below(16) == 0) finish_one_asynchronous();
    for (;;) {
        const int warp = runnable_warp();
        if (warp >= 0) return go_to(warp * LANES + some_lane(block.warp[warp].runnable));
        if (block.alive == 0) return go_to(-1);
        if (!finish_one_asynchronous()) report_deadlock();
    }
}

// Runs another thread, since the current thread cannot continue.
static void go_on_elsewhere() {
    const uint32_t lanes = block.warp[current_warp()].runnable;
    if (!lanes) return go_to_some_warp();
    const uint32_t above = lanes & ~((2u << current_lane()) - 1); // in turn
    go_to(current_warp() * LANES + __builtin_ctz(above ? above : lanes));
}

void wait_in(const char *what) {
    current_thread().waits_in = what;
    block.warp[current_warp()].runnable &= ~(1u << current_lane());
    go_on_elsewhere();
}

void make_runnable(int thread) { block.warp[thread / LANES].runnable |= 1u << thread % LANES; }

void maybe_yield() {
    if (random_below(8) == 0) go_to_some_warp();
}

static Meeting &meeting_of(uint32_t mask) {
    Meeting *free = nullptr;
    for (Meeting &meeting : block.warp[current_warp()].meetings) {
        if (meeting.here && meeting.mask == mask) return meeting;
        if (!meeting.here && !free) free = &meeting;
    }
    if (!free) fail(LAUNCH_FAILED, "lanes of one warp wait in collectives of five different masks");
    free->mask = mask;
    free->name = nullptr;
    return *free;
}

void meet(const char *name, uint32_t mask, void *given, MeetingWork all) {
    const uint32_t self = 1u << current_lane();
    if (!(mask & self)) fail(LAUNCH_FAILED, "%s: the mask 0x%08x does not name the lane that calls", name, mask);
    Warp &warp = block.warp[current_warp()];
    if (mask & ~warp.alive)
        fail(LAUNCH_FAILED, "%s: the mask 0x%08x names lanes that have ended or never were; there are 0x%08x", name,
             mask, warp.alive);
    Meeting &meeting = meeting_of(mask);
    if (!meeting.name) meeting.name = name;
    if (strcmp(meeting.name, name) != 0)
        fail(LAUNCH_FAILED, "%s, but other lanes of this warp are in %s", name, meeting.name);
    meeting.given[current_lane()] = given;
    meeting.here |= self;
    if (meeting.here != mask) return wait_in(name);
    all(meeting.given, mask);
    meeting.here = 0;
    warp.runnable |= mask;
    maybe_yield();
}

// The body of a fiber: it runs one block after another.
static void fiber_main() {
    arrived();
    for (;;) {
        acquired(&block.begin);
        block.body.run(block.params);
        released(&block.end);
        Warp &warp = block.warp[current_warp()];
        warp.alive &= ~(1u << current_lane());
        warp.runnable &= warp.alive;
        block.alive--;
        barrier_thread_ended();
        go_on_elsewhere();
    }
}

static bool prepare_fibers() {
    if (block.abandoned) block.prepared = 0;
    block.abandoned = false;
    for (; block.prepared < block.threads; block.prepared++)
        if (!prepare(block.thread[block.prepared].fiber, fiber_main)) return false;
    return true;
}

static void forget_last_block() {
    for (Asynchronous *one : block.asynchronous) delete one;
    block.asynchronous.clear();
    for (Barrier &barrier : block.barrier) barrier = Barrier();
    forget_mbarriers();
    forget_products();
    forget_stores();
}

static void set_threads() {
    for (int i = 0; i < block.threads; i++) {
        Thread &thread = block.thread[i];
        const unsigned n = unsigned(i);
        thread.index = {n % blockDim.x, n / blockDim.x % blockDim.y, n / (blockDim.x * blockDim.y)};
        thread.copies.clear();
        thread.copy_groups.clear();
    }
    for (int w = 0; w < block.warps; w++) {
        const int lanes = block.threads - w * LANES;
        Warp &warp = block.warp[w];
        warp.alive = warp.runnable = lanes >= LANES ? ALL_LANES : (1u << lanes) - 1;
        for (Meeting &meeting : warp.meetings) meeting = Meeting();
    }
}

int run_block(const Body &body, const void *params, const uint32_t *grid, const uint32_t *shape,
              const uint32_t *index, uint32_t dynamic_shared, uint64_t seed, char *message, size_t message_size) {
    const uint64_t threads = uint64_t(shape[0]) * shape[1] * shape[2];
    block.current = -1;
    block.error = 0;
    block.message = message;
    block.message_size = message_size;
    message[0] = 0;
    if (threads == 0 || threads > body.max_threads || threads > MAX_THREADS) {
        snprintf(message, message_size, "launched with %llu threads a block, its launch bounds say at most %u",
                 static_cast<unsigned long long>(threads), body.max_threads);
        return LAUNCH_OUT_OF_RESOURCES;
    }
    block.body = body;
    block.params = params;
    block.threads = block.alive = int(threads);
    block.warps = (block.threads + LANES - 1) / LANES;
    block.random = seed;
    gridDim = dim3(grid[0], grid[1], grid[2]);
    blockDim = dim3(shape[0], shape[1], shape[2]);
    blockIdx = {index[0], index[1], index[2]};
    forget_last_block();
    set_threads();
    if (!prepare_fibers()) {
        snprintf(message, message_size, "the host has no memory for %d stacks", block.threads);
        return LAUNCH_OUT_OF_RESOURCES;
    }
    if (!begin_shared(body.shared, dynamic_shared)) {
        snprintf(message, message_size, "%u bytes of dynamic shared memory cannot be had", dynamic_shared);
        return LAUNCH_OUT_OF_RESOURCES;
    }
    released(&block.begin);
    go_to_some_warp();
    acquired(&block.end);
    if (!block.error && !block.asynchronous.empty()) {
        block.error = LAUNCH_FAILED;
        snprintf(message, message_size, "the block ended while a tensor copy to its shared memory was under way");
    }
    if (!block.error) end_shared();
    return block.error;
}


} // namespace emu
