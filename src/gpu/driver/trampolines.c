// A trampoline for each call of the CUDA driver: jumps to the driver's function of the same name.
//
// A slot a symbol holds the address to jump to. It starts at null; the first call goes the slow way,
// which saves the argument registers, opens the library, looks the symbol up, fills the slot and
// jumps. Arguments on the stack and the return value are never touched, so any signature will do.
//
// The library is the one that cuda_trampoline_choose names, or $SEQSTREAM_LIBCUDA if that is set, else libcuda.so.1. Without one every call
// returns CUDA_ERROR_NO_DEVICE; a call that the driver lacks returns CUDA_ERROR_NOT_SUPPORTED.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "symbols.inc"

enum { NO_DEVICE = 100, NOT_SUPPORTED = 801 };

__attribute__((visibility("hidden"))) void *cuda_trampoline_slots[SYMBOL_COUNT];

#define NAME(name, index) #name,
static const char *const names[SYMBOL_COUNT] = {SYMBOLS(NAME)};

#if defined(__x86_64__)

// r11 is the one register that neither holds arguments nor is preserved.
#define TRAMPOLINE(name, index)                                            \
    __asm__(".text\n.p2align 4\n"                                          \
            ".globl " #name "\n.type " #name ",@function\n" #name ":\n"    \
            "  endbr64\n"                                                  \
            "  movq cuda_trampoline_slots+8*" #index "(%rip), %r11\n"      \
            "  testq %r11, %r11\n"                                         \
            "  je 1f\n"                                                    \
            "  jmp *%r11\n"                                                \
            "1: movl $" #index ", %r11d\n"                                 \
            "  jmp cuda_trampoline_first_call\n"                           \
            ".size " #name ", .-" #name "\n");

__asm__(".text\n.hidden cuda_trampoline_first_call\n.globl cuda_trampoline_first_call\n"
        ".type cuda_trampoline_first_call,@function\n"
        "cuda_trampoline_first_call:\n"
        ".cfi_startproc\n"
        "  pushq %rbp\n.cfi_def_cfa_offset 16\n.cfi_offset %rbp, -16\n"
        "  movq %rsp, %rbp\n.cfi_def_cfa_register %rbp\n"
        "  subq $192, %rsp\n"
        "  movq %rdi, 0(%rsp)\n  movq %rsi, 8(%rsp)\n  movq %rdx, 16(%rsp)\n  movq %rcx, 24(%rsp)\n"
        "  movq %r8, 32(%rsp)\n  movq %r9, 40(%rsp)\n  movq %rax, 48(%rsp)\n"
        "  movups %xmm0, 64(%rsp)\n  movups %xmm1, 80(%rsp)\n  movups %xmm2, 96(%rsp)\n"
        "  movups %xmm3, 112(%rsp)\n  movups %xmm4, 128(%rsp)\n  movups %xmm5, 144(%rsp)\n"
        "  movups %xmm6, 160(%rsp)\n  movups %xmm7, 176(%rsp)\n"
        "  movl %r11d, %edi\n"
        "  call cuda_trampoline_resolve\n"
        "  movq %rax, %r11\n"
        "  movq 0(%rsp), %rdi\n  movq 8(%rsp), %rsi\n  movq 16(%rsp), %rdx\n  movq 24(%rsp), %rcx\n"
        "  movq 32(%rsp), %r8\n  movq 40(%rsp), %r9\n  movq 48(%rsp), %rax\n"
        "  movups 64(%rsp), %xmm0\n  movups 80(%rsp), %xmm1\n  movups 96(%rsp), %xmm2\n"
        "  movups 112(%rsp), %xmm3\n  movups 128(%rsp), %xmm4\n  movups 144(%rsp), %xmm5\n"
        "  movups 160(%rsp), %xmm6\n  movups 176(%rsp), %xmm7\n"
        "  leave\n.cfi_def_cfa %rsp, 8\n"
        "  jmp *%r11\n"
        ".cfi_endproc\n"
        ".size cuda_trampoline_first_call, .-cuda_trampoline_first_call\n");

#elif defined(__aarch64__)

// x16 is the register that the procedure call standard leaves to code between caller and callee.
#define TRAMPOLINE(name, index)                                            \
    __asm__(".text\n.p2align 4\n"                                          \
            ".globl " #name "\n.type " #name ",%function\n" #name ":\n"    \
            "  hint #34\n" /* bti c */                                     \
            "  adrp x16, cuda_trampoline_slots+8*" #index "\n"             \
            "  ldr x16, [x16, #:lo12:cuda_trampoline_slots+8*" #index "]\n" \
            "  cbz x16, 1f\n"                                              \
            "  br x16\n"                                                   \
            "1: mov w16, #" #index "\n"                                    \
            "  b cuda_trampoline_first_call\n"                             \
            ".size " #name ", .-" #name "\n");

__asm__(".text\n.hidden cuda_trampoline_first_call\n.globl cuda_trampoline_first_call\n"
        ".type cuda_trampoline_first_call,%function\n"
        "cuda_trampoline_first_call:\n"
        "  stp x29, x30, [sp, #-208]!\n  mov x29, sp\n"
        "  stp x0, x1, [sp, #16]\n  stp x2, x3, [sp, #32]\n"
        "  stp x4, x5, [sp, #48]\n  stp x6, x7, [sp, #64]\n"
        "  stp q0, q1, [sp, #80]\n  stp q2, q3, [sp, #112]\n"
        "  stp q4, q5, [sp, #144]\n  stp q6, q7, [sp, #176]\n"
        "  mov w0, w16\n"
        "  bl cuda_trampoline_resolve\n"
        "  mov x16, x0\n"
        "  ldp x0, x1, [sp, #16]\n  ldp x2, x3, [sp, #32]\n"
        "  ldp x4, x5, [sp, #48]\n  ldp x6, x7, [sp, #64]\n"
        "  ldp q0, q1, [sp, #80]\n  ldp q2, q3, [sp, #112]\n"
        "  ldp q4, q5, [sp, #144]\n  ldp q6, q7, [sp, #176]\n"
        "  ldp x29, x30, [sp], #208\n"
        "  br x16\n"
        ".size cuda_trampoline_first_call, .-cuda_trampoline_first_call\n");

#else
#error "no trampoline for this architecture: write one beside x86-64's and aarch64's"
#endif

SYMBOLS(TRAMPOLINE)

static pthread_once_t once = PTHREAD_ONCE_INIT;
static void *library;
static char report[1024];

static pthread_mutex_t choosing = PTHREAD_MUTEX_INITIALIZER;
static char *choice;

static void open_library(void) {
    pthread_mutex_lock(&choosing);
    const char *chosen = choice ? choice : getenv("SEQSTREAM_LIBCUDA");
    pthread_mutex_unlock(&choosing);
    const char *name = chosen && *chosen ? chosen : "libcuda.so.1";
    library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    const char *reason = library ? "" : dlerror();
    snprintf(report, sizeof report, "%s", library ? name : (reason ? reason : name));
}

// Makes a file the library, if none has been opened yet, and opens it.
__attribute__((visibility("hidden"))) void cuda_trampoline_choose(const char *path) {
    pthread_mutex_lock(&choosing);
    free(choice);
    choice = strdup(path);
    pthread_mutex_unlock(&choosing);
    pthread_once(&once, open_library);
}

// The library that calls go to, with 1, or with 0 why there is none. Opens it if no call has yet.
__attribute__((visibility("hidden"))) int cuda_trampoline_library(const char **text) {
    pthread_once(&once, open_library);
    *text = report;
    return library != NULL;
}

static int no_driver(void) { return NO_DEVICE; }
static int no_symbol(void) { return NOT_SUPPORTED; }

static int no_driver_name(int code, const char **text) {
    *text = code == NO_DEVICE ? "CUDA_ERROR_NO_DEVICE" : "unknown: no CUDA driver is loaded";
    return 0;
}

static void *fallback(const char *name) {
    if (library) return (void *)no_symbol;
    if (!strcmp(name, "cuGetErrorName") || !strcmp(name, "cuGetErrorString")) return (void *)no_driver_name;
    return (void *)no_driver;
}

__attribute__((visibility("hidden"), used)) void *cuda_trampoline_resolve(unsigned index) {
    pthread_once(&once, open_library);
    void *found = library ? dlsym(library, names[index]) : NULL;
    if (!found) found = fallback(names[index]);
    // Threads that race here store the same address.
    __atomic_store_n(&cuda_trampoline_slots[index], found, __ATOMIC_RELEASE);
    return found;
}
