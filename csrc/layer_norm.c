/* y = (x - mean) / sqrt(var + eps) * weight + bias over each row of n; var divides by n.
   About 8 n FLOP a row; x is read once from memory (its later passes hit the cache), y written
   once. weight and bias may be NULL (1 and 0). Specification: minillm/kernels/layer_norm.py Source:
   Ba, Kiros and Hinton 2016, arXiv:1607.06450, equation 3. */

LOCAL void layer_norm(int64_t n, const float *x, const float *weight, const float *bias, float eps,
                      float *y, float *mean, float *rstd) {
    vec sum = splat(0), squares = splat(0);
    for (int64_t j = 0; j < n; j += LANES) sum += load_upto(x + j, n - j, 0);
    const float mu = sum_lanes(sum) / (float)n;
    for (int64_t j = 0; j < n; j += LANES) {
        const vec d = load_upto(x + j, n - j, mu) - splat(mu);
        squares += d * d;
    }
    const float r = 1 / sqrtf(sum_lanes(squares) / (float)n + eps);
    for (int64_t j = 0; j < n; j += LANES) {
        vec out = (load_upto(x + j, n - j, 0) - splat(mu)) * splat(r);
        if (weight) out *= load_upto(weight + j, n - j, 0);
        if (bias) out += load_upto(bias + j, n - j, 0);
        store_upto(y + j, n - j, out);
    }
    *mean = mu;
    *rstd = r;
}

/* With xhat = (x - mean) rstd and g = dy weight:
     dx = rstd (g - mean(g) - xhat mean(g xhat)) + add,   dweight += dy xhat,   dbias += dy;
   add may be NULL. */
LOCAL void layer_norm_vjp(int64_t n, const float *x, const float *weight, float mean, float rstd,
                          const float *dy, const float *add, float *dx, float *dweight,
                          float *dbias) {
    vec sum = splat(0), dot = splat(0);
    for (int64_t j = 0; j < n; j += LANES) {
        const vec d = load_upto(dy + j, n - j, 0);
        const vec xhat = (load_upto(x + j, n - j, mean) - splat(mean)) * splat(rstd);
        const vec g = weight ? d * load_upto(weight + j, n - j, 0) : d;
        sum += g;
        dot += g * xhat;
        store_upto(dweight + j, n - j, load_upto(dweight + j, n - j, 0) + d * xhat);
        store_upto(dbias + j, n - j, load_upto(dbias + j, n - j, 0) + d);
    }
    const vec g_mean = splat(sum_lanes(sum) / (float)n), gx_mean = splat(sum_lanes(dot) / (float)n);
    for (int64_t j = 0; j < n; j += LANES) {
        const vec d = load_upto(dy + j, n - j, 0);
        const vec xhat = (load_upto(x + j, n - j, mean) - splat(mean)) * splat(rstd);
        const vec g = weight ? d * load_upto(weight + j, n - j, 0) : d;
        const vec before = add ? load_upto(add + j, n - j, 0) : splat(0);
        store_upto(dx + j, n - j, before + splat(rstd) * (g - g_mean - xhat * gx_mean));
    }
}
