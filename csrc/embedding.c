/* dweight[ids[i], :] += dy[i, :]: the gradient of y[i, :] = weight[ids[i], :]. One task owns some
   columns of dweight and takes the rows in order, so that a repeated id always sums the same way.
   Specification: minillm/kernels/embedding.py */

LOCAL void embedding_vjp(int64_t tokens, int64_t columns, const int64_t *ids, const float *dy,
                         int64_t row, float *dweight) {
    for (int64_t i = 0; i < tokens; ++i) {
        float *w = dweight + ids[i] * row;
        for (int64_t j = 0; j < columns; j += LANES) {
            const int64_t n = columns - j;
            store_upto(w + j, n, load_upto(w + j, n, 0) + load_upto(dy + i * row + j, n, 0));
        }
    }
}
