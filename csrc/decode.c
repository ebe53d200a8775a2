/* One token more: from the embedded tokens x (B, C) through all blocks of a GPT to logits (B, V).
     x += proj(attention(qkv(norm(x)), cache)),   x += proj(gelu(fc(norm(x)))),   head(norm(x)).

   2 FLOP for every weight, and every weight is read once: it is the bytes that cost. A thread takes
   the same rows of each matrix at every token, which then stay in its core's L2 if they fit, and
   all of it is one parallel region in which threads meet where one needs what the others made.
   Specification: minillm/kernels/decode.py */
#include <sched.h>
#include <stdatomic.h>
#ifdef _OPENMP
#include <omp.h>
#else
static int omp_get_thread_num(void) { return 0; }
static int omp_get_num_threads(void) { return 1; }
#endif
#include "table.h"
#include "api.h"

struct team {
    int me, size;
    atomic_int *arrivals; /* of all threads at all meetings so far */
    int due;              /* how many there are when the next one is over */
};

/* Wait for the others. OpenMP's barrier calls the system every time: 0.7 to 1.7 us where this takes
   0.15 to 0.3. If another thread needs this core, looking for long (some 5 us) would keep it. */
enum { LOOKS = 2000 };
static void meet(struct team *team) {
    team->due += team->size;
    atomic_fetch_add(team->arrivals, 1);
    for (int looks = 0; atomic_load(team->arrivals) < team->due; ++looks)
        if (looks > LOOKS) sched_yield();
}

/* Rows begin ... end - 1 of N are this thread's: whole vectors, on every target. */
struct rows {
    int64_t begin, end;
};
static struct rows rows_of(const struct team *team, int64_t N) {
    enum { STEP = 16 };
    const int64_t steps = ceil_div(N, STEP);
    return (struct rows){STEP * part(steps, team->size, team->me),
                         min(N, STEP * part(steps, team->size, team->me + 1))};
}

/* y = x W^T + bias + add, these columns of it.
   x: (B, K), W: (N, K), bias: (N,) or NULL, add: (B, N) or NULL. */
static void project(struct rows rows, int64_t B, int64_t N, int64_t K, const float *x,
                    const float *W, const float *bias, const float *add, float *y) {
    const int64_t n = rows.begin;
    for (int64_t b = 0; b < B; ++b)
        ml_active()->matvec(rows.end - n, K, W + n * K, x + b * K, bias ? bias + n : NULL,
                            add ? add + b * N + n : NULL, y + b * N + n);
}

static void norm(int64_t B, int64_t C, const float *x, const float *const *weights, float eps,
                 float *y) {
    float mean, rstd;
    for (int64_t b = 0; b < B; ++b)
        ml_active()->layer_norm(C, x + b * C, weights[0], weights[1], eps, y + b * C, &mean, &rstd);
}

/* Head h of y: this token's query, key and value, of which the last two go to the cache, and
   attention to all `length` + 1. scores: (size + D,). */
static void attend(int64_t C, int64_t D, int64_t h, int64_t length, const float *x, const float *W,
                   const float *bias, float *keys, float *values, float *y, float *scores) {
    const struct table *t = ml_active();
    float *q = scores + length + 1, *made[] = {q, keys + length * D, values + length * D};
    for (int i = 0; i < 3; ++i) {
        const int64_t n = i * C + h * D;
        t->matvec(D, C, W + n * C, x, bias ? bias + n : NULL, NULL, made[i]);
    }
    t->row_scale(D, 1 / sqrtf((float)D), q);
    t->matvec(length + 1, D, keys, q, NULL, NULL, scores);
    t->softmax[1](length + 1, length + 1, scores, scores);
    t->vecmat(length + 1, D, scores, values, y + h * D);
}

int64_t ml_decode_work(int64_t B, int64_t C, int64_t H, int64_t size, int threads) {
    return B * (C + 2 * H) + threads * (B * C + C + size);
}

void ml_decode(int64_t layers, int64_t B, int64_t C, int64_t H, int64_t V, int64_t n_head,
               int64_t size, int64_t length, float eps, const float *const *weights,
               float *const *caches, float *x, float *logits, float *work, int threads) {
    const int64_t D = C / n_head;
    float *y = work, *h = y + B * C, *slope = h + B * H, *own = slope + B * H;
    _Alignas(64) atomic_int arrivals = 0;
    (void)threads; /* without OpenMP */
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        struct team team = {omp_get_thread_num(), omp_get_num_threads(), &arrivals, 0};
        float *normed = own + team.me * (B * C + C + size), *scores = normed + B * C;
        const struct rows of_C = rows_of(&team, C), of_H = rows_of(&team, H),
                          of_V = rows_of(&team, V);
        const int64_t first = part(n_head, team.size, team.me),
                      last = part(n_head, team.size, team.me + 1);
        const float *const *w = weights;
        for (int64_t layer = 0; layer < layers; ++layer, w += 12) {
            norm(B, C, x, w, eps, normed);
            for (int64_t head = first; head < last; ++head)
                for (int64_t b = 0; b < B; ++b) {
                    const int64_t at = (b * n_head + head) * size * D;
                    attend(C, D, head, length, normed + b * C, w[2], w[3], caches[2 * layer] + at,
                           caches[2 * layer + 1] + at, y + b * C, scores);
                }
            meet(&team);
            project(of_C, B, C, C, y, w[4], w[5], x, x);
            meet(&team);
            norm(B, C, x, w + 6, eps, normed);
            project(of_H, B, H, C, normed, w[8], w[9], NULL, h);
            for (int64_t b = 0; b < B; ++b) {
                float *hb = h + b * H + of_H.begin;
                ml_active()->gelu[0](of_H.end - of_H.begin, hb, hb, slope + b * H + of_H.begin);
            }
            meet(&team);
            project(of_C, B, C, H, h, w[10], w[11], x, x);
            meet(&team);
        }
        norm(B, C, x, w, eps, normed);
        project(of_V, B, V, C, normed, w[2], NULL, NULL, logits);
    }
}
