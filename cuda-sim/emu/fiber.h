// Fibers: stacks between which one host thread switches. Each fiber runs one CUDA thread after
// another.
#pragma once

#include <cstddef>

#include "sanitizers.h"

namespace emu {

struct Fiber {
    void *stack_pointer = nullptr;
    unsigned char *stack = nullptr; // null: the host thread's own stack
#if defined(EMU_ADDRESS_SANITIZER)
    const void *bottom = nullptr;
    size_t bytes = 0;
    void *fake_stack = nullptr;
#endif
#if defined(EMU_THREAD_SANITIZER)
    void *sanitizer = nullptr;
#endif
};

// Prepares a fiber that begins in `entry`, which never returns. A stack from earlier use is kept.
// Returns false if there is no memory.
bool prepare(Fiber &fiber, void (*entry)());

// Switches from one fiber to another; returns when another fiber switches back.
void switch_fiber(Fiber &from, Fiber &to);

// Must be called at the beginning of `entry`.
void arrived();

} // namespace emu
