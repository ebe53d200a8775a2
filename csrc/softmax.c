/* y_j = exp(x_j - m) / sum_k exp(x_k - m), m = max_k x_k, over each row.
   Specification: minillm/kernels/softmax.py

   A row is (n,) contiguous; with a causal mask only its first `length` entries count and the rest
   of y is 0. A row of -inf gives NaN (0 / 0), as does a +inf or NaN anywhere in it. x and y may be
   the same memory. Sums run over LANES partial sums, folded in a fixed order.

   About 25 FLOP an element, 20 of them in exp; 8 bytes an element from memory when the row stays in
   the cache between the passes, 16 when it does not. */

/* naive: three passes, one element at a time, the C library's expf. */
LOCAL void softmax_naive(int64_t n, int64_t length, const float *x, float *y) {
    float m = -INFINITY, sum = 0;
    for (int64_t j = 0; j < length; ++j) m = x[j] > m ? x[j] : m;
    for (int64_t j = 0; j < length; ++j) sum += y[j] = expf(x[j] - m);
    for (int64_t j = 0; j < length; ++j) y[j] /= sum;
    for (int64_t j = length; j < n; ++j) y[j] = 0;
}

LOCAL float row_max(int64_t n, const float *x) {
    vec m0 = splat(-INFINITY), m1 = m0, m2 = m0, m3 = m0;
    int64_t j = 0;
    for (; j + 4 * LANES <= n; j += 4 * LANES) {
        m0 = vmax(load(x + j), m0);
        m1 = vmax(load(x + j + LANES), m1);
        m2 = vmax(load(x + j + 2 * LANES), m2);
        m3 = vmax(load(x + j + 3 * LANES), m3);
    }
    for (; j < n; j += LANES) m0 = vmax(load_upto(x + j, n - j, -INFINITY), m0);
    return max_lanes(vmax(vmax(m0, m1), vmax(m2, m3)));
}

/* y = exp(scale x - m) and its sum; lanes past n add exp(-inf) = 0. */
INLINE float row_exp(int64_t n, const float *x, float scale, float m, float *y) {
    vec sum0 = splat(0), sum1 = splat(0);
    int64_t j = 0;
    for (; j + 2 * LANES <= n; j += 2 * LANES) {
        const vec e0 = vexp(splat(scale) * load(x + j) - splat(m)),
                  e1 = vexp(splat(scale) * load(x + j + LANES) - splat(m));
        store(y + j, e0);
        store(y + j + LANES, e1);
        sum0 += e0;
        sum1 += e1;
    }
    for (; j < n; j += LANES) {
        const vec e = vexp(splat(scale) * load_upto(x + j, n - j, -INFINITY) - splat(m));
        store_upto(y + j, n - j, e);
        sum0 += e;
    }
    return sum_lanes(sum0 + sum1);
}

LOCAL void row_scale(int64_t n, float factor, float *y) {
    for (int64_t j = 0; j < n; j += LANES)
        store_upto(y + j, n - j, load_upto(y + j, n - j, 0) * splat(factor));
}

/* simd: the same three passes, LANES elements at a time, with an exp made of multiply-adds. */
LOCAL void softmax_simd(int64_t n, int64_t length, const float *x, float *y) {
    const float m = row_max(length, x);
    const float sum = row_exp(length, x, 1, m, y);
    row_scale(length, 1 / sum, y);
    for (int64_t j = length; j < n; ++j) y[j] = 0;
}

/* dx = y (dy - sum_k dy_k y_k).  12 bytes an element. */
LOCAL void softmax_vjp_naive(int64_t n, const float *y, const float *dy, float *dx) {
    float dot = 0;
    for (int64_t j = 0; j < n; ++j) dot += dy[j] * y[j];
    for (int64_t j = 0; j < n; ++j) dx[j] = y[j] * (dy[j] - dot);
}

LOCAL void softmax_vjp_simd(int64_t n, const float *y, const float *dy, float *dx) {
    vec sum = splat(0);
    for (int64_t j = 0; j < n; j += LANES)
        sum += load_upto(dy + j, n - j, 0) * load_upto(y + j, n - j, 0);
    const vec dot = splat(sum_lanes(sum));
    for (int64_t j = 0; j < n; j += LANES)
        store_upto(dx + j, n - j, load_upto(y + j, n - j, 0) * (load_upto(dy + j, n - j, 0) - dot));
}
