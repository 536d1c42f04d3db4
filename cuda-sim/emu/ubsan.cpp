// The functions that g++'s checks of alignment and array bounds call, used in kernels only. Each
// error names the line of the kernel. (Under AddressSanitizer its own runtime provides these
// functions, so kernels are built without the checks there.)

#include <cstdint>

#include "block.h"

#if !defined(EMU_ADDRESS_SANITIZER) && !defined(EMU_THREAD_SANITIZER)

namespace {

// The layouts follow the compiler's interface to its runtime.
struct SourceLocation {
    const char *file;
    uint32_t line, column;
};
struct TypeMismatch {
    SourceLocation location;
    const void *type;
    unsigned char log_alignment, kind;
};
struct OutOfBounds {
    SourceLocation location;
    const void *array_type, *index_type;
};

const char *base_name(const char *path) {
    const char *name = path;
    for (; *path; path++)
        if (*path == '/') name = path + 1;
    return name;
}

} // namespace

extern "C" {

__attribute__((visibility("hidden"))) void __ubsan_handle_type_mismatch_v1(const TypeMismatch *what,
                                                                          uintptr_t address) {
    const SourceLocation &at = what->location;
    if (!address) emu::fail(emu::ILLEGAL_ADDRESS, "%s:%u: a null address", base_name(at.file), at.line);
    emu::fail(emu::MISALIGNED_ADDRESS, "%s:%u: address %p is not aligned to %u", base_name(at.file), at.line,
              reinterpret_cast<void *>(address), 1u << what->log_alignment);
}

__attribute__((visibility("hidden"))) void __ubsan_handle_out_of_bounds(const OutOfBounds *what, uintptr_t index) {
    const SourceLocation &at = what->location;
    emu::fail(emu::ILLEGAL_ADDRESS, "%s:%u: index %lld of an array that ends before", base_name(at.file), at.line,
              static_cast<long long>(index));
}
}

#endif
