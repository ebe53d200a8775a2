/* One AdamW step over n elements, in place; 28 bytes an element, about 12 FLOP.
     m = beta1 m + (1 - beta1) g,   v = beta2 v + (1 - beta2) g^2,
     p = p (1 - lr decay) - lr (m / c1) / (sqrt(v / c2) + eps),   c_i = 1 - beta_i^step.
   Plain loops: there is nothing here that a compiler does not vectorise by itself.
   Specification: minillm/kernels/adamw.py   Source: Loshchilov and Hutter 2019, arXiv:1711.05101.
 */

LOCAL void adamw(int64_t n, float *restrict p, const float *restrict g, float *restrict m,
                 float *restrict v, float lr, float beta1, float beta2, float eps, float decay,
                 float c1, float c2) {
    const float step = lr / c1, root = 1 / sqrtf(c2), keep = 1 - lr * decay;
    for (int64_t i = 0; i < n; ++i) {
        m[i] = beta1 * m[i] + (1 - beta1) * g[i];
        v[i] = beta2 * v[i] + (1 - beta2) * (g[i] * g[i]);
        p[i] = keep * p[i] - step * m[i] / (sqrtf(v[i]) * root + eps);
    }
}

/* sum_i x_i^2 over n elements, in LANES x 4 partial sums. */
LOCAL float sum_squares(int64_t n, const float *x) {
    vec sum[4] = {0};
    int64_t i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES)
        for (int s = 0; s < 4; ++s) {
            const vec xi = load(x + i + s * LANES);
            sum[s] += xi * xi;
        }
    for (; i < n; i += LANES) {
        const vec xi = load_upto(x + i, n - i, 0);
        sum[0] += xi * xi;
    }
    return sum_lanes((sum[0] + sum[1]) + (sum[2] + sum[3]));
}
