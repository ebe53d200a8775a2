/* x86-64 with AVX2 and FMA: 16 registers of 8 floats (Haswell 2013, Zen 2017). */
#include "../table.h"
#if defined(__x86_64__)
#include <immintrin.h>

#define ML_TABLE ml_avx2
#define ML_NAME "avx2"
#define LANES 8
#define ML_MR 6
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#include "operations.h"
#pragma clang attribute pop
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#include "operations.h"
#pragma GCC pop_options
#endif
#endif
