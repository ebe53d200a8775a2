/* x86-64 with AVX-512: 32 registers of 16 floats (Skylake-SP 2017, Zen 4 2022). */
#include "../table.h"
#if defined(__x86_64__)
#include <immintrin.h>

#define ML_TABLE ml_avx512
#define ML_NAME "avx512"
#define LANES 16
#define ML_MR 14
#if defined(__clang__)
#pragma clang attribute push(                                                                      \
    __attribute__((target("avx2,fma,avx512f,avx512vl,avx512bw,avx512dq"))), apply_to = function)
#include "operations.h"
#pragma clang attribute pop
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512vl,avx512bw,avx512dq,prefer-vector-width=512")
#include "operations.h"
#pragma GCC pop_options
#endif
#endif
