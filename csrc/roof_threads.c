/* The drivers of roof.c: each thread of a region takes one iteration, all at the same time. Where
   the region gets fewer threads than asked for, the work is done all the same and takes longer.

   Row i of x is for thread i alone. The caller keeps the rows apart: where one thread wrote at the
   end of its row and another at the beginning of the next, their prefetchers took the lines from
   each other, and a copy within L1 gained nothing by a second thread. */
#include "table.h"
#include "api.h"

int64_t ml_roof_fma(int64_t rounds, float x, float c, float *sums, int threads) {
    const struct table *t = ml_active();
    int64_t flop = 0;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int i = 0; i < threads; ++i) {
        const int64_t done = t->roof_fma(rounds, x, c, sums + i);
#pragma omp atomic
        flop += done;
    }
    return flop;
}

void ml_roof_read(int64_t n, const float *x, int64_t row, int64_t passes, float *sums,
                  int threads) {
    const struct table *t = ml_active();
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int i = 0; i < threads; ++i) sums[i] = t->roof_read(n, x + i * row, passes);
}

void ml_roof_copy(int64_t n, const float *x, int64_t x_row, float *y, int64_t y_row, int64_t passes,
                  int threads) {
    const struct table *t = ml_active();
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int i = 0; i < threads; ++i) t->roof_copy(n, x + i * x_row, y + i * y_row, passes);
}
