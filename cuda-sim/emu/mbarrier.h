// mbarriers: what their 64 bits hold here, and who waits for them.
#pragma once

#include <cstdint>

namespace emu {

// An error where no barrier was initialised at that address.
void check_mbarrier(const char *what, const uint64_t *barrier);
// Bytes of a tensor copy have come. The barrier may have become something else meanwhile: that is an error.
void mbarrier_bytes_came(uint64_t *barrier, int bytes);
// Whether the initialisation is known to tensor copies.
bool is_fenced(const uint64_t *barrier);
// Before a block.
void forget_mbarriers();
// For a report: `parity` and shared address of what a thread waits for.
struct MBarrierWait {
    const uint64_t *barrier = nullptr;
    int parity = 0;
};
MBarrierWait waited_mbarrier(int thread);

} // namespace emu
