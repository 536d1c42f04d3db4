// Annotations for AddressSanitizer and ThreadSanitizer; they do nothing in other builds.
//
// The emulator itself is never instrumented for races: it declares which accesses a CUDA thread
// makes through it, and which of its operations order one thread after another.
#pragma once

#include <cstddef>

#if defined(EMU_ADDRESS_SANITIZER)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(EMU_THREAD_SANITIZER)
extern "C" {
void *__tsan_get_current_fiber();
void *__tsan_create_fiber(unsigned flags);
void __tsan_switch_to_fiber(void *fiber, unsigned flags);
void __tsan_acquire(void *address);
void __tsan_release(void *address);
void __tsan_read_range(void *address, size_t bytes);
void __tsan_write_range(void *address, size_t bytes);
}
#endif

namespace emu {

// Orders everything this thread did so far before everything after the next `acquired` of this
// address.
inline void released([[maybe_unused]] const void *address) {
#if defined(EMU_THREAD_SANITIZER)
    __tsan_release(const_cast<void *>(address));
#endif
}
inline void acquired([[maybe_unused]] const void *address) {
#if defined(EMU_THREAD_SANITIZER)
    __tsan_acquire(const_cast<void *>(address));
#endif
}

// Records that the emulator reads or writes memory on behalf of the running CUDA thread.
inline void reads([[maybe_unused]] const void *address, [[maybe_unused]] size_t bytes) {
#if defined(EMU_THREAD_SANITIZER)
    __tsan_read_range(const_cast<void *>(address), bytes);
#endif
}
inline void writes([[maybe_unused]] const void *address, [[maybe_unused]] size_t bytes) {
#if defined(EMU_THREAD_SANITIZER)
    __tsan_write_range(const_cast<void *>(address), bytes);
#endif
}

} // namespace emu
