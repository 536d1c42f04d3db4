#include "registry.h"

#include <cstring>

namespace emu {

static const Registered *first;

int register_kernel(Registered &entry) {
    entry.next = first;
    first = &entry;
    return 0;
}

} // namespace emu

const EmuKernel *emu_find_kernel(const char *name) {
    for (const emu::Registered *entry = emu::first; entry; entry = entry->next)
        if (strcmp(entry->kernel.name, name) == 0) return &entry->kernel;
    return nullptr;
}

const EmuKernel *emu_next_kernel(const EmuKernel *after) {
    // `kernel` is the first field of its entry.
    const emu::Registered *next = after ? reinterpret_cast<const emu::Registered *>(after)->next : emu::first;
    return next ? &next->kernel : nullptr;
}
