/* The drivers: each cuts one operation into tasks and calls the active target's serial kernel.
   Built once, for the baseline; without OpenMP the pragmas do nothing.

   The same bits at any number of threads: a task computes its own part of the result in a fixed
   order, and where parts are summed (a product in two halves, layer_norm_vjp, sum_squares), they
   are cut by the sizes alone and folded in the order of their index. */
#include <stdlib.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#include "table.h"
#include "api.h"

#ifndef _OPENMP
#pragma GCC diagnostic ignored "-Wunused-parameter" /* how many threads, */
#pragma GCC diagnostic ignored "-Wunused-function"  /* and whether they pay */
#endif

/* Work too small to pay for waking a thread: FLOP of a product, floats touched by anything else.
   Measured on two cores: (64, 64, 64), 524,288 FLOP, takes 14 us with one thread and with two,
   393,216 FLOP 15 and 17; GELU of 8,192 floats 13.5 and 14.2 us, of 16,384 21 and 17. */
enum { SMALL_PRODUCT = 500000, SMALL_MAP = 16383 };
enum { LARGEST_HALF = 1 << 20 }; /* floats: 4 MB for the second half of a product */
enum { CHUNK = 8192 };           /* floats in a task of an element-wise operation: 32 KB */

/* Who takes which task. Two threads share a loaf of tasks and eat it from both ends until they
   meet: what a thread writes in one operation then lies in its core's cache in the next, and where
   one core is slower than the other, or disturbed, the faster one does more. */
struct loaf {
    _Alignas(64) int64_t eaten;
};
struct eater {
    struct loaf *loaf;
    int64_t first, last, mine; /* the loaf's tasks first ... last - 1; how many were mine so far */
    bool from_the_end;
    int64_t packed; /* which block of a product's second factor this thread has packed */
};

static struct eater sit_down(struct loaf *loaves, int64_t tasks, int threads, int p) {
    const int pair = p / 2 * 2, next = pair + 2 < threads ? pair + 2 : threads;
    return (struct eater){
        &loaves[p / 2], part(tasks, threads, pair), part(tasks, threads, next), 0, p % 2, -1};
}

static bool bite(struct eater *e, int64_t *task) {
    int64_t eaten;
#pragma omp atomic capture
    eaten = e->loaf->eaten++;
    if (eaten >= e->last - e->first) return false;
    *task = e->from_the_end ? e->last - 1 - e->mine : e->first + e->mine;
    e->mine += 1;
    return true;
}

/* for (task = 0; task < tasks; ++task), by up to `threads` threads; in the body this one is number
   `thread`, and `me`. */
/* clang-format off */
#define EACH_TASK(task, tasks)                                                                     \
    struct loaf loaves[threads / 2 + 1];                                                           \
    memset(loaves, 0, sizeof loaves);                                                              \
    _Pragma("omp parallel for schedule(static, 1) num_threads(threads) if (threads > 1)")          \
    for (int thread = 0; thread < threads; ++thread)                                               \
        for (struct eater me = sit_down(loaves, tasks, threads, thread); me.loaf; me.loaf = NULL)  \
            for (int64_t task; bite(&me, &task);)
/* clang-format on */

static int64_t rows_per_task(int64_t n) { return n < CHUNK ? ceil_div(CHUNK, n > 0 ? n : 1) : 1; }

float *ml_scratch(void) {
    static _Alignas(64) _Thread_local float scratch[MATMUL_SCRATCH];
    return scratch;
}

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

/* One product, by blocks of columns and tiles of rows, or, in the gradient of a weight, by the two
   halves of K: A is transposed, K counts the tokens, and each thread finds its own half of them in
   its cache. A thread packs the blocks of B that it needs for itself: that costs a few percent of
   the work, and waiting for another thread's copy would cost more. */
static void matmul_by_blocks(int64_t M, int64_t N, int64_t K, struct matrix a, struct matrix b,
                             struct result to, int threads) {
    const struct table *t = ml_active();
    const int64_t slices = slices_of(K), blocks = blocks_of(N, K);
    float *more = a.row == 1 && slices % 2 == 0 && M * N <= LARGEST_HALF
                      ? malloc((size_t)(M * N) * sizeof *more)
                      : NULL;
    const int64_t halves = more ? 2 : 1, steps = slices / halves;
    const int64_t height = tile_height(M, t->MR), tiles = ceil_div(M, height);
    const int64_t share = ceil_div(threads, halves); /* threads to a half: parts for each of them */
    const int64_t least = ceil_div(tiles, a.row == 1 ? TILES : TILES / 2);
    const int64_t parts = min(tiles, ceil_div(least, share) * share);
    for (int64_t step = 0; step < steps; ++step, to.add = to.c, to.add_row = to.row) {
        EACH_TASK(task, halves * blocks * parts) {
            const int64_t b_at = task / parts, half = b_at / blocks, slice = half * steps + step;
            const int64_t k = part(K, slices, slice), kc = part(K, slices, slice + 1) - k;
            const int64_t j = block_start(N, blocks, t->NR, b_at % blocks);
            const int64_t columns = block_start(N, blocks, t->NR, b_at % blocks + 1) - j;
            const int64_t i = height * part(tiles, parts, task % parts);
            const int64_t end = min(M, height * part(tiles, parts, task % parts + 1));
            const struct result other = {more, N, step ? more : NULL, N, NULL, NULL, false};
            float *packed = ml_scratch();
            if (me.packed != b_at) t->matmul_pack_b(kc, columns, block(b, k, j), packed);
            me.packed = b_at;
            t->matmul_tiles(end - i, height, columns, kc, block(a, i, k),
                            (struct matrix){packed, t->NR, kc}, result_at(half ? other : to, i, j),
                            !more && step == steps - 1, packed + KC * NC);
        }
    }
    if (more) {
        EACH_TASK(i, M) t->matmul_finish(1, N, result_at(to, i, 0), more + i * N);
    }
    free(more);
}

void ml_matmul(int rung, int64_t batch, int64_t M, int64_t N, int64_t K, const float *a,
               const int64_t *a_at, int64_t a_row, int64_t a_col, const float *b,
               const int64_t *b_at, int64_t b_row, int64_t b_col, float *c, const float *add,
               int64_t add_row, const float *times, float *slope, int tanh_form, int threads) {
    const struct table *t = ml_active();
    const struct result to = {c, N, add, add_row, times, slope, tanh_form};
    if (rung < 3 || 2.0 * (double)batch * (double)M * (double)N * (double)K < SMALL_PRODUCT)
        threads = 1;
    if (rung == 3 && batch == 1) {
        matmul_by_blocks(M, N, K, (struct matrix){a, a_row, a_col},
                         (struct matrix){b, b_row, b_col}, to, threads);
        return;
    }
    EACH_TASK(n, batch) {
        const struct matrix an = {a + (a_at ? a_at[n] : 0), a_row, a_col},
                            bn = {b + (b_at ? b_at[n] : 0), b_row, b_col};
        if (rung < 3)
            t->matmul[rung](M, N, K, an, bn, c + n * M * N, N);
        else
            t->matmul_simd(M, N, K, an, bn, result_at(to, n * M, 0), ml_scratch());
    }
}

/* A result of more than 32 MB has left the caches when it is used: it is stored past them, unless
   its rows are so short that their ends, which share a line with the next row, are much of it. A
   task has so many rows that reading the first and writing the last, with nothing beside, is little
   (4096 rows of 50257: 79 ms with 32 rows, 77 with 128). */
enum { STREAMED = 1 << 23, STREAMED_ROW = 256, SOFTMAX_ROWS = 128 };

void ml_softmax(int rung, int64_t rows, int64_t n, int64_t causal, const float *x, float *y,
                int threads) {
    const struct table *t = ml_active();
    const bool past = rows * n > STREAMED && n >= STREAMED_ROW;
    if (rows * n <= SMALL_MAP) threads = 1;
    const int64_t some = min(SOFTMAX_ROWS, ceil_div(rows, threads)), least = rows_per_task(n),
                  step = some > least ? some : least;
    EACH_TASK(i, ceil_div(rows, step)) {
        const int64_t first = i * step, end = min(first + step, rows);
        if (rung && !causal)
            t->softmax_rows(end - first, n, x + first * n, y + first * n, ml_scratch(), past);
        else
            for (int64_t r = first; r < end; ++r) {
                const int64_t seen = causal ? r % causal + 1 + n - causal : n;
                t->softmax[rung](n, seen < 0 ? 0 : seen, x + r * n, y + r * n);
            }
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
    if (rows * n <= SMALL_MAP) threads = 1;
    EACH_TASK(i, ceil_div(rows, step)) {
        for (int64_t r = i * step; r < min((i + 1) * step, rows); ++r)
            t->layer_norm(n, x + r * n, weight, bias, eps, y + r * n, mean + r, rstd + r);
    }
}

enum { LAYER_NORM_ROWS = 64 };
int64_t ml_layer_norm_chunks(int64_t rows) { return rows ? ceil_div(rows, LAYER_NORM_ROWS) : 1; }

void ml_layer_norm_vjp(int64_t rows, int64_t n, const float *x, const float *weight,
                       const float *mean, const float *rstd, const float *dy, const float *add,
                       float *dx, float *dweight, float *dbias, int threads) {
    const struct table *t = ml_active();
    const int64_t chunks = ml_layer_norm_chunks(rows);
    if (rows * n <= SMALL_MAP) threads = 1;
    EACH_TASK(chunk, chunks) {
        for (int64_t r = chunk * LAYER_NORM_ROWS; r < min((chunk + 1) * LAYER_NORM_ROWS, rows); ++r)
            t->layer_norm_vjp(n, x + r * n, weight, mean[r], rstd[r], dy + r * n,
                              add ? add + r * n : NULL, dx + r * n, dweight + chunk * n,
                              dbias + chunk * n);
    }
    for (int64_t chunk = 1; chunk < chunks; ++chunk)
        for (int64_t j = 0; j < n; ++j) {
            dweight[j] += dweight[chunk * n + j];
            dbias[j] += dbias[chunk * n + j];
        }
}

void ml_gelu(int64_t n, const float *x, float *y, float *slope, int tanh_form, int threads) {
    const struct table *t = ml_active();
    if (n <= SMALL_MAP) threads = 1;
    EACH_TASK(task, ceil_div(n, CHUNK)) {
        const int64_t i = task * CHUNK;
        t->gelu[tanh_form](min(CHUNK, n - i), x + i, y + i, slope + i);
    }
}

void ml_gelu_vjp(int64_t n, const float *slope, const float *dy, float *dx, int threads) {
    const struct table *t = ml_active();
    if (n <= SMALL_MAP) threads = 1;
    EACH_TASK(task, ceil_div(n, CHUNK)) {
        const int64_t i = task * CHUNK;
        t->gelu_vjp(min(CHUNK, n - i), slope + i, dy + i, dx + i);
    }
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
    const int64_t size = attention_work(S, D);
    float *work = malloc((size_t)(threads * size) * sizeof *work);
    EACH_TASK(i, B * H) {
        const int64_t b = i / H, h = i % H;
        t->attention(T, S, D, scale, causal, head(q, qs, b, h), head(k, ks, b, h),
                     head(v, vs, b, h), o + head_at(os, b, h), os[2], lse + i * T,
                     work + thread * size, ml_scratch());
    }
    free(work);
}

void ml_attention_vjp(int64_t B, int64_t H, int64_t T, int64_t S, int64_t D, float scale,
                      int causal, const float *q, const float *k, const float *v, const float *o,
                      const float *grad, const float *lse, float *dq, float *dk, float *dv,
                      const int64_t *strides, int threads) {
    const struct table *t = ml_active();
    const int64_t *qs = strides, *ks = strides + 3, *vs = strides + 6, *os = strides + 9,
                  *gs = strides + 12, *dqs = strides + 15, *dks = strides + 18, *dvs = strides + 21;
    if (B * H * T * S * D < SMALL_PRODUCT / 4) threads = 1;
    const int64_t size = attention_work(S, D);
    float *work = malloc((size_t)(threads * size) * sizeof *work);
    EACH_TASK(i, B * H) {
        const int64_t b = i / H, h = i % H;
        t->attention_vjp(T, S, D, scale, causal, head(q, qs, b, h), head(k, ks, b, h),
                         head(v, vs, b, h), head(o, os, b, h), head(grad, gs, b, h), lse + i * T,
                         dq + head_at(dqs, b, h), dqs[2], dk + head_at(dks, b, h), dks[2],
                         dv + head_at(dvs, b, h), dvs[2], work + thread * size, ml_scratch());
    }
    free(work);
}

void ml_cross_entropy(int64_t rows, int64_t n, const float *x, const int64_t *targets,
                      int64_t ignored, float smoothing, float *loss, float *lse, int threads) {
    const struct table *t = ml_active();
    const int64_t step = rows_per_task(n);
    if (rows * n <= SMALL_MAP) threads = 1;
    EACH_TASK(i, ceil_div(rows, step)) {
        for (int64_t r = i * step; r < min((i + 1) * step, rows); ++r)
            if (targets[r] == ignored)
                loss[r] = lse[r] = 0;
            else
                loss[r] = t->cross_entropy(n, x + r * n, targets[r], smoothing, lse + r);
    }
}

void ml_cross_entropy_vjp(int64_t rows, int64_t n, const float *x, const int64_t *targets,
                          int64_t ignored, float smoothing, const float *lse, const float *g,
                          float *dx, int threads) {
    const struct table *t = ml_active();
    const int64_t step = rows_per_task(n);
    if (rows * n <= SMALL_MAP) threads = 1;
    EACH_TASK(i, ceil_div(rows, step)) {
        for (int64_t r = i * step; r < min((i + 1) * step, rows); ++r)
            if (targets[r] == ignored)
                memset(dx + r * n, 0, (size_t)n * sizeof *dx);
            else
                t->cross_entropy_vjp(n, x + r * n, targets[r], smoothing, lse[r], g[r], dx + r * n);
    }
}

void ml_embedding_vjp(int64_t tokens, int64_t n, const int64_t *ids, const float *dy,
                      float *dweight, int threads) {
    const struct table *t = ml_active();
    enum { COLUMNS = 64 };
    if (tokens * n <= SMALL_MAP) threads = 1;
    EACH_TASK(task, ceil_div(n, COLUMNS)) {
        const int64_t j = task * COLUMNS;
        t->embedding_vjp(tokens, min(COLUMNS, n - j), ids, dy + j, n, dweight + j);
    }
}

static int64_t sum_of(int64_t count, const int64_t *n) {
    int64_t sum = 0;
    for (int64_t i = 0; i < count; ++i) sum += n[i];
    return sum;
}

/* One parallel region for all arrays: a thread that is through with its part of one (nowait) goes
   on to the next. */
void ml_adamw(int64_t count, const int64_t *n, float *const *p, const float *const *g,
              float *const *m, float *const *v, const float *decay, float lr, double beta1,
              double beta2, float eps, float c1, float c2, int threads) {
    const struct table *t = ml_active();
#pragma omp parallel num_threads(threads) if (threads > 1 && sum_of(count, n) > SMALL_MAP)
    for (int64_t a = 0; a < count; ++a)
#pragma omp for schedule(static) nowait
        for (int64_t i = 0; i < n[a]; i += CHUNK)
            t->adamw(min(CHUNK, n[a] - i), p[a] + i, g[a] + i, m[a] + i, v[a] + i, lr, beta1, beta2,
                     eps, decay[a], c1, c2);
}

void ml_scale(int64_t count, const int64_t *n, float *const *x, float factor, int threads) {
    const struct table *t = ml_active();
#pragma omp parallel num_threads(threads) if (threads > 1 && sum_of(count, n) > SMALL_MAP)
    for (int64_t a = 0; a < count; ++a)
#pragma omp for schedule(static) nowait
        for (int64_t i = 0; i < n[a]; i += CHUNK)
            t->row_scale(min(CHUNK, n[a] - i), factor, x[a] + i);
}

/* Sum i is that over the i-th part of every array. */
double ml_sum_squares(int64_t count, const int64_t *n, const float *const *x, int threads) {
    const struct table *t = ml_active();
    enum { SUMS = 32 };
    double sums[SUMS] = {0}, total = 0;
#pragma omp parallel for schedule(static)                                                          \
    num_threads(threads) if (threads > 1 && sum_of(count, n) > SMALL_MAP)
    for (int i = 0; i < SUMS; ++i)
        for (int64_t a = 0; a < count; ++a) {
            const int64_t first = part(n[a], SUMS, i), end = part(n[a], SUMS, i + 1);
            sums[i] += t->sum_squares(end - first, x[a] + first);
        }
    for (int i = 0; i < SUMS; ++i) total += sums[i];
    return total;
}

void ml_map(int64_t n, int function, const float *x, float *y) {
    ml_active()->map(n, function, x, y);
}
