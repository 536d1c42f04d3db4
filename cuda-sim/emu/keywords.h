// CUDA's keywords, defined for g++.
#pragma once

#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __grid_constant__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
// In CUDA `__shared__ alignas(16) float x[4];` is legal, but `static alignas(16) float x[4];` is
// not legal in C++.
#define alignas(n) __attribute__((aligned(n)))

// One block runs at a time, so its static shared memory can be the program's static memory. The
// build renames the section that holds a kernel file's variables without an initial value; by this
// section the emulator finds and poisons them.
#define __shared__ static

// Dynamic shared memory.
#define DYN_SMEM(name) unsigned char *const name = emu::dynamic_shared()

namespace emu {
unsigned char *dynamic_shared();
}
