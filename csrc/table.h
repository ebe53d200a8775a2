/* What a target exports: its serial kernels, one function pointer each. threads.c cuts an operation
   into tasks and calls these; dispatch.c says whose. */
#pragma once
#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* Element (i, j) stands at data[i * row + j * col]. */
struct matrix {
    const float *data;
    int64_t row, col;
};

/* Its part that starts at element (i, j). */
static inline struct matrix block(struct matrix m, int64_t i, int64_t j) {
    return (struct matrix){m.data + i * m.row + j * m.col, m.row, m.col};
}

/* Where the sums of a product go, and what happens to them on the way. Rows are contiguous. */
struct result {
    float *c;
    int64_t row;      /* from one row of c to the next, and of times and slope */
    const float *add; /* c = a b + add: a bias (add_row 0), a residual, c itself; or NULL */
    int64_t add_row;
    const float *times; /* then c = c * times; or NULL */
    float *slope;       /* then slope = gelu'(c), c = gelu(c); or NULL */
    bool tanh_form;
};

static inline struct result result_at(struct result to, int64_t i, int64_t j) {
    to.c += i * to.row + j;
    if (to.add) to.add += i * to.add_row + j;
    if (to.times) to.times += i * to.row + j;
    if (to.slope) to.slope += i * to.row + j;
    return to;
}

/* Where part i begins when n things are cut into `parts`, as even as can be. */
static inline int64_t part(int64_t n, int64_t parts, int64_t i) { return n * i / parts; }

/* Blocks of the packed product, in floats; matmul.c says why. */
enum { KC = 384, NC = 512, WIDTH_MAX = 16, NR_MAX = 32, TILES = 8 };
enum { MATMUL_SCRATCH = KC * NC + TILES * KC * WIDTH_MAX }; /* of B, of A */
enum { PACK_A_FROM = 4, PACK_TRANSPOSED_A_FROM = 3 };       /* panels that use a tile of A */
enum { NARROW = 32, IN_PLACE_ROWS = 64 }; /* as if packed; see matmul_tiles, _simd */

static inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* A product is cut into slices of K, blocks of columns (slice x block <= KC x NC), and tiles of
   rows, all of one height but the last. */
static inline int64_t slices_of(int64_t K) { return K > KC ? ceil_div(K, KC) : 1; }
static inline int64_t blocks_of(int64_t N, int64_t K) {
    const int64_t slice = ceil_div(K, slices_of(K)), fit = KC * NC / (slice + 1) / NR_MAX * NR_MAX;
    return N > fit ? ceil_div(N, fit) : 1;
}
static inline int64_t block_start(int64_t N, int64_t blocks, int64_t NR, int64_t i) {
    return min(N, NR * part(ceil_div(N, NR), blocks, i));
}
static inline int64_t tile_height(int64_t M, int64_t MR) {
    return M > MR ? ceil_div(M, ceil_div(M, MR)) : MR;
}

/* Floats: two longer rows and the exponentials of one, 1.5 MB, leave no room in a core's L2. */
enum { LONG_ROW = 1 << 17 };
_Static_assert((int)LONG_ROW <= (int)MATMUL_SCRATCH, "ml_scratch holds a row's exponentials");

/* Attention works on blocks of queries; `work`: so many floats for scores and packed factors. */
enum { QUERIES = NARROW };
static inline int64_t padded(int64_t n) { return ceil_div(n, NR_MAX) * NR_MAX; }
static inline int64_t packed_keys(int64_t S) { return 3 * S + WIDTH_MAX; } /* rows at most */
static inline int64_t attention_work(int64_t S, int64_t D) {
    return QUERIES * (2 * padded(S) + padded(D)) + S * padded(D) + 2 * packed_keys(S) * D;
}

typedef void matmul_rung(int64_t M, int64_t N, int64_t K, struct matrix a, struct matrix b,
                         float *c, int64_t c_row);

struct table {
    const char *name;
    matmul_rung *matmul[3]; /* naive, reordered, tiled */
    void (*matmul_simd)(int64_t M, int64_t N, int64_t K, struct matrix a, struct matrix b,
                        struct result to, float *scratch);
    void (*matmul_pack_b)(int64_t K, int64_t N, struct matrix b, float *packed);
    void (*matmul_tiles)(int64_t M, int64_t height, int64_t columns, int64_t K, struct matrix a,
                         struct matrix b, struct result to, bool finish, float *packed_a);
    void (*matmul_finish)(int64_t rows, int64_t columns, struct result to, const float *more);
    void (*matvec)(int64_t N, int64_t K, const float *W, const float *x, const float *bias,
                   const float *add, float *y);
    void (*vecmat)(int64_t K, int64_t N, const float *x, const float *W, float *y);
    int64_t MR, NR; /* rows and columns of the register tile */
    void (*softmax[2])(int64_t n, int64_t length, const float *x, float *y); /* naive, simd */
    void (*softmax_rows)(int64_t rows, int64_t n, const float *x, float *y, float *e, bool past);
    void (*softmax_vjp[2])(int64_t n, const float *y, const float *dy, float *dx);
    void (*layer_norm)(int64_t n, const float *x, const float *weight, const float *bias, float eps,
                       float *y, float *mean, float *rstd);
    void (*layer_norm_vjp)(int64_t n, const float *x, const float *weight, float mean, float rstd,
                           const float *dy, const float *add, float *dx, float *dweight,
                           float *dbias);
    void (*gelu[2])(int64_t n, const float *x, float *y, float *slope); /* exact, tanh */
    void (*gelu_vjp)(int64_t n, const float *slope, const float *dy, float *dx);
    float (*cross_entropy)(int64_t n, const float *x, int64_t target, float smoothing, float *lse);
    void (*cross_entropy_vjp)(int64_t n, const float *x, int64_t target, float smoothing, float lse,
                              float g, float *dx);
    void (*attention)(int64_t T, int64_t S, int64_t D, float scale, bool causal, struct matrix q,
                      struct matrix k, struct matrix v, float *o, int64_t o_row, float *lse,
                      float *work, float *scratch);
    void (*attention_vjp)(int64_t T, int64_t S, int64_t D, float scale, bool causal,
                          struct matrix q, struct matrix k, struct matrix v, struct matrix o,
                          struct matrix grad, const float *lse, float *dq, int64_t dq_row,
                          float *dk, int64_t dk_row, float *dv, int64_t dv_row, float *work,
                          float *scratch);
    void (*embedding_vjp)(int64_t tokens, int64_t columns, const int64_t *ids, const float *dy,
                          int64_t row, float *dweight);
    void (*adamw)(int64_t n, float *p, const float *g, float *m, float *v, float lr, double beta1,
                  double beta2, float eps, float decay, float c1, float c2);
    double (*sum_squares)(int64_t n, const float *x);
    void (*row_scale)(int64_t n, float factor, float *y);
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
float *ml_scratch(void); /* MATMUL_SCRATCH floats of this thread, aligned to 64 bytes */
