// CUDA's own collectives: barriers, shuffles, votes. The lanes of a warp run independently and meet
// here.
#pragma once

#include <cstdint>

namespace emu {

// Makes all lanes of `mask` meet; each lane's `value` receives the `bytes` at the `value` of lane
// `source`.
void shuffle(const char *name, uint32_t mask, void *value, int bytes, int source);
// Makes all lanes of `mask` meet; returns the mask of lanes whose predicate is not 0.
uint32_t vote(const char *name, uint32_t mask, int predicate);
void sync_warp(uint32_t mask);
void sync_block();
[[noreturn]] void trap();
int lane();
uint32_t active_mask();

// The lane from which a shuffle with segments of `width` reads, or the lane itself if that source
// lies outside the segment.
int shuffle_up(int distance, int width);
int shuffle_down(int distance, int width);
int shuffle_xor(int mask, int width);
int shuffle_index(int index, int width);

} // namespace emu

#define EMU_SHUFFLE(name, Argument, source)                                                                   \
    template <typename T> inline T name(unsigned mask, T value, Argument argument, int width = 32) {          \
        emu::shuffle(#name, mask, &value, sizeof(T), emu::source(int(argument), width));                      \
        return value;                                                                                         \
    }
EMU_SHUFFLE(__shfl_sync, int, shuffle_index)
EMU_SHUFFLE(__shfl_xor_sync, int, shuffle_xor)
EMU_SHUFFLE(__shfl_up_sync, unsigned, shuffle_up)
EMU_SHUFFLE(__shfl_down_sync, unsigned, shuffle_down)
#undef EMU_SHUFFLE

static inline unsigned __ballot_sync(unsigned mask, int predicate) {
    return emu::vote("__ballot_sync", mask, predicate);
}
static inline int __any_sync(unsigned mask, int predicate) { return emu::vote("__any_sync", mask, predicate) != 0; }
static inline int __all_sync(unsigned mask, int predicate) {
    return emu::vote("__all_sync", mask, predicate) == mask;
}
static inline unsigned __activemask() { return emu::active_mask(); }
static inline void __syncwarp(unsigned mask = 0xffffffff) { emu::sync_warp(mask); }
static inline void __syncthreads() { emu::sync_block(); }
static inline void __threadfence() {}
static inline void __threadfence_block() {}
static inline void __trap() { emu::trap(); }
static inline void __nanosleep(unsigned) {}
