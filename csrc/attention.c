/* o = softmax(scale q k^T) v for one head, without a (T, S) matrix in memory.
   q: (T, D), k and v: (S, D), o: (T, D), rows `row` floats apart, each row contiguous. 4 T S D FLOP
   forward, 10 T S D backward, about half when causal. Specification: minillm/kernels/attention.py
   Source: Dao 2022, arXiv:2205.14135, the recomputation of the scores from one number per row.

   Scores stand transposed, a row for each key and a column for each query of a block of at most
   QUERIES: the maxima and sums of the softmax then run down the columns, LANES queries at a time,
   and the product with v reads 14 queries of a key side by side, as from a packed factor. The
   scores of 32 queries against 256 keys are 32 KB and stay in L1. k and v are packed once a head.
   Forward keeps lse, the log of each query's softmax sum, from which backward computes the same
   probabilities again.

   With a causal mask, half of a block's last square of scores is computed for nothing. Short
   sequences are cut in two for that reason. */

enum { ROW = (QUERIES + NR - 1) / NR * NR }; /* floats from the scores of a key to the next */
INLINE int64_t queries(int64_t T) { return T >= 2 * QUERIES ? QUERIES : (T + 1) / 2; }

/* Keys that query t sees: all S of them, or with a causal mask those up to its own position. */
INLINE int64_t visible(bool causal, int64_t t, int64_t S) { return causal ? min(t + 1, S) : S; }

/* Which of the queries t, t + 1, ... see key j. */
INLINE ivec sees(bool causal, int64_t t, int64_t j) {
    return isplat(causal && j > t ? (int32_t)(j - t) : 0) <= lane_numbers();
}

/* scores[j, t] = k[j, :] q[t, :] for all keys and `rows` queries; k and q packed. */
LOCAL void attention_scores(int64_t keys, int64_t height, int64_t rows, int64_t D, const float *k,
                            const float *q, float *scores) {
    for (int64_t j = 0; j < keys; j += height, k += WIDTH * D)
        matmul_tiles(min(height, keys - j), height, rows, D, (struct matrix){k, 1, WIDTH},
                     matmul_panels(D, q), (struct result){.c = scores + j * ROW, .row = ROW}, false,
                     NULL);
}

LOCAL void attention(int64_t T, int64_t S, int64_t D, float scale, bool causal, struct matrix q,
                     struct matrix k, struct matrix v, float *o, int64_t o_row, float *lse,
                     float *work, float *scratch) {
    const int64_t all = visible(causal, T - 1, S), height = tile_height(all, MR);
    float *p = work, *packed_q = p + padded(S) * ROW, *packed_v = packed_q + ROW * padded(D);
    float *packed_k = packed_v + S * padded(D);
    matmul_pack_a(all, height, D, k, packed_k);
    matmul_pack_b(all, D, v, packed_v);
    for (int64_t t0 = 0, step = queries(T); t0 < T; t0 += step) {
        const int64_t rows = min(step, T - t0), keys = visible(causal, t0 + rows - 1, S);
        matmul_pack_b(D, rows, (struct matrix){q.data + t0 * q.row, 1, q.row}, packed_q);
        attention_scores(keys, height, rows, D, packed_k, packed_q, p);
        float one_over_sum[ROW];
        for (int64_t t = 0; t < rows; t += LANES) {
            const int64_t n = rows - t;
            vec top = splat(-INFINITY), sum = splat(0);
            for (int64_t j = 0; j < keys; ++j)
                top =
                    vmax(pick(sees(causal, t0 + t, j), load_upto(p + j * ROW + t, n, 0), top), top);
            const vec m = splat(scale) * top;
            for (int64_t j = 0; j < keys; ++j) {
                const vec e = vexp(splat(scale) * load_upto(p + j * ROW + t, n, 0) - m);
                const vec pj = pick(sees(causal, t0 + t, j), e, splat(0));
                store_upto(p + j * ROW + t, n, pj);
                sum += pj;
            }
            store(one_over_sum + t,
                  pick(sum == splat(0), sum, splat(1) / sum)); /* no keys: o is 0 */
            for (int64_t i = 0; i < n && i < LANES; ++i) lse[t0 + t + i] = m[i] + logf(sum[i]);
        }
        matmul_tiles(rows, tile_height(rows, MR), D, keys, (struct matrix){p, 1, ROW},
                     matmul_panels(all, packed_v),
                     (struct result){.c = o + t0 * o_row, .row = o_row}, false, scratch);
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
    const int64_t step = queries(T), all = visible(causal, T - 1, S), height = tile_height(all, MR);
    float *p = work, *dp = p + padded(S) * ROW, *packed_q = dp + padded(S) * ROW;
    float *k_rows = packed_q + ROW * padded(D), *packed_k = k_rows + S * padded(D);
    float *packed_v = packed_k + packed_keys(S) * D;
    matmul_pack_b(all, D, k, k_rows);
    matmul_pack_a(all, height, D, k, packed_k);
    matmul_pack_a(all, height, D, v, packed_v);
    for (int64_t j = T > 0 ? all : 0; j < S; ++j) /* keys that no query sees */
        for (int64_t d = 0; d < D; ++d) dk[j * dk_row + d] = dv[j * dv_row + d] = 0;
    for (int64_t t0 = T > 0 ? (T - 1) / step * step : -1; t0 >= 0; t0 -= step) {
        const int64_t rows = min(step, T - t0), keys = visible(causal, t0 + rows - 1, S);
        const struct matrix qt = block(q, t0, 0), gt = block(grad, t0, 0);
        matmul_pack_b(D, rows, (struct matrix){qt.data, 1, qt.row}, packed_q);
        attention_scores(keys, height, rows, D, packed_k, packed_q, p);
        matmul_pack_b(D, rows, (struct matrix){gt.data, 1, gt.row}, packed_q);
        attention_scores(keys, height, rows, D, packed_v, packed_q, dp);
        float delta[ROW];
        for (int64_t i = 0; i < rows; ++i) {
            vec dot = splat(0);
            for (int64_t d = 0; d < D; d += LANES)
                dot += load_upto(gt.data + i * gt.row + d, D - d, 0) *
                       load_upto(o.data + (t0 + i) * o.row + d, D - d, 0);
            delta[i] = sum_lanes(dot);
        }
        for (int64_t t = 0; t < rows; t += LANES) {
            const int64_t n = rows - t;
            const vec shift = load_upto(lse + t0 + t, n, 0), minus = load_upto(delta + t, n, 0);
            for (int64_t j = 0; j < keys; ++j) {
                float *pj = p + j * ROW + t, *dpj = dp + j * ROW + t;
                const vec e = vexp(load_upto(pj, n, 0) * splat(scale) - shift);
                const vec ds = splat(scale) * e * (load_upto(dpj, n, 0) - minus);
                const ivec seen = sees(causal, t0 + t, j);
                store_upto(pj, n, pick(seen, e, splat(0)));
                store_upto(dpj, n, pick(seen, ds, splat(0)));
            }
        }
        const bool more = t0 + rows < T; /* dk and dv hold a sum already */
        matmul_tiles(rows, tile_height(rows, MR), D, keys, (struct matrix){dp, 1, ROW},
                     matmul_panels(all, k_rows),
                     (struct result){.c = dq + t0 * dq_row, .row = dq_row}, false, scratch);
        matmul_simd(keys, D, rows, (struct matrix){dp, ROW, 1}, qt,
                    (struct result){dk, dk_row, more ? dk : NULL, dk_row, NULL, NULL, false},
                    scratch);
        matmul_simd(keys, D, rows, (struct matrix){p, ROW, 1}, gt,
                    (struct result){dv, dv_row, more ? dv : NULL, dv_row, NULL, NULL, false},
                    scratch);
    }
}
