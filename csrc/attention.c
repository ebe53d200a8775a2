/* o = softmax(scale q k^T) v for one head, without a (T, S) matrix in memory.
   q: (T, D), k and v: (S, D), o: (T, D), rows `row` floats apart, each row contiguous. 4 T S D FLOP
   forward, 10 T S D backward, about half when causal. Specification: minillm/kernels/attention.py
   Source: Dao 2022, arXiv:2205.14135, the recomputation of the scores from one number per row.

   The keys are packed once. Then a block of at most QUERIES rows of q at a time: their scores
   against every key they may see fit in the cache (56 rows x 1,024 keys are 229 KB). Forward keeps
   lse, the log of each row's softmax sum, from which backward computes the same probabilities
   again.

   With a causal mask, half of a block's last square of scores is computed for nothing. Short
   sequences are cut in two for that reason. */

INLINE int64_t queries(int64_t T) { return T >= 2 * QUERIES ? QUERIES : (T + 1) / 2; }

/* Keys that query t sees: all S of them, or with a causal mask those up to its own position. */
INLINE int64_t visible(bool causal, int64_t t, int64_t S) { return causal ? min(t + 1, S) : S; }

LOCAL void attention(int64_t T, int64_t S, int64_t D, float scale, bool causal, struct matrix q,
                     struct matrix k, struct matrix v, float *o, int64_t o_row, float *lse,
                     float *work, float *scratch) {
    const int64_t row = padded(S), step = queries(T);
    float *p = work, *packed_k = work + QUERIES * row;
    matmul_pack_b(D, visible(causal, T - 1, S), (struct matrix){k.data, 1, k.row}, packed_k);
    for (int64_t t0 = 0; t0 < T; t0 += step) {
        const int64_t rows = min(step, T - t0), keys = visible(causal, t0 + rows - 1, S);
        matmul_tiles(rows, tile_height(rows, MR), keys, D, block(q, t0, 0),
                     matmul_panels(D, packed_k), (struct result){.c = p, .row = row}, false,
                     scratch);
        float one_over_sum[QUERIES];
        for (int64_t i = 0; i < rows; ++i) {
            float *pi = p + i * row;
            const int64_t length = visible(causal, t0 + i, S);
            const float m = scale * row_max(length, pi);
            const float sum = row_exp(length, pi, scale, m, pi);
            one_over_sum[i] = sum == 0 ? 0 : 1 / sum; /* no keys: o is 0 */
            lse[t0 + i] = m + logf(sum);
            for (int64_t j = length; j < keys; j += LANES) store_upto(pi + j, keys - j, splat(0));
        }
        matmul_simd(rows, D, keys, (struct matrix){p, row, 1}, v,
                    (struct result){.c = o + t0 * o_row, .row = o_row}, scratch);
        for (int64_t i = 0; i < rows; ++i) row_scale(D, one_over_sum[i], o + (t0 + i) * o_row);
    }
}

/* With p the probabilities and dp = do v^T:  ds = p (dp - rowsum(do o)),
     dq = scale ds k,   dk = scale ds^T q,   dv = p^T do.
   dk and dv gather over the blocks of queries, from the last, which sees the most keys, to the
   first. */
LOCAL void attention_vjp(int64_t T, int64_t S, int64_t D, float scale, bool causal, struct matrix q,
                         struct matrix k, struct matrix v, struct matrix o, struct matrix grad,
                         const float *lse, float *dq, int64_t dq_row, float *dk, int64_t dk_row,
                         float *dv, int64_t dv_row, float *work, float *scratch) {
    const int64_t row = padded(S), step = queries(T), all = visible(causal, T - 1, S);
    float *p = work, *dp = p + QUERIES * row, *packed_k = dp + QUERIES * row;
    float *packed_v = packed_k + D * row;
    matmul_pack_b(D, all, (struct matrix){k.data, 1, k.row}, packed_k);
    matmul_pack_b(D, all, (struct matrix){v.data, 1, v.row}, packed_v);
    for (int64_t j = T > 0 ? all : 0; j < S; ++j) /* keys that no query sees */
        for (int64_t d = 0; d < D; ++d) dk[j * dk_row + d] = dv[j * dv_row + d] = 0;
    for (int64_t t0 = T > 0 ? (T - 1) / step * step : -1; t0 >= 0; t0 -= step) {
        const int64_t rows = min(step, T - t0), keys = visible(causal, t0 + rows - 1, S);
        const int64_t height = tile_height(rows, MR);
        const struct matrix qt = block(q, t0, 0), gt = block(grad, t0, 0);
        matmul_tiles(rows, height, keys, D, qt, matmul_panels(D, packed_k),
                     (struct result){.c = p, .row = row}, false, scratch);
        matmul_tiles(rows, height, keys, D, gt, matmul_panels(D, packed_v),
                     (struct result){.c = dp, .row = row}, false, scratch);
        for (int64_t i = 0; i < rows; ++i) {
            float *pi = p + i * row, *di = dp + i * row;
            const int64_t length = visible(causal, t0 + i, S);
            vec dot = splat(0);
            for (int64_t j = 0; j < D; j += LANES)
                dot += load_upto(gt.data + i * gt.row + j, D - j, 0) *
                       load_upto(o.data + (t0 + i) * o.row + j, D - j, 0);
            const vec delta = splat(sum_lanes(dot)), shift = splat(lse[t0 + i]);
            for (int64_t j = 0; j < length; j += LANES) {
                const int64_t n = length - j;
                const vec pj = vexp(load_upto(pi + j, n, 0) * splat(scale) - shift);
                store_upto(pi + j, n, pj);
                store_upto(di + j, n, splat(scale) * pj * (load_upto(di + j, n, 0) - delta));
            }
            for (int64_t j = length; j < keys; j += LANES) {
                store_upto(pi + j, keys - j, splat(0));
                store_upto(di + j, keys - j, splat(0));
            }
        }
        const bool more = t0 + rows < T; /* dk and dv hold a sum already */
        matmul_simd(rows, D, keys, (struct matrix){dp, row, 1}, k,
                    (struct result){.c = dq + t0 * dq_row, .row = dq_row}, scratch);
        matmul_simd(keys, D, rows, (struct matrix){dp, 1, row}, qt,
                    (struct result){dk, dk_row, more ? dk : NULL, dk_row, NULL, NULL, false},
                    scratch);
        matmul_simd(keys, D, rows, (struct matrix){p, 1, row}, gt,
                    (struct result){dv, dv_row, more ? dv : NULL, dv_row, NULL, NULL, false},
                    scratch);
    }
}
