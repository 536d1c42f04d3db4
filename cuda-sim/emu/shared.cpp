#include "shared.h"

#include <cstdio>
#include <cstring>
#include <sys/mman.h>

namespace emu {

// A block of any device has at most 227 KiB; descriptors have 18 bits for an address.
static constexpr size_t LARGEST = 256 << 10, GUARD = 64 << 10, ALIGNMENT = 1024;
static constexpr unsigned char POISON = 0xff;

// `storage` lies between two protected areas and has the largest size. A kernel's dynamic shared
// memory ends where the second protected area begins, except for the bytes that alignment costs
// (`slack`); these bytes are checked at the end of the block.
static unsigned char *storage, *dynamic;
static size_t dynamic_bytes, slack;
static StaticShared variables;
static EmuMemoryCheck memory_check;

static bool map_storage() {
    if (storage) return true;
    void *whole = mmap(nullptr, GUARD + LARGEST + GUARD, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (whole == MAP_FAILED) return false;
    // (Aligned to a page, which is more than `ALIGNMENT`.)
    storage = static_cast<unsigned char *>(whole) + GUARD;
    return mprotect(storage, LARGEST, PROT_READ | PROT_WRITE) == 0;
}

// Poisons in a loop: under AddressSanitizer memset would report the redzones between variables.
__attribute__((no_sanitize("address"))) static void poison(unsigned char *start, size_t bytes) {
#if defined(EMU_ADDRESS_SANITIZER)
    for (volatile unsigned char *at = start; at < start + bytes; at++) *at = POISON;
#else
    memset(start, POISON, bytes);
#endif
}

bool begin_shared(const StaticShared &of_file, uint32_t bytes) {
    if (bytes > LARGEST || !map_storage()) return false;
    variables = of_file;
    if (variables.start) poison(variables.start, size_t(variables.stop - variables.start));
    dynamic_bytes = bytes;
    slack = (ALIGNMENT - bytes % ALIGNMENT) % ALIGNMENT;
#if defined(EMU_ADDRESS_SANITIZER)
    __asan_unpoison_memory_region(storage, LARGEST);
#endif
    dynamic = storage + LARGEST - slack - bytes;
    poison(dynamic, bytes + slack);
#if defined(EMU_ADDRESS_SANITIZER)
    __asan_poison_memory_region(storage, LARGEST - slack - bytes);
    __asan_poison_memory_region(dynamic + bytes, slack);
#endif
    return true;
}

void end_shared() {
#if !defined(EMU_ADDRESS_SANITIZER)
    for (size_t i = 0; i < slack; i++)
        if (dynamic[dynamic_bytes + i] != POISON) {
            block.error = ILLEGAL_ADDRESS;
            snprintf(block.message, block.message_size,
                     "a thread wrote %zu bytes behind the end of the %zu bytes of dynamic shared memory", i,
                     dynamic_bytes);
            return;
        }
#endif
}

unsigned char *dynamic_shared() { return dynamic; }

static size_t variables_at() { return (dynamic_bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

uint32_t shared_address(const char *what, const void *pointer, size_t bytes, size_t alignment) {
    const auto at = static_cast<const unsigned char *>(pointer);
    uint32_t address;
    if (at >= dynamic && at <= dynamic + dynamic_bytes && bytes <= size_t(dynamic + dynamic_bytes - at))
        address = uint32_t(at - dynamic);
    else if (variables.start && at >= variables.start && at <= variables.stop &&
             bytes <= size_t(variables.stop - at))
        address = uint32_t(variables_at() + size_t(at - variables.start));
    else if (at >= storage && at < storage + LARGEST)
        fail(ILLEGAL_ADDRESS, "%s: %zu bytes at offset %td of %zu bytes of dynamic shared memory", what, bytes,
             at - dynamic, dynamic_bytes);
    else
        fail(ILLEGAL_ADDRESS, "%s: %zu bytes at %p are not in shared memory", what, bytes, pointer);
    if (reinterpret_cast<uintptr_t>(pointer) % alignment)
        fail(MISALIGNED_ADDRESS, "%s: shared address 0x%x is not aligned to %zu", what, address, alignment);
    return address;
}

unsigned char *shared_pointer(const char *what, uint32_t address, size_t bytes) {
    if (address <= dynamic_bytes && bytes <= dynamic_bytes - address) return dynamic + address;
    const size_t in_variables = address - variables_at(), size = size_t(variables.stop - variables.start);
    if (address >= variables_at() && in_variables <= size && bytes <= size - in_variables)
        return variables.start + in_variables;
    fail(ILLEGAL_ADDRESS, "%s: %zu bytes at shared address 0x%x, outside of the %zu bytes of dynamic shared memory",
         what, bytes, address, dynamic_bytes);
}

void check_global(const char *what, const void *address, size_t bytes, size_t alignment, bool write) {
    if (reinterpret_cast<uintptr_t>(address) % alignment)
        fail(MISALIGNED_ADDRESS, "%s: global address %p is not aligned to %zu", what, address, alignment);
    if (memory_check && memory_check(address, bytes, write))
        fail(ILLEGAL_ADDRESS, "%s: global memory", what);
}

} // namespace emu

void emu_set_memory_check(EmuMemoryCheck check) { emu::memory_check = check; }

void emu_shared_guards(uintptr_t guards[4]) {
    emu::map_storage();
    const auto start = reinterpret_cast<uintptr_t>(emu::storage);
    guards[0] = start - emu::GUARD;
    guards[1] = start;
    guards[2] = start + emu::LARGEST;
    guards[3] = start + emu::LARGEST + emu::GUARD;
}
