// The running block: its threads, which of them may run, and how an error ends it.
//
// One block runs at a time, on one thread of the host. A CUDA thread runs until it waits for
// others; then another thread of its warp runs, and when no thread of the warp can run, a warp that
// the seed picks.
#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "builtins.h"
#include "fiber.h"
#include "registry.h"

namespace emu {

constexpr int LANES = 32, MAX_THREADS = 1024, MAX_WARPS = MAX_THREADS / LANES, WARPGROUP = 128;
constexpr uint32_t ALL_LANES = 0xffffffff;

// Error codes of the driver.
enum Error {
    LAUNCH_OUT_OF_RESOURCES = 701,
    ILLEGAL_ADDRESS = 700,
    LAUNCH_TIMEOUT = 702, // for work that would never end on a device
    ILLEGAL_INSTRUCTION = 715,
    MISALIGNED_ADDRESS = 716,
    LAUNCH_FAILED = 719,
};

// A copy that cp.async began.
struct Copy {
    void *to;
    const void *from; // null: the copy writes zeroes
};

struct Thread {
    Fiber fiber;
    uint3 index;
    const char *waits_in = nullptr; // the name of the wait, for a report of a deadlock
    std::vector<Copy> copies;                   // begun
    std::deque<std::vector<Copy>> copy_groups;  // committed
};

// Lanes of one mask that meet in a collective.
struct Meeting {
    uint32_t mask = 0, here = 0;
    const char *name = nullptr;
    void *given[LANES];
};

struct Warp {
    uint32_t alive = 0, runnable = 0;
    Meeting meetings[4];
    char order; // an address for `released` and `acquired`
};

// A barrier of PTX's bar.sync. Barrier 0 is the barrier of __syncthreads.
struct Barrier {
    int here = 0, expected = 0; // numbers of threads; expected 0: all threads that are alive
    uint32_t arrived[MAX_WARPS] = {}, waiting[MAX_WARPS] = {};
    unsigned turn = 0;
    char order[2]; // addresses for `released` and `acquired`, for even and odd turns
};
constexpr int BARRIERS = 16;

// Work that runs beside the threads. It is carried out when the seed asks for it, or when a
// deadlock would occur otherwise.
struct Asynchronous {
    virtual ~Asynchronous() = default;
    virtual void finish() = 0;
};

struct Block {
    Body body;
    const void *params;
    int threads = 0, warps = 0, alive = 0, current = 0;
    uint64_t random = 0;
    Fiber main;
    Thread thread[MAX_THREADS];
    Warp warp[MAX_WARPS];
    Barrier barrier[BARRIERS];
    std::vector<Asynchronous *> asynchronous;
    bool abandoned = true; // fibers were left inside a kernel, or none exist yet
    int prepared = 0;      // number of prepared fibers
    int error = 0;
    char *message = nullptr;
    size_t message_size = 0;
    char begin, end; // addresses for `released` and `acquired`
};
extern Block block;

inline int current_lane() { return block.current % LANES; }
inline int current_warp() { return block.current / LANES; }
inline Thread &current_thread() { return block.thread[block.current]; }

// Returns a random number below `bound`, from the block's seed.
uint32_t random_below(uint32_t bound);

// Ends the block with an error that names the thread. Nothing of the kernel runs after it.
[[noreturn, gnu::format(printf, 2, 3)]] void fail(Error error, const char *format, ...);
// Like `fail`, for a mistake that no single thread made.
[[noreturn, gnu::format(printf, 2, 3)]] void fail_block(Error error, const char *format, ...);

// Makes the thread wait until another thread makes it runnable.
void wait_in(const char *what);
void make_runnable(int thread);
// May let another warp run.
void maybe_yield();

// Makes all lanes of `mask`, including the current one, meet. The last lane runs `all` with the
// values that the lanes gave.
typedef void (*MeetingWork)(void *const *given, uint32_t mask);
void meet(const char *name, uint32_t mask, void *given, MeetingWork all);

// Checks the block's barrier when a thread of the block ends, since that may fill it.
void barrier_thread_ended();

} // namespace emu
