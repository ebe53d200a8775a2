/* One token more: from the embedded tokens x (B, C) through all blocks of a GPT to logits (B, V).
     x += proj(attention(qkv(norm(x)), cache)),   x += proj(gelu(fc(norm(x)))),   head(norm(x)).

   2 FLOP for every weight, and every weight is read once: it is the bytes that cost. So the
   matrices come packed in panels once for many tokens (ml_pack), a thread takes the same panels of
   each matrix at every token, which then stay in its core's L2 if they fit, and all of it is one
   parallel region with a barrier where a thread needs what the others made.
   Specification: minillm/kernels/decode.py */
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#else
static int omp_get_thread_num(void) { return 0; }
static int omp_get_num_threads(void) { return 1; }
#endif
#include "table.h"
#include "api.h"

static int64_t panels_of(int64_t N) { return ceil_div(N, ml_active()->NR); }

int64_t ml_packed_size(int64_t N, int64_t K) { return K * panels_of(N) * ml_active()->NR; }

/* Slice after slice of K, panel after panel of N. */
void ml_pack(int64_t N, int64_t K, const float *weight, float *packed) {
    const int64_t slices = slices_of(K), width = panels_of(N) * ml_active()->NR;
    for (int64_t slice = 0; slice < slices; ++slice) {
        const int64_t k = part(K, slices, slice), kc = part(K, slices, slice + 1) - k;
        const struct matrix b = {weight + k, 1, K};
        ml_active()->matmul_pack_b(kc, N, b, packed + k * width);
    }
}

struct team {
    int me, size;
};

/* to = x W^T + bias (+ to.add, which is to itself), this thread's panels of it.
   x: (B, K), W: (N, K), packed; bias: (N,) or NULL. */
static void project(struct team team, int64_t B, int64_t N, int64_t K, const float *x,
                    const float *packed, const float *bias, struct result to) {
    const struct table *t = ml_active();
    const int64_t slices = slices_of(K), NR = t->NR, panels = panels_of(N);
    const int64_t j = NR * part(panels, team.size, team.me),
                  end = min(N, NR * part(panels, team.size, team.me + 1));
    if (bias && to.add)
        for (int64_t i = 0; i < B; ++i)
            for (int64_t n = j; n < end; ++n) to.c[i * to.row + n] += bias[n];
    else
        to.add = bias ? bias : to.add;
    for (int64_t slice = 0; slice < slices && j < end; ++slice) {
        const int64_t k = part(K, slices, slice), kc = part(K, slices, slice + 1) - k;
        t->matmul_tiles(B, tile_height(B, t->MR), end - j, kc, (struct matrix){x + k, K, 1},
                        packed + k * panels * NR + j * kc, result_at(to, 0, j), slice == slices - 1,
                        ml_scratch());
        to.add = to.c, to.add_row = to.row;
    }
}

static void norm(int64_t B, int64_t C, const float *x, const float *const *weights, float eps,
                 float *y) {
    float mean, rstd;
    for (int64_t b = 0; b < B; ++b)
        ml_active()->layer_norm(C, x + b * C, weights[0], weights[1], eps, y + b * C, &mean, &rstd);
}

/* This thread's heads: add the new key and value to the cache and attend to all `length` + 1. */
static void attend(struct team team, int64_t B, int64_t C, int64_t n_head, int64_t size,
                   int64_t length, const float *qkv, float *keys, float *values, float *y,
                   float *scores) {
    const int64_t D = C / n_head;
    const float scale = 1 / sqrtf((float)D);
    float lse;
    for (int64_t i = part(B * n_head, team.size, team.me);
         i < part(B * n_head, team.size, team.me + 1); ++i) {
        const int64_t b = i / n_head, h = i % n_head;
        const float *q = qkv + b * 3 * C + h * D;
        float *k = keys + i * size * D, *v = values + i * size * D;
        memcpy(k + length * D, q + C, (size_t)D * sizeof *k);
        memcpy(v + length * D, q + 2 * C, (size_t)D * sizeof *v);
        ml_active()->attention(1, length + 1, D, scale, false, (struct matrix){q, C, 1},
                               (struct matrix){k, D, 1}, (struct matrix){v, D, 1},
                               y + b * C + h * D, C, &lse, scores, ml_scratch());
    }
}

int64_t ml_decode_work(int64_t B, int64_t C, int64_t H, int64_t size, int threads) {
    return B * (4 * C + 2 * H) + threads * (B * C + size + 16);
}

void ml_decode(int64_t layers, int64_t B, int64_t C, int64_t H, int64_t V, int64_t n_head,
               int64_t size, int64_t length, float eps, const float *const *weights,
               float *const *caches, float *x, float *logits, float *work, int threads) {
    float *qkv = work, *y = qkv + 3 * B * C, *h = y + B * C, *slope = h + B * H,
          *own = slope + B * H;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        const struct team team = {omp_get_thread_num(), omp_get_num_threads()};
        float *normed = own + team.me * (B * C + size + 16), *scores = normed + B * C;
        const float *const *w = weights;
        for (int64_t layer = 0; layer < layers; ++layer, w += 12) {
            norm(B, C, x, w, eps, normed);
            project(team, B, 3 * C, C, normed, w[2], w[3], (struct result){.c = qkv, .row = 3 * C});
#pragma omp barrier
            attend(team, B, C, n_head, size, length, qkv, caches[2 * layer], caches[2 * layer + 1],
                   y, scores);
            const struct result residual = {.c = x, .row = C, .add = x, .add_row = C};
#pragma omp barrier
            project(team, B, C, C, y, w[4], w[5], residual);
#pragma omp barrier
            norm(B, C, x, w + 6, eps, normed);
            project(team, B, H, C, normed, w[8], w[9],
                    (struct result){.c = h, .row = H, .slope = slope});
#pragma omp barrier
            project(team, B, C, H, h, w[10], w[11], residual);
#pragma omp barrier
        }
        norm(B, C, x, w, eps, normed);
        project(team, B, V, C, normed, w[2], NULL, (struct result){.c = logits, .row = V});
    }
}
