// CUDA's built-in variables, for the thread that runs. The scheduler sets them at each switch.
#pragma once

#include "vector_types.h"

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;
