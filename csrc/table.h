/* What a target exports: its serial kernels, one function pointer each. threads.c cuts an operation
   into tasks and calls these; dispatch.c says whose. */
#pragma once
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* Element (i, j) stands at data[i * row + j * col]. */
struct matrix {
    const float *data;
    int64_t row, col;
};

/* Blocks of the packed product, in floats; matmul.c says why. */
enum { KC = 384, NC = 256, MR_MAX = 14, NR_MAX = 32 };
enum { MATMUL_SCRATCH = KC * NC + KC * MR_MAX + 16 }; /* a block of B, a tile of A: 415 KB */
enum { PACK_A_FROM = 8 };                             /* panels */

typedef void matmul_rung(int64_t M, int64_t N, int64_t K, struct matrix a, struct matrix b,
                         float *c, int64_t c_row);

struct table {
    const char *name;
    matmul_rung *matmul[3]; /* naive, reordered, tiled */
    void (*matmul_simd)(int64_t M, int64_t N, int64_t K, struct matrix a, struct matrix b, float *c,
                        int64_t c_row, bool add, float *scratch);
    void (*matmul_pack_b)(int64_t K, int64_t N, struct matrix b, float *packed);
    void (*matmul_tiles)(int64_t M, int64_t first, int64_t last, int64_t N, int64_t K,
                         struct matrix a, const float *packed_b, float *c, int64_t c_row, bool add,
                         float *a_tile);
    int64_t matmul_rows, matmul_columns; /* of the register tile: MR, NR */
    void (*softmax[2])(int64_t n, int64_t length, const float *x, float *y); /* naive, simd */
    void (*softmax_vjp[2])(int64_t n, const float *y, const float *dy, float *dx);
    void (*layer_norm)(int64_t n, const float *x, const float *weight, const float *bias, float eps,
                       float *y, float *mean, float *rstd);
    void (*layer_norm_vjp)(int64_t n, const float *x, const float *weight, float mean, float rstd,
                           const float *dy, float *dx, float *dweight, float *dbias);
    void (*gelu[2])(int64_t n, const float *x, float *y, float *slope); /* exact, tanh */
    void (*gelu_vjp)(int64_t n, const float *slope, const float *dy, float *dx);
    float (*cross_entropy)(int64_t n, const float *x, int64_t target, float smoothing, float *lse);
    void (*cross_entropy_vjp)(int64_t n, const float *x, int64_t target, float smoothing, float lse,
                              float g, float *dx);
    void (*attention)(int64_t T, int64_t S, int64_t D, float scale, bool causal, struct matrix q,
                      struct matrix k, struct matrix v, float *o, int64_t o_row, float *lse,
                      float *p, float *scratch);
    void (*attention_vjp)(int64_t T, int64_t S, int64_t D, float scale, bool causal,
                          struct matrix q, struct matrix k, struct matrix v, struct matrix o,
                          struct matrix grad, const float *lse, float *dq, int64_t dq_row,
                          float *dk, int64_t dk_row, float *dv, int64_t dv_row, float *p, float *dp,
                          float *scratch);
    void (*embedding_vjp)(int64_t tokens, int64_t columns, const int64_t *ids, const float *dy,
                          int64_t row, float *dweight);
    void (*adamw)(int64_t n, float *p, const float *g, float *m, float *v, float lr, double beta1,
                  double beta2, float eps, float decay, float c1, float c2);
    double (*sum_squares)(int64_t n, const float *x);
    void (*map)(int64_t n, int function, const float *x, float *y);
    int64_t (*roof_fma)(int64_t rounds, float x, float c, float *sum); /* the FLOP done */
    float (*roof_read)(int64_t n, const float *x, int64_t passes);
    void (*roof_copy)(int64_t n, const float *x, float *y, int64_t passes);
};

extern const struct table ml_baseline;
#if defined(__x86_64__)
extern const struct table ml_avx2, ml_avx512;
#elif defined(__aarch64__)
extern const struct table ml_neon;
#endif

const struct table *ml_active(void);

static inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
