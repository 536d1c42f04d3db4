#include "fiber.h"

#include <cstring>
#include <sys/mman.h>
#include <unistd.h>

// Saves the registers that a function must preserve on the stack that is left, and restores them
// from the stack that is entered.
extern "C" void emu_switch_stack(void **left, void *entered);

#if defined(__x86_64__)
__asm__(".text\n"
        ".hidden emu_switch_stack\n"
        ".globl emu_switch_stack\n"
        ".type emu_switch_stack,@function\n"
        "emu_switch_stack:\n"
        "    pushq %rbp\n    pushq %rbx\n    pushq %r12\n    pushq %r13\n    pushq %r14\n    pushq %r15\n"
        "    movq %rsp, (%rdi)\n"
        "    movq %rsi, %rsp\n"
        "    popq %r15\n    popq %r14\n    popq %r13\n    popq %r12\n    popq %rbx\n    popq %rbp\n"
        "    ret\n"
        ".size emu_switch_stack, . - emu_switch_stack\n");
// Six registers, the return address, and a word that keeps the stack aligned as after a call.
static constexpr int FRAME_WORDS = 8, RETURN_WORD = 6;
#elif defined(__aarch64__)
__asm__(".text\n"
        ".hidden emu_switch_stack\n"
        ".globl emu_switch_stack\n"
        ".type emu_switch_stack,%function\n"
        "emu_switch_stack:\n"
        "    sub sp, sp, #160\n"
        "    stp x19, x20, [sp]\n    stp x21, x22, [sp, #16]\n    stp x23, x24, [sp, #32]\n"
        "    stp x25, x26, [sp, #48]\n    stp x27, x28, [sp, #64]\n    stp x29, x30, [sp, #80]\n"
        "    stp d8, d9, [sp, #96]\n    stp d10, d11, [sp, #112]\n    stp d12, d13, [sp, #128]\n"
        "    stp d14, d15, [sp, #144]\n"
        "    mov x9, sp\n    str x9, [x0]\n    mov sp, x1\n"
        "    ldp x19, x20, [sp]\n    ldp x21, x22, [sp, #16]\n    ldp x23, x24, [sp, #32]\n"
        "    ldp x25, x26, [sp, #48]\n    ldp x27, x28, [sp, #64]\n    ldp x29, x30, [sp, #80]\n"
        "    ldp d8, d9, [sp, #96]\n    ldp d10, d11, [sp, #112]\n    ldp d12, d13, [sp, #128]\n"
        "    ldp d14, d15, [sp, #144]\n"
        "    add sp, sp, #160\n    ret\n"
        ".size emu_switch_stack, . - emu_switch_stack\n");
static constexpr int FRAME_WORDS = 20, RETURN_WORD = 11;
#else
#error "the switch of stacks is written for x86-64 and aarch64"
#endif

namespace emu {

#if defined(EMU_ADDRESS_SANITIZER) || defined(EMU_THREAD_SANITIZER)
static constexpr size_t STACK = 256 << 10;
#else
static constexpr size_t STACK = 128 << 10;
#endif

bool prepare(Fiber &fiber, void (*entry)()) {
    if (!fiber.stack) {
        void *stack = mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (stack == MAP_FAILED) return false;
        mprotect(stack, size_t(sysconf(_SC_PAGESIZE)), PROT_NONE);
        fiber.stack = static_cast<unsigned char *>(stack);
    }
    void **frame = reinterpret_cast<void **>(fiber.stack + STACK) - FRAME_WORDS;
#if defined(EMU_ADDRESS_SANITIZER)
    // An abandoned kernel left the redzones of its variables on this stack.
    __asan_unpoison_memory_region(fiber.stack, STACK);
    fiber.bottom = fiber.stack;
    fiber.bytes = STACK;
    fiber.fake_stack = nullptr;
#endif
#if defined(EMU_THREAD_SANITIZER)
    fiber.sanitizer = __tsan_create_fiber(0);
#endif
    for (int i = 0; i < FRAME_WORDS; i++) frame[i] = nullptr;
    frame[RETURN_WORD] = reinterpret_cast<void *>(entry);
    fiber.stack_pointer = frame;
    return true;
}

// The fiber that the last switch left.
[[maybe_unused]] static Fiber *left;

void switch_fiber(Fiber &from, Fiber &to) {
    left = &from;
#if defined(EMU_ADDRESS_SANITIZER)
    __sanitizer_start_switch_fiber(&from.fake_stack, to.bottom, to.bytes);
#endif
#if defined(EMU_THREAD_SANITIZER)
    if (!from.stack) from.sanitizer = __tsan_get_current_fiber();
    constexpr unsigned NO_ORDER = 1;
    __tsan_switch_to_fiber(to.sanitizer, NO_ORDER);
#endif
    emu_switch_stack(&from.stack_pointer, to.stack_pointer);
#if defined(EMU_ADDRESS_SANITIZER)
    __sanitizer_finish_switch_fiber(from.fake_stack, &left->bottom, &left->bytes);
#endif
}

void arrived() {
#if defined(EMU_ADDRESS_SANITIZER)
    __sanitizer_finish_switch_fiber(nullptr, &left->bottom, &left->bytes);
#endif
}

} // namespace emu
