// The declaration of a kernel: one line that nvcc and the emulator each read in their own way.
//
//     KERNEL(layer_norm_f16, LayerNormParams, 256, layer_norm<__half>)
//
// declares the kernel `layer_norm_f16`, with at most 256 threads per block, whose only parameter is
// a `LayerNormParams` of `params.h`, and which calls `layer_norm<__half>(p)`. The function's name
// may contain commas.
//
// KERNEL_RESIDENT also says how many blocks must fit on a multiprocessor. From this the compiler
// derives the registers per thread (setmaxnreg needs them).
//
// Under CUDA_EMU the same file is C++ for the host (`cuda-sim/emu/`), and the line registers the
// kernel with the simulated driver.
#pragma once

#include <cstdint>

#ifdef CUDA_EMU

#include "cuda_emu.h"

#define KERNEL(name, Params, threads, ...) EMU_KERNEL(name, Params, threads, __VA_ARGS__)
#define KERNEL_RESIDENT(name, Params, threads, blocks, ...) EMU_KERNEL(name, Params, threads, __VA_ARGS__)

#else

#define KERNEL(name, Params, threads, ...) KERNEL_BOUND(name, Params, (threads), __VA_ARGS__)
#define KERNEL_RESIDENT(name, Params, threads, blocks, ...)                                                   \
    KERNEL_BOUND(name, Params, (threads, blocks), __VA_ARGS__)
#define KERNEL_BOUND(name, Params, bounds, ...)                                                               \
    extern "C" __global__ void __launch_bounds__ bounds name(const __grid_constant__ Params p) {              \
        (__VA_ARGS__)(p);                                                                                     \
    }

// Declares the block's dynamic shared memory as `unsigned char *name`, aligned to 1024 bytes.
#define DYN_SMEM(name) extern __shared__ __align__(1024) unsigned char name[]

#endif
