// mbarriers: the contents of their 64 bits in the emulator, and which threads wait for them.
#pragma once

#include <cstdint>

namespace emu {

// Fails if no barrier was initialised at that address.
void check_mbarrier(const char *what, const uint64_t *barrier);
// Records that bytes of a tensor copy have arrived. It fails if the memory is no longer a barrier.
void mbarrier_bytes_came(uint64_t *barrier, int bytes);
// Returns whether a fence has made the initialisation visible to tensor copies.
bool is_fenced(const uint64_t *barrier);
// Called before each block.
void forget_mbarriers();
// The parity and the barrier for which a thread waits, for a report.
struct MBarrierWait {
    const uint64_t *barrier = nullptr;
    int parity = 0;
};
MBarrierWait waited_mbarrier(int thread);

} // namespace emu
