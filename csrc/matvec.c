/* The products of one vector with a matrix, read once and in the order it lies: it is the bytes
   that cost. 2 FLOP and 4 bytes an element. Specification: minillm/kernels/decode.py */

/* y = W x + bias + add.  W: (N, K), x: (K,), bias, add (each may be NULL), y: (N,).
   LANES rows at a time, each with a vector of sums of its own, so that no multiply-add waits for
   the one before. */
LOCAL void matvec(int64_t N, int64_t K, const float *W, const float *x, const float *bias,
                  const float *add, float *y) {
    for (int64_t n = 0; n < N; n += LANES, W += LANES * K) {
        const int64_t rows = min(LANES, N - n);
        vec sums[LANES] = {0};
        int64_t k = 0;
        if (rows == LANES)
            for (; k + LANES <= K; k += LANES) {
                const vec xk = load(x + k);
#pragma GCC unroll 16
                for (int i = 0; i < LANES; ++i) sums[i] += load(W + i * K + k) * xk;
            }
        for (; k < K; k += LANES) {
            const vec xk = load_upto(x + k, K - k, 0);
            for (int i = 0; i < rows; ++i) sums[i] += load_upto(W + i * K + k, K - k, 0) * xk;
        }
        vec sum = sum_rows(sums);
        if (bias) sum += load_upto(bias + n, rows, 0);
        if (add) sum += load_upto(add + n, rows, 0);
        store_upto(y + n, rows, sum);
    }
}

/* y = x W.  x: (K,), W: (K, N), y: (N,). */
LOCAL void vecmat(int64_t K, int64_t N, const float *x, const float *W, float *y) {
    for (int64_t n = 0; n < N; n += LANES) {
        vec sum = splat(0);
        for (int64_t k = 0; k < K; ++k) sum += splat(x[k]) * load_upto(W + k * N + n, N - n, 0);
        store_upto(y + n, N - n, sum);
    }
}
