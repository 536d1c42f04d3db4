// Fibers: stacks that one thread of the machine switches between. Each runs one CUDA thread after another.
#pragma once

#include <cstddef>

#include "sanitizers.h"

namespace emu {

struct Fiber {
    void *stack_pointer = nullptr;
    unsigned char *stack = nullptr; // null: the thread's own stack
#if defined(EMU_ADDRESS_SANITIZER)
    const void *bottom = nullptr;
    size_t bytes = 0;
    void *fake_stack = nullptr;
#endif
#if defined(EMU_THREAD_SANITIZER)
    void *sanitizer = nullptr;
#endif
};

// Makes ready a fiber that begins in `entry`, which never returns. The stack is kept from an earlier time.
// False if there is no memory.
bool prepare(Fiber &fiber, void (*entry)());

// Leaves one fiber for another; returns when somebody switches back.
void switch_fiber(Fiber &from, Fiber &to);

// To be called at the beginning of `entry`.
void arrived();

} // namespace emu
