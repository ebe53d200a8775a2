/* 64-bit ARM: 32 registers of 4 floats, multiply-add always there (Apple M1, Graviton, Raspberry
 * Pi). */
#include "../table.h"
#if defined(__aarch64__)

#define ML_TABLE ml_neon
#define ML_NAME "neon"
#define LANES 4
#define ML_MR 14
#include "operations.h"
#endif
