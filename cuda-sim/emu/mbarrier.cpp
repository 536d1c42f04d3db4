#include "mbarrier.h"

#include <cstring>
#include <vector>

#include "block.h"
#include "ptx90.h"
#include "shared.h"

namespace emu {

// The layout of these bits on a device is not documented, and no kernel may look at them. A pattern
// distinguishes an initialised barrier from other memory.
struct MBarrier {
    static constexpr uint64_t PATTERN = 0x2a5b;
    uint64_t pending : 12, count : 12; // arrivals that are missing in this phase, and arrivals per phase
    int64_t bytes : 24;                // bytes that are still expected
    uint64_t phase : 1, fenced : 1, pattern : 14;
};
static_assert(sizeof(MBarrier) == 8, "as wide as a device's");
static constexpr int MAX_COUNT = 4095, MAX_BYTES = (1 << 20) - 1;

static MBarrierWait waits[MAX_THREADS];
static std::vector<uint64_t *> unfenced[MAX_THREADS];

void forget_mbarriers() {
    for (int i = 0; i < MAX_THREADS; i++) {
        waits[i] = MBarrierWait();
        unfenced[i].clear();
    }
}

MBarrierWait waited_mbarrier(int thread) { return waits[thread]; }

static MBarrier &at(uint64_t *barrier) { return *reinterpret_cast<MBarrier *>(barrier); }
static const MBarrier &at(const uint64_t *barrier) { return *reinterpret_cast<const MBarrier *>(barrier); }

void check_mbarrier(const char *what, const uint64_t *barrier) {
    const uint32_t address = shared_address(what, barrier, 8, 8);
    if (at(barrier).pattern != MBarrier::PATTERN)
        fail(LAUNCH_FAILED, "%s: at shared address 0x%x is no mbarrier that was initialised", what, address);
}

bool is_fenced(const uint64_t *barrier) { return at(barrier).fenced; }

void mbar_init(uint64_t *barrier, int count) {
    shared_address("mbar_init", barrier, 8, 8);
    if (count < 1 || count > MAX_COUNT) fail(LAUNCH_FAILED, "mbar_init: a count of %d", count);
    MBarrier fresh = {};
    fresh.pending = fresh.count = unsigned(count) & MAX_COUNT;
    fresh.pattern = MBarrier::PATTERN;
    at(barrier) = fresh;
    writes(barrier, 8);
    unfenced[block.current].push_back(barrier);
}

void fence_mbar_init() {
    for (uint64_t *barrier : unfenced[block.current])
        if (at(barrier).pattern == MBarrier::PATTERN) at(barrier).fenced = 1;
    unfenced[block.current].clear();
}

static void begin_next_phase_if_over(uint64_t *barrier) {
    MBarrier &bits = at(barrier);
    if (bits.pending || bits.bytes) return;
    bits.phase ^= 1;
    bits.pending = bits.count;
    for (int i = 0; i < block.threads; i++)
        if (waits[i].barrier == barrier) make_runnable(i);
}

void mbar_arrive(uint64_t *barrier, int bytes) {
    const char *what = bytes ? "mbar_expect_tx" : "mbar_arrive";
    check_mbarrier(what, barrier);
    reads(barrier, 8);
    MBarrier &bits = at(barrier);
    if (bits.pending == 0)
        fail(LAUNCH_FAILED, "%s: more than the %d arrivals of the phase", what, int(bits.count));
    const int expected = int(bits.bytes) + bytes;
    if (bytes < 0 || expected > MAX_BYTES) fail(LAUNCH_FAILED, "%s: %d bytes expected in all", what, expected);
    bits.bytes = expected;
    bits.pending = bits.pending - 1;
    released(barrier);
    begin_next_phase_if_over(barrier);
    maybe_yield();
}

void mbarrier_bytes_came(uint64_t *barrier, int bytes) {
    MBarrier &bits = at(barrier);
    if (bits.pattern != MBarrier::PATTERN)
        fail_block(LAUNCH_FAILED, "a tensor copy ends at a barrier that something has overwritten");
    if (bits.bytes - bytes < -MAX_BYTES) fail_block(LAUNCH_FAILED, "more bytes came than a barrier can count");
    bits.bytes -= bytes;
    begin_next_phase_if_over(barrier);
}

void mbar_wait(uint64_t *barrier, int parity) {
    check_mbarrier("mbar_wait", barrier);
    // The PTX ISA gives phases the parities 0 and 1, and says nothing about other numbers.
    if (parity != 0 && parity != 1) fail(LAUNCH_FAILED, "mbar_wait: a parity of %d, which is neither 0 nor 1", parity);
    reads(barrier, 8);
    while (at(barrier).phase == unsigned(parity)) {
        waits[block.current] = {barrier, parity};
        wait_in("mbar_wait");
        waits[block.current] = MBarrierWait();
        check_mbarrier("mbar_wait", barrier);
    }
    acquired(barrier);
    maybe_yield();
}

bool mbar_test(uint64_t *barrier, int parity) {
    check_mbarrier("mbar_test", barrier);
    reads(barrier, 8);
    const bool over = at(barrier).phase != unsigned(parity & 1);
    if (over) acquired(barrier);
    maybe_yield();
    return over;
}

} // namespace emu
