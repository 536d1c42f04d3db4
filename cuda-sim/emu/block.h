// The block that runs: its threads, who may go on, and how a mistake ends it.
//
// One block runs at a time, on one thread of the machine. A thread goes on until it waits for others; then another
// one of its warp does, and when the warp is at rest, a warp that the seed picks.
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

// Codes of the driver.
enum Error {
    LAUNCH_OUT_OF_RESOURCES = 701,
    ILLEGAL_ADDRESS = 700,
    LAUNCH_TIMEOUT = 702, // what never ends on a device
    ILLEGAL_INSTRUCTION = 715,
    MISALIGNED_ADDRESS = 716,
    LAUNCH_FAILED = 719,
};

// A copy that cp.async began.
struct Copy {
    void *to;
    const void *from; // null: zeroes
};

struct Thread {
    Fiber fiber;
    uint3 index;
    const char *waits_in = nullptr; // what it waits in, for a report of a deadlock
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

// A barrier of PTX's bar.sync. Barrier 0 is that of __syncthreads.
struct Barrier {
    int here = 0, expected = 0; // threads; expected 0: all that are alive
    uint32_t arrived[MAX_WARPS] = {}, waiting[MAX_WARPS] = {};
    unsigned turn = 0;
    char order[2]; // addresses, for even turns and odd ones
};
constexpr int BARRIERS = 16;

// Something that goes on beside the threads. It is carried out when the seed or a deadlock asks for it.
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
    bool abandoned = true; // fibers stand somewhere inside of a kernel, or nowhere
    int prepared = 0;      // fibers
    int error = 0;
    char *message = nullptr;
    size_t message_size = 0;
    char begin, end; // addresses for `released` and `acquired`
};
extern Block block;

inline int current_lane() { return block.current % LANES; }
inline int current_warp() { return block.current / LANES; }
inline Thread &current_thread() { return block.thread[block.current]; }

// A number below `bound`, by the block's seed.
uint32_t random_below(uint32_t bound);

// Ends the block with an error that names the thread. Nothing of the kernel runs after it.
[[noreturn, gnu::format(printf, 2, 3)]] void fail(Error error, const char *format, ...);
// The same, of a mistake that no single thread made.
[[noreturn, gnu::format(printf, 2, 3)]] void fail_block(Error error, const char *format, ...);

// The thread waits until somebody makes it runnable.
void wait_in(const char *what);
void make_runnable(int thread);
// Another warp may have its turn.
void maybe_yield();

// All lanes of `mask`, the current one included, meet. The last of them runs `all`, with what each gave.
typedef void (*MeetingWork)(void *const *given, uint32_t mask);
void meet(const char *name, uint32_t mask, void *given, MeetingWork all);

// A barrier is looked at when a thread of the block ends, too.
void barrier_thread_ended();

} // namespace emu
