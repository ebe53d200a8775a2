/* The drivers: each cuts one operation into tasks and calls the active
   target's serial kernel. Built once, for the baseline; without OpenMP the pragmas do nothing.

   The same bits at any number of threads: a task computes its own part of the result in a fixed
   order, tasks are cut by the sizes alone, and where parts are summed (layer_norm_vjp, sum_squares)
   they are folded in the order of their index. Thread i of n takes the i-th part of the
   tasks, which are cut by rows: what a thread writes in one operation lies in its core's cache when
   it reads it in the next, and two threads share a cache line only where their parts meet. */
#include <stdlib.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#include "table.h"
#include "api.h"

/* Work too small to pay for waking a thread, estimated and not yet measured: FLOP of a product,
   floats touched by anything else. */
enum { SMALL_PRODUCT = 400000, SMALL_MAP = 16384 };
enum { CHUNK = 8192 }; /* floats in a task of an element-wise operation: 32 KB */

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static int64_t rows_per_task(int64_t n) { return n < CHUNK ? ceil_div(CHUNK, n > 0 ? n : 1) : 1; }

static _Alignas(64) _Thread_local float matmul_scratch[MATMUL_SCRATCH];

/* A training step frees what it allocated, some 40 MB at char-small. glibc then gives the pages
   back to the system, and the next step takes 11,000 page faults to get them again; with this,
   none. */
void ml_keep_memory(void) {
#ifdef __GLIBC__
    mallopt(M_MMAP_THRESHOLD, 1 << 30);
    mallopt(M_TRIM_THRESHOLD, 1 << 30);
#endif
}

int ml_count_threads(int threads) {
    int count = 0;
#pragma omp parallel num_threads(threads)
    {
#pragma omp atomic
        count += 1;
    }
    return count;
}

/* One product, cut by rows. Each thread packs the block of B for itself when it takes its first
   rows: a copy costs 2 % of the work on half of 768 rows, and saves waiting for another thread's
   copy and fetching it from that core's cache. Cut by columns instead, two threads would write to
   the two ends of the same cache lines (108 against 150 GFLOP/s at (768, 512, 128)). */
static void matmul_by_rows(int64_t M, int64_t N, int64_t K, struct matrix a, struct matrix b,
                           float *c, int threads) {
    const struct table *t = ml_active();
    const int64_t tiles = ceil_div(M, t->matmul_rows), slices = K > KC ? ceil_div(K, KC) : 1;
    const int64_t step = tiles < 32 ? 1 : tiles / 32; /* tiles in a task */
    for (int64_t slice = 0; slice < slices; ++slice) {
        const int64_t k = K * slice / slices, kc = K * (slice + 1) / slices - k;
        const int64_t NR = t->matmul_columns, fit = KC * NC / (kc ? kc : 1) / NR * NR;
        const struct matrix ak = {a.data + k * a.col, a.row, a.col};
        for (int64_t j = 0; j < N; j += fit) {
            const int64_t columns = min(fit, N - j);
            const struct matrix bk = {b.data + k * b.row + j * b.col, b.row, b.col};
#pragma omp parallel num_threads(threads) if (threads > 1)
            {
                bool packed = false;
                float *block = matmul_scratch, *a_tile = block + KC * NC;
#pragma omp for schedule(static)
                for (int64_t first = 0; first < tiles; first += step) {
                    if (!packed) t->matmul_pack_b(kc, columns, bk, block);
                    packed = true;
                    t->matmul_tiles(M, first, min(first + step, tiles), columns, kc, ak, block,
                                    c + j, N, slice > 0, a_tile);
                }
            }
        }
    }
}

void ml_matmul(int rung, int64_t batch, int64_t M, int64_t N, int64_t K, const float *a,
               const int64_t *a_at, int64_t a_row, int64_t a_col, const float *b,
               const int64_t *b_at, int64_t b_row, int64_t b_col, float *c, int threads) {
    const struct table *t = ml_active();
    if (rung < 3) {
        for (int64_t i = 0; i < batch; ++i)
            t->matmul[rung](M, N, K, (struct matrix){a + (a_at ? a_at[i] : 0), a_row, a_col},
                            (struct matrix){b + (b_at ? b_at[i] : 0), b_row, b_col}, c + i * M * N,
                            N);
        return;
    }
    if (2.0 * (double)M * (double)N * (double)K * (double)batch < SMALL_PRODUCT) threads = 1;
    if (batch == 1 && M > 2 * t->matmul_rows && N < 2 * M) {
        matmul_by_rows(M, N, K, (struct matrix){a, a_row, a_col}, (struct matrix){b, b_row, b_col},
                       c, threads);
        return;
    }
    /* Many products, or one with few rows, which would not repay a copy of B for each thread: a
       task is some columns of one product. */
    const int64_t width = batch > 1 ? N : t->matmul_columns * ceil_div(N, 16 * t->matmul_columns);
    const int64_t parts = width ? ceil_div(N, width) : 0;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int64_t task = 0; task < batch * parts; ++task) {
        const int64_t i = task / parts, j = task % parts * width;
        const struct matrix ai = {a + (a_at ? a_at[i] : 0), a_row, a_col};
        const struct matrix bi = {b + (b_at ? b_at[i] : 0) + j * b_col, b_row, b_col};
        t->matmul_simd(M, min(width, N - j), K, ai, bi, c + i * M * N + j, N, false,
                       matmul_scratch);
    }
}

void ml_softmax(int rung, int64_t rows, int64_t n, int64_t causal, const float *x, float *y,
                int threads) {
    const struct table *t = ml_active();
    const int64_t step = rows_per_task(n);
#pragma omp parallel for schedule(static)                                                          \
    num_threads(threads) if (threads > 1 && rows * n > SMALL_MAP)
    for (int64_t r0 = 0; r0 < rows; r0 += step)
        for (int64_t r = r0; r < min(r0 + step, rows); ++r) {
            const int64_t seen = causal ? r % causal + 1 + n - causal : n;
            t->softmax[rung](n, seen < 0 ? 0 : seen, x + r * n, y + r * n);
        }
}

void ml_softmax_vjp(int rung, int64_t rows, int64_t n, const float *y, const float *dy, float *dx,
                    int threads) {
    const struct table *t = ml_active();
    const int64_t step = rows_per_task(n);
#pragma omp parallel for schedule(static)                                                          \
    num_threads(threads) if (threads > 1 && rows * n > SMALL_MAP)
    for (int64_t r0 = 0; r0 < rows; r0 += step)
        for (int64_t r = r0; r < min(r0 + step, rows); ++r)
            t->softmax_vjp[rung](n, y + r * n, dy + r * n, dx + r * n);
}

void ml_layer_norm(int64_t rows, int64_t n, const float *x, const float *weight, const float *bias,
                   float eps, float *y, float *mean, float *rstd, int threads) {
    const struct table *t = ml_active();
    const int64_t step = rows_per_task(n);
#pragma omp parallel for schedule(static)                                                          \
    num_threads(threads) if (threads > 1 && rows * n > SMALL_MAP)
    for (int64_t r0 = 0; r0 < rows; r0 += step)
        for (int64_t r = r0; r < min(r0 + step, rows); ++r)
            t->layer_norm(n, x + r * n, weight, bias, eps, y + r * n, mean + r, rstd + r);
}

enum { LAYER_NORM_ROWS = 64 };
int64_t ml_layer_norm_chunks(int64_t rows) { return rows ? ceil_div(rows, LAYER_NORM_ROWS) : 1; }

void ml_layer_norm_vjp(int64_t rows, int64_t n, const float *x, const float *weight,
                       const float *mean, const float *rstd, const float *dy, float *dx,
                       float *dweight, float *dbias, int threads) {
    const struct table *t = ml_active();
    const int64_t chunks = ml_layer_norm_chunks(rows);
#pragma omp parallel for schedule(static)                                                          \
    num_threads(threads) if (threads > 1 && rows * n > SMALL_MAP)
    for (int64_t chunk = 0; chunk < chunks; ++chunk)
        for (int64_t r = chunk * LAYER_NORM_ROWS; r < min((chunk + 1) * LAYER_NORM_ROWS, rows); ++r)
            t->layer_norm_vjp(n, x + r * n, weight, mean[r], rstd[r], dy + r * n, dx + r * n,
                              dweight + chunk * n, dbias + chunk * n);
    for (int64_t chunk = 1; chunk < chunks; ++chunk)
        for (int64_t j = 0; j < n; ++j) {
            dweight[j] += dweight[chunk * n + j];
            dbias[j] += dbias[chunk * n + j];
        }
}

void ml_gelu(int64_t n, const float *x, float *y, float *slope, int tanh_form, int threads) {
    const struct table *t = ml_active();
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && n > SMALL_MAP)
    for (int64_t i = 0; i < n; i += CHUNK)
        t->gelu[tanh_form](min(CHUNK, n - i), x + i, y + i, slope + i);
}

void ml_gelu_vjp(int64_t n, const float *slope, const float *dy, float *dx, int threads) {
    const struct table *t = ml_active();
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && n > SMALL_MAP)
    for (int64_t i = 0; i < n; i += CHUNK)
        t->gelu_vjp(min(CHUNK, n - i), slope + i, dy + i, dx + i);
}

/* Where head h of batch b starts in the tensor whose (batch, head, row) strides are s. */
static int64_t head_at(const int64_t *s, int64_t b, int64_t h) { return b * s[0] + h * s[1]; }

static struct matrix head(const float *x, const int64_t *s, int64_t b, int64_t h) {
    return (struct matrix){x + head_at(s, b, h), s[2], 1};
}

void ml_attention(int64_t B, int64_t H, int64_t T, int64_t S, int64_t D, float scale, int causal,
                  const float *q, const float *k, const float *v, float *o, const int64_t *strides,
                  float *lse, int threads) {
    const struct table *t = ml_active();
    const int64_t *qs = strides, *ks = strides + 3, *vs = strides + 6, *os = strides + 9;
    if (B * H * T * S * D < SMALL_PRODUCT / 4) threads = 1;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        float *p = malloc((size_t)(64 * S + 16) * sizeof *p);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < B * H; ++i) {
            const int64_t b = i / H, h = i % H;
            t->attention(T, S, D, scale, causal, head(q, qs, b, h), head(k, ks, b, h),
                         head(v, vs, b, h), o + head_at(os, b, h), os[2], lse + i * T, p,
                         matmul_scratch);
        }
        free(p);
    }
}

void ml_attention_vjp(int64_t B, int64_t H, int64_t T, int64_t S, int64_t D, float scale,
                      int causal, const float *q, const float *k, const float *v, const float *o,
                      const float *grad, const float *lse, float *dq, float *dk, float *dv,
                      const int64_t *strides, int threads) {
    const struct table *t = ml_active();
    const int64_t *qs = strides, *ks = strides + 3, *vs = strides + 6, *os = strides + 9,
                  *gs = strides + 12, *dqs = strides + 15, *dks = strides + 18, *dvs = strides + 21;
    if (B * H * T * S * D < SMALL_PRODUCT / 4) threads = 1;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        float *p = malloc(2 * (size_t)(64 * S + 16) * sizeof *p), *dp = p + 64 * S + 16;
#pragma omp for schedule(static)
        for (int64_t i = 0; i < B * H; ++i) {
            const int64_t b = i / H, h = i % H;
            t->attention_vjp(T, S, D, scale, causal, head(q, qs, b, h), head(k, ks, b, h),
                             head(v, vs, b, h), head(o, os, b, h), head(grad, gs, b, h),
                             lse + i * T, dq + head_at(dqs, b, h), dqs[2], dk + head_at(dks, b, h),
                             dks[2], dv + head_at(dvs, b, h), dvs[2], p, dp, matmul_scratch);
        }
        free(p);
    }
}

void ml_cross_entropy(int64_t rows, int64_t n, const float *x, const int64_t *targets,
                      int64_t ignored, float smoothing, float *loss, float *lse, int threads) {
    const struct table *t = ml_active();
    const int64_t step = rows_per_task(n);
#pragma omp parallel for schedule(static)                                                          \
    num_threads(threads) if (threads > 1 && rows * n > SMALL_MAP)
    for (int64_t r0 = 0; r0 < rows; r0 += step)
        for (int64_t r = r0; r < min(r0 + step, rows); ++r)
            if (targets[r] == ignored)
                loss[r] = lse[r] = 0;
            else
                loss[r] = t->cross_entropy(n, x + r * n, targets[r], smoothing, lse + r);
}

void ml_cross_entropy_vjp(int64_t rows, int64_t n, const float *x, const int64_t *targets,
                          int64_t ignored, float smoothing, const float *lse, const float *g,
                          float *dx, int threads) {
    const struct table *t = ml_active();
    const int64_t step = rows_per_task(n);
#pragma omp parallel for schedule(static)                                                          \
    num_threads(threads) if (threads > 1 && rows * n > SMALL_MAP)
    for (int64_t r0 = 0; r0 < rows; r0 += step)
        for (int64_t r = r0; r < min(r0 + step, rows); ++r)
            if (targets[r] == ignored)
                memset(dx + r * n, 0, (size_t)n * sizeof *dx);
            else
                t->cross_entropy_vjp(n, x + r * n, targets[r], smoothing, lse[r], g[r], dx + r * n);
}

void ml_embedding_vjp(int64_t tokens, int64_t n, const int64_t *ids, const float *dy,
                      float *dweight, int threads) {
    const struct table *t = ml_active();
    enum { COLUMNS = 64 };
#pragma omp parallel for schedule(static)                                                          \
    num_threads(threads) if (threads > 1 && tokens * n > SMALL_MAP)
    for (int64_t j = 0; j < n; j += COLUMNS)
        t->embedding_vjp(tokens, min(COLUMNS, n - j), ids, dy + j, n, dweight + j);
}

void ml_adamw(int64_t n, float *p, const float *g, float *m, float *v, float lr, double beta1,
              double beta2, float eps, float decay, float c1, float c2, int threads) {
    const struct table *t = ml_active();
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && n > SMALL_MAP)
    for (int64_t i = 0; i < n; i += CHUNK)
        t->adamw(min(CHUNK, n - i), p + i, g + i, m + i, v + i, lr, beta1, beta2, eps, decay, c1,
                 c2);
}

double ml_sum_squares(int64_t n, const float *x, int threads) {
    const struct table *t = ml_active();
    double total = 0;
#pragma omp parallel for ordered schedule(static)                                                  \
    num_threads(threads) if (threads > 1 && n > SMALL_MAP)
    for (int64_t i = 0; i < n; i += CHUNK) {
        const double part = t->sum_squares(min(CHUNK, n - i), x + i);
#pragma omp ordered
        total += part;
    }
    return total;
}

void ml_map(int64_t n, int function, const float *x, float *y) {
    ml_active()->map(n, function, x, y);
}
