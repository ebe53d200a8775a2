/* y_j = exp(x_j - m) / sum_k exp(x_k - m), m = max_k x_k, over each row.
   Specification: minillm/kernels/softmax.py

   A row is (n,) contiguous; with a causal mask only its first `length` entries count and the rest
   of y is 0. A row of -inf gives NaN (0 / 0), as does a +inf or NaN anywhere in it. x and y may be
   the same memory. Sums run over LANES partial sums, folded in a fixed order.

   About 25 FLOP an element, 20 of them in exp. Memory moves 12 bytes an element when the row stays
   in the cache between the passes: x is read, y written, and before that its line fetched for
   nothing. Stores past the caches leave 8. When the row does not stay, three passes move 24, the
   online form 12. */

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

/* simd, a row by itself (a causal one): the same three passes, LANES elements at a time, with an
   exp made of multiply-adds. */
LOCAL void softmax_simd(int64_t n, int64_t length, const float *x, float *y) {
    const float m = row_max(length, x);
    const float sum = row_exp(length, x, 1, m, y);
    row_scale(length, 1 / sum, y);
    for (int64_t j = length; j < n; ++j) y[j] = 0;
}

/* Vectors can be streamed to y from a boundary of their size on: so many floats stand before it. */
INLINE int64_t head_of(const float *y, int64_t n, bool past) {
    return past ? min(n, -(uintptr_t)y / sizeof *y % LANES) : 0;
}

INLINE void write_upto(float *p, int64_t n, vec v, bool past) {
    if (past && n >= LANES)
        stream(p, v);
    else
        store_upto(p, n, v);
}

/* y = factor e, `past` the caches or into them. */
LOCAL void row_write(int64_t n, float factor, const float *e, float *y, bool past) {
    const int64_t head = head_of(y, n, past);
    store_upto(y, head, load_upto(e, head, 0) * splat(factor));
    for (int64_t j = head; j < n; j += LANES)
        write_upto(y + j, n - j, load_upto(e + j, n - j, 0) * splat(factor), past);
}

/* Three rows in one pass, so that memory and arithmetic are busy at the same time: e = exp(x - m)
   and its sum, while the row before, whose exponentials e held until now, is written (y = factor e,
   unless y is NULL), and the next is read for its maximum. */
INLINE float row_pass(int64_t n, const float *x, float m, float *e, float factor, float *y,
                      bool past, const float *next, float *next_max) {
    const int64_t head = head_of(y, n, past);
    vec sum = splat(0), top = splat(-INFINITY);
    store_upto(y, head, load_upto(e, head, 0) * splat(factor));
    for (int64_t j = 0; j < n; j += LANES) {
        const int64_t k = j + head;
        if (y && k < n) write_upto(y + k, n - k, load_upto(e + k, n - k, 0) * splat(factor), past);
        top = vmax(load_upto(next + j, n - j, -INFINITY), top);
        __builtin_prefetch(next + j + 1024); /* in the next page: the hardware stops there */
        const vec v = vexp(load_upto(x + j, n - j, -INFINITY) - splat(m));
        store_upto(e + j, n - j, v);
        sum += v;
    }
    *next_max = max_lanes(top);
    return sum_lanes(sum);
}

/* For a row too long for the cache, the online form: x is read twice, and y neither fetched nor
   read. The largest entry so far stands in for m; when a larger one comes, the sum so far is
   corrected. Source: Milakov and Gimelshein 2018, arXiv:1805.02867. */
LOCAL void softmax_online(int64_t n, const float *x, float *y) {
    enum { BLOCK = 4096 }; /* floats: 16 KB, which the second look finds in L1 */
    float m = -FLT_MAX;    /* finite: a block may be all -inf */
    vec sum = splat(0);
    for (int64_t j = 0, end; j < n; j = end) {
        const float before = m;
        end = min(j + BLOCK, n);
        m = fmaxf(m, row_max(end - j, x + j));
        sum *= vexp(splat(before - m));
        for (int64_t k = j; k < end; k += LANES) {
            __builtin_prefetch(x + k + BLOCK);
            sum += vexp(load_upto(x + k, end - k, -INFINITY) - splat(m));
        }
    }
    const vec factor = splat(1 / sum_lanes(sum));
    const int64_t head = head_of(y, n, true);
    store_upto(y, head, vexp(load_upto(x, head, 0) - splat(m)) * factor);
    for (int64_t j = head; j < n; j += LANES)
        write_upto(y + j, n - j, vexp(load_upto(x + j, n - j, 0) - splat(m)) * factor, true);
}

/* simd, rows of one length. e: LONG_ROW floats of scratch. Were y the scratch, loads of x would
   wait for stores to y wherever the two addresses agree in their last 12 bits, and malloc likes to
   place them so. */
LOCAL void softmax_rows(int64_t rows, int64_t n, const float *x, float *y, float *e, bool past) {
    if (n > LONG_ROW) {
        for (int64_t r = 0; r < rows; ++r) softmax_online(n, x + r * n, y + r * n);
    } else {
        float m = row_max(n, x), factor = 0, *before = NULL;
        for (int64_t r = 0; r < rows; ++r, before = y, x += n, y += n)
            factor = 1 / row_pass(n, x, m, e, factor, before, past, r + 1 < rows ? x + n : x, &m);
        row_write(n, factor, e, before, past);
    }
    stream_end();
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
