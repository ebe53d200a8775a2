/* loss = lse - (1 - s) x_t - s mean(x),  lse = log sum_j exp(x_j), for the logits x of one row, its
   target t and the label smoothing s. One read of the logits from memory (the second pass finds the
   row in the cache). Specification: minillm/kernels/cross_entropy.py */

LOCAL float cross_entropy(int64_t n, const float *x, int64_t target, float smoothing, float *lse) {
    const float m = row_max(n, x);
    vec sum = splat(0), total = splat(0);
    for (int64_t j = 0; j < n; j += LANES) {
        sum += vexp(load_upto(x + j, n - j, -INFINITY) - splat(m));
        if (smoothing != 0) total += load_upto(x + j, n - j, 0);
    }
    *lse = m + logf(sum_lanes(sum));
    const float at_target = smoothing == 1 ? 0 : (1 - smoothing) * (*lse - x[target]);
    return smoothing == 0 ? at_target
                          : at_target + smoothing * (*lse - sum_lanes(total) / (float)n);
}

/* dx_j = g (exp(x_j - lse) - (1 - s) [j = t] - s / n): the softmax and its subtraction in one pass.
 */
LOCAL void cross_entropy_vjp(int64_t n, const float *x, int64_t target, float smoothing, float lse,
                             float g, float *dx) {
    const vec even = splat(smoothing / (float)n);
    for (int64_t j = 0; j < n; j += LANES) {
        const vec p = vexp(load_upto(x + j, n - j, 0) - splat(lse));
        store_upto(dx + j, n - j, splat(g) * (p - even));
    }
    dx[target] -= g * (1 - smoothing);
}
