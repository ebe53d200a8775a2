/* Any CPU that the compiler targets by default: SSE2 on x86-64, Advanced SIMD on 64-bit ARM. */
#include "../table.h"

#define ML_TABLE ml_baseline
#define ML_NAME "baseline"
#define LANES 4
#define ML_MR 6
#include "operations.h"
