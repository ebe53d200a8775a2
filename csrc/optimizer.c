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

/* sum_i x_i^2 over n elements, in four vectors of partial sums of doubles: no square over- or
   underflows. */
LOCAL double sum_squares(int64_t n, const float *x) {
    enum { SUMS = 4, EACH = LANES / 2 };
    dvec sums[SUMS] = {0};
    double total = 0;
    for (; n >= SUMS * EACH; n -= SUMS * EACH, x += SUMS * EACH)
        for (int i = 0; i < SUMS; ++i) {
            const dvec d = load_doubles(x + i * EACH);
            sums[i] += d * d;
        }
    for (int64_t i = 0; i < n; ++i) total += (double)x[i] * (double)x[i];
    const dvec sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    for (int i = 0; i < EACH; ++i) total += sum[i];
    return total;
}
