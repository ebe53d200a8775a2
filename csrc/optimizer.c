/* One AdamW step over n elements, in place; 28 bytes an element, about 12 FLOP.
     m = beta1 m + (1 - beta1) g,   v = beta2 v + (1 - beta2) g^2,
     p = p (1 - lr decay) - lr (m / c1) / (sqrt(v / c2) + eps),   c_i = 1 - beta_i^step.
   Plain loops: there is nothing here that a compiler does not vectorise by itself.
   Specification: minillm/kernels/optimizer.py   Source: Loshchilov and Hutter, arXiv:1711.05101. */

LOCAL void adamw(int64_t n, float *restrict p, const float *restrict g, float *restrict m,
                 float *restrict v, float lr, double beta1, double beta2, float eps, float decay,
                 float c1, float c2) {
    const float keep_m = (float)beta1,
                take_m = (float)(1 - beta1); /* 1 - beta2 in float is off by */
    const float keep_v = (float)beta2, take_v = (float)(1 - beta2); /* 1e-5 of itself */
    const float step = lr / c1, root = 1 / sqrtf(c2), keep = 1 - lr * decay;
    for (int64_t i = 0; i < n; ++i) {
        m[i] = keep_m * m[i] + take_m * g[i];
        v[i] = keep_v * v[i] + take_v * (g[i] * g[i]);
        p[i] = keep * p[i] - step * m[i] / (sqrtf(v[i]) * root + eps);
    }
}

/* sum_i x_i^2 over n elements, in 2 LANES partial sums of doubles: no square over- or underflows.
 */
LOCAL double sum_squares(int64_t n, const float *x) {
    typedef double dvec __attribute__((vector_size(8 * LANES)));
    dvec sum0 = {0}, sum1 = {0};
    for (int64_t i = 0; i < n; i += 2 * LANES) {
        const vec x0 = load_upto(x + i, n - i, 0);
        const vec x1 = n - i > LANES ? load_upto(x + i + LANES, n - i - LANES, 0) : splat(0);
        const dvec d0 = __builtin_convertvector(x0, dvec), d1 = __builtin_convertvector(x1, dvec);
        sum0 += d0 * d0;
        sum1 += d1 * d1;
    }
    double total = 0;
    for (int i = 0; i < LANES; ++i) total += sum0[i] + sum1[i];
    return total;
}
