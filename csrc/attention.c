/* o = softmax(scale q k^T) v for one head, without a (T, S) matrix in memory.
   q: (T, D), k and v: (S, D), o: (T, D), rows `row` floats apart, each row contiguous. 4 T S D FLOP
   forward, 10 T S D backward, about half when causal. Specification: minillm/kernels/attention.py
   Source: Dao 2022, arXiv:2205.14135, the recomputation of the scores from one number per row.

   Forward works on a block of at most QUERIES rows of q at a time: their scores against every key
   they may see fit in the cache (64 rows x 1,024 keys are 256 KB). It keeps lse, the log of each
   row's softmax sum, from which backward computes the same probabilities again.

   With a causal mask, half of a block's last square of scores is computed for nothing. Short
   sequences are cut in two for that reason; smaller blocks would pay more for packing k than they
   save (T = 64: 10.8 us with blocks of 64, 8.1 with 32, 9.9 with 16). */

enum { QUERIES = 64 };
INLINE int64_t queries(int64_t T) { return T >= 2 * QUERIES ? QUERIES : (T + 1) / 2; }

/* Keys that query t sees: all S of them, or with a causal mask those up to its own position. */
INLINE int64_t visible(bool causal, int64_t t, int64_t S) { return causal ? min(t + 1, S) : S; }

LOCAL void attention(int64_t T, int64_t S, int64_t D, float scale, bool causal, struct matrix q,
                     struct matrix k, struct matrix v, float *o, int64_t o_row, float *lse,
                     float *p, float *scratch) {
    const struct matrix k_transposed = {k.data, 1, k.row};
    for (int64_t t0 = 0, step = queries(T); t0 < T; t0 += step) {
        const int64_t rows = min(step, T - t0), keys = visible(causal, t0 + rows - 1, S);
        const struct matrix qt = {q.data + t0 * q.row, q.row, 1}, pt = {p, keys, 1};
        matmul_simd(rows, keys, D, qt, k_transposed, (struct result){.c = p, .row = keys}, scratch);
        float one_over_sum[QUERIES];
        for (int64_t i = 0; i < rows; ++i) {
            float *row = p + i * keys;
            const int64_t length = visible(causal, t0 + i, S);
            const float m = scale * row_max(length, row);
            const float sum = row_exp(length, row, scale, m, row);
            one_over_sum[i] = sum == 0 ? 0 : 1 / sum; /* no keys: o is 0 */
            lse[t0 + i] = m + logf(sum);
            for (int64_t j = length; j < keys; ++j) row[j] = 0;
        }
        matmul_simd(rows, D, keys, pt, v, (struct result){.c = o + t0 * o_row, .row = o_row},
                    scratch);
        for (int64_t i = 0; i < rows; ++i) row_scale(D, one_over_sum[i], o + (t0 + i) * o_row);
    }
}

/* With p the probabilities and dp = do v^T:  ds = p (dp - rowsum(do o)),
     dq = scale ds k,   dk = scale ds^T q,   dv = p^T do.
   dk and dv gather over the blocks of queries, in order; `p` and `dp` hold QUERIES x S floats each.
 */
LOCAL void attention_vjp(int64_t T, int64_t S, int64_t D, float scale, bool causal, struct matrix q,
                         struct matrix k, struct matrix v, struct matrix o, struct matrix grad,
                         const float *lse, float *dq, int64_t dq_row, float *dk, int64_t dk_row,
                         float *dv, int64_t dv_row, float *p, float *dp, float *scratch) {
    const struct matrix k_transposed = {k.data, 1, k.row}, v_transposed = {v.data, 1, v.row};
    int64_t seen = 0; /* rows of dk and dv that hold a sum already */
    for (int64_t t0 = 0, step = queries(T); t0 < T; t0 += step) {
        const int64_t rows = min(step, T - t0), keys = visible(causal, t0 + rows - 1, S);
        const struct matrix qt = {q.data + t0 * q.row, q.row, 1};
        const struct matrix gt = {grad.data + t0 * grad.row, grad.row, 1};
        matmul_simd(rows, keys, D, qt, k_transposed, (struct result){.c = p, .row = keys}, scratch);
        matmul_simd(rows, keys, D, gt, v_transposed, (struct result){.c = dp, .row = keys},
                    scratch);
        for (int64_t i = 0; i < rows; ++i) {
            float *pi = p + i * keys, *di = dp + i * keys;
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
            for (int64_t j = length; j < keys; ++j) pi[j] = di[j] = 0;
        }
        const struct matrix ds = {dp, keys, 1}, ds_transposed = {dp, 1, keys},
                            p_transposed = {p, 1, keys};
        matmul_simd(rows, D, keys, ds, k, (struct result){.c = dq + t0 * dq_row, .row = dq_row},
                    scratch);
        for (int64_t j = seen; j < keys; ++j)
            for (int64_t d = 0; d < D; ++d) dk[j * dk_row + d] = dv[j * dv_row + d] = 0;
        seen = keys;
        matmul_simd(keys, D, rows, ds_transposed, qt,
                    (struct result){.c = dk, .row = dk_row, .add = dk, .add_row = dk_row}, scratch);
        matmul_simd(keys, D, rows, p_transposed, gt,
                    (struct result){.c = dv, .row = dv_row, .add = dv, .add_row = dv_row}, scratch);
    }
    for (int64_t j = seen; j < S; ++j) /* keys that no query sees */
        for (int64_t d = 0; d < D; ++d) dk[j * dk_row + d] = dv[j * dv_row + d] = 0;
}
