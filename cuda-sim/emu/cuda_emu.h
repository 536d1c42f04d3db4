// Everything that nvcc includes in every `.cu` implicitly, for g++: the language's keywords, vector
// types, built-in variables, intrinsics and collectives. The build includes this header before each
// kernel file and wraps the file in an anonymous namespace, so that two files may define helpers of
// the same name, as under nvcc. Therefore every system header that a kernel may include is included
// here first.
#pragma once

#include <cfloat>
#include <climits>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#include <assert.h>
#include <float.h>
#include <limits.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "keywords.h"

#include "vector_types.h"

#include "builtins.h"
#include "collectives.h"
#include "intrinsics.h"

#include "cuda.h"
#include "cuda_bf16.h"
#include "cuda_fp16.h"

#include "ptx.h"
#include "ptx90.h"
#include "registry.h"
