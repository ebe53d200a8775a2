/* C = A B:  c[i,j] = sum_k a[i,k] b[k,j].   2 M N K FLOP.   Specification:
   minillm/kernels/matmul.py

   Five rungs, each with one idea more than the one before. Element (i, k) of A stands at
   a.data[i * a.row + k * a.col]; a transposed operand is the same memory with the strides
   exchanged. In every rung one element of C is a chain of additions in the order of k (or two, cut
   by K alone, see threads.c), never split between threads: their number changes no bit of C.

   Source: Goto and van de Geijn 2008, "Anatomy of high-performance matrix multiplication". */

/* naive: the definition. The inner loop walks down a column of B: when B is row-major, each step
   fetches a new cache line to use 4 of its 64 bytes. */
LOCAL void matmul_naive(int64_t M, int64_t N, int64_t K, struct matrix a, struct matrix b, float *c,
                        int64_t c_row) {
    for (int64_t i = 0; i < M; ++i)
        for (int64_t j = 0; j < N; ++j) {
            float sum = 0;
            for (int64_t k = 0; k < K; ++k)
                sum += a.data[i * a.row + k * a.col] * b.data[k * b.row + j * b.col];
            c[i * c_row + j] = sum;
        }
}

/* reordered: i, k, j. The inner loop runs along rows of B and C, so every byte of a cache line is
   used and the compiler may turn it into vectors. But all of B passes by for each row of A. */
LOCAL void matmul_reordered(int64_t M, int64_t N, int64_t K, struct matrix a, struct matrix b,
                            float *c, int64_t c_row) {
    for (int64_t i = 0; i < M; ++i) {
        float *restrict ci = c + i * c_row;
        for (int64_t j = 0; j < N; ++j) ci[j] = 0;
        for (int64_t k = 0; k < K; ++k) {
            const float aik = a.data[i * a.row + k * a.col], *bk = b.data + k * b.row;
            if (b.col == 1)
                for (int64_t j = 0; j < N; ++j) ci[j] += aik * bk[j];
            else
                for (int64_t j = 0; j < N; ++j) ci[j] += aik * bk[j * b.col];
        }
    }
}

/* tiled: the same loops over blocks of B that stay in the L1 cache (64 x 128 floats = 32 KB) while
   all rows of A pass by: B comes from memory once, not M times. Still one load and one store of C
   for every multiplication. */
enum { TILE_K = 64, TILE_N = 128 };
LOCAL void matmul_tiled(int64_t M, int64_t N, int64_t K, struct matrix a, struct matrix b, float *c,
                        int64_t c_row) {
    for (int64_t i = 0; i < M; ++i)
        for (int64_t j = 0; j < N; ++j) c[i * c_row + j] = 0;
    for (int64_t k0 = 0; k0 < K; k0 += TILE_K)
        for (int64_t j0 = 0; j0 < N; j0 += TILE_N) {
            const int64_t kc = min(TILE_K, K - k0), nc = min(TILE_N, N - j0);
            float block[TILE_K][TILE_N]; /* a copy: its rows are contiguous whatever B's strides */
            for (int64_t k = 0; k < kc; ++k)
                for (int64_t j = 0; j < nc; ++j)
                    block[k][j] = b.data[(k0 + k) * b.row + (j0 + j) * b.col];
            for (int64_t i = 0; i < M; ++i) {
                float *restrict ci = c + i * c_row + j0;
                for (int64_t k = 0; k < kc; ++k) {
                    const float aik = a.data[i * a.row + (k0 + k) * a.col];
                    for (int64_t j = 0; j < nc; ++j) ci[j] += aik * block[k][j];
                }
            }
        }
}

/* simd: a tile of C stays in registers while k runs, so that C is loaded and stored once.

       NR = 2 vectors                A tile holds MR * 2 vectors of sums. Each step of k loads 2
      +-------+-------+              vectors of B, broadcasts MR elements of A, and does 2 MR
      | b[k,0]| b[k,1]|  panel of B  multiply-adds. 2 MR + 2 + 1 registers must fit the target's 32
      +=======+=======+              (MR = 14) or 16 (MR = 6), and 2 MR must be at least 8 to 10 so
   a[0,k]| acc | acc  |              that one multiply-add need not wait for the one before
      ...| acc | acc  |  MR rows     (latency 4, two units).
   a[13,k] acc | acc  |
      +-------+-------+

   A block of B, KC x NC or of another shape with as many elements, is packed panel by panel (K x NR
   each, contiguous, padded with zeros) and stays in the L2 cache (384 x 512 floats are 786 KB)
   while the row tiles pass by. A tile of A (384 x 16 floats, 25 KB) stays in L1 while it meets all
   panels; a panel comes from L2 at 128 bytes for every 14 cycles of multiply-adds.

   A tile of C is written at its end, to lines that a training step left in L3. Asking for them at
   its beginning hides that: (384, 512, 128) on cold memory takes 472 us instead of 628. */
enum { MR = ML_MR, NR = 2 * LANES };

INLINE void matmul_tile(const int rows, int64_t K, const float *a, int64_t a_row, int64_t a_col,
                        const float *b, int64_t b_row, int64_t columns, const struct result *to) {
    vec acc[MR][2] = {0};
    for (int i = 0; i < rows && K >= 64; ++i) {
        __builtin_prefetch(to->c + i * to->row, 1);
        __builtin_prefetch(to->c + i * to->row + LANES, 1);
        if (to->add) __builtin_prefetch(to->add + i * to->add_row, 1);
    }
    for (int64_t k = 0; k < K; ++k, a += a_col, b += b_row) {
        const vec b0 = load(b), b1 = load(b + LANES);
#pragma GCC unroll 14
        for (int i = 0; i < rows; i += 2) { /* every other factor straight from memory */
            const vec aik = splat(a[i * a_row]);
            acc[i][0] += aik * b0;
            acc[i][1] += aik * b1;
            if (i + 1 == rows) break;
            acc[i + 1][0] = add_product(acc[i + 1][0], b0, a + (i + 1) * a_row);
            acc[i + 1][1] = add_product(acc[i + 1][1], b1, a + (i + 1) * a_row);
        }
    }
#pragma GCC unroll 14
    for (int i = 0; i < rows; ++i)
#pragma GCC unroll 2
        for (int v = 0; v < 2; ++v) {
            const int64_t j = v * LANES, n = columns - j;
            if (n <= 0) break;
            if (to->add) acc[i][v] += load_upto(to->add + i * to->add_row + j, n, 0);
            store_upto(to->c + i * to->row + j, n, acc[i][v]);
        }
}

/* One register tile of any number of rows up to MR, compiled for each so that no sum is wasted.
   Plain numbers come in, no struct: a struct passed by value is stored in two halves and loaded as
   a whole, which waits until every store before it is through: all those of the last tile of C,
   on their way to L3 (16 % of the time of (768, 512, 128)). */
#define ROWS(n)                                                                                    \
    case n:                                                                                        \
        if (a_row == 1)                                                                            \
            matmul_tile(n <= MR ? n : MR, K, a, 1, a_col, b, b_row, columns, to);                  \
        else                                                                                       \
            matmul_tile(n <= MR ? n : MR, K, a, a_row, 1, b, b_row, columns, to);                  \
        break;
LOCAL void matmul_rows(int64_t rows, int64_t K, const float *a, int64_t a_row, int64_t a_col,
                       const float *b, int64_t b_row, int64_t columns, const struct result *to) {
    switch (rows) {
        ROWS(1)
        ROWS(2)
        ROWS(3)
        ROWS(4)
        ROWS(5)
        ROWS(6)
#if ML_MR > 6
        ROWS(7) ROWS(8) ROWS(9) ROWS(10) ROWS(11) ROWS(12) ROWS(13) ROWS(14)
#endif
    }
}
#undef ROWS

/* Panels of `step` columns, each K x width and contiguous, one after the other: panel p is
   out[p * K * width + k * width + j] = in[k * in_row + (p * step + j) * in_col], k < K, j < width;
   0 where p * step + j is not below n. One of the strides is 1; width is a multiple of LANES. */
INLINE void matmul_pack(int64_t K, int64_t n, int64_t step, int64_t width, const float *in,
                        int64_t in_row, int64_t in_col, float *out) {
    enum { PREFETCH_ROWS = 16 }; /* the processor does not foresee a new page with every row */
    if (in_col == 1) {
        for (int64_t k = 0; k < K; ++k) {
            float *o = out + k * width;
            for (int64_t p = 0; p < n; p += step, o += K * width)
                for (int64_t j = 0; j < width; j += LANES) {
                    const int64_t left = n - p - j;
                    __builtin_prefetch(in + (k + PREFETCH_ROWS) * in_row + p + j);
                    store(o + j, left > 0 ? load_upto(in + k * in_row + p + j, left, 0) : splat(0));
                }
        }
        return;
    }
    for (int64_t p = 0; p < n; p += step, out += K * width)
        for (int64_t k = 0; k < K; k += LANES)
            for (int64_t j = 0; j < width; j += LANES) {
                vec rows[LANES];
#pragma GCC unroll 16
                for (int i = 0; i < LANES; ++i) {
                    const float *row = in + (p + j + i) * in_col + k;
                    __builtin_prefetch(row + step * in_col);
                    rows[i] = p + j + i < n ? load_upto(row, K - k, 0) : splat(0);
                }
                transpose(rows);
                float *o = out + k * width + j;
#pragma GCC unroll 16
                for (int i = 0; i < LANES; ++i)
                    if (k + i < K) store(o + i * width, rows[i]);
            }
}

/* A K x N block of B, K <= KC. Four panels at a time: their columns are 8 cache lines of a row,
   which come sooner than 2; with more panels the places written to would drive each other out of
   L1. */
LOCAL void matmul_pack_b(int64_t K, int64_t N, struct matrix b, float *packed) {
    for (int64_t j = 0; j < N; j += 4 * NR)
        matmul_pack(K, min(4 * NR, N - j), NR, NR, b.data + j * b.col, b.row, b.col,
                    packed + j * K);
}

/* Tiles of M rows of A, each `height` rows in a panel for WIDTH: whole vectors are stored. */
enum { WIDTH = (MR + LANES - 1) / LANES * LANES };
LOCAL void matmul_pack_a(int64_t M, int64_t height, int64_t K, struct matrix a, float *packed) {
    matmul_pack(K, M, height, WIDTH, a.data, a.col, a.row, packed);
}

/* What is left to do with rows of C whose sums are complete, while they are in L1; `more` is the
   sum over the other half of K, or NULL. */
LOCAL void matmul_finish(int64_t rows, int64_t columns, struct result to, const float *more) {
    for (int64_t i = 0; i < rows; ++i) {
        float *c = to.c + i * to.row;
        for (int64_t j = 0; j < columns && more; j += LANES) {
            const int64_t n = columns - j;
            store_upto(c + j, n, load_upto(c + j, n, 0) + load_upto(more + i * to.row + j, n, 0));
        }
        if (to.slope) (to.tanh_form ? gelu_tanh : gelu_exact)(columns, c, c, to.slope + i * to.row);
        if (to.times) gelu_vjp(columns, to.times + i * to.row, c, c);
    }
}

/* A packed block of B: panel j / NR starts at column j, its rows are NR apart. */
LOCAL struct matrix matmul_panels(int64_t K, const float *packed) {
    return (struct matrix){packed, NR, K};
}

/* M rows of C, for K <= KC, in tiles of `height` rows. `to` starts at the first of the columns; b
   is packed, or stands as it is in whole panels; `packed_a`: TILES x WIDTH x KC floats. A is packed
   tile by tile, or, where its rows are columns in memory, TILES at a time: their floats of one k
   stand together, in cache lines that would be gone when the next tile came. Where they are few
   they stand as if packed. */
LOCAL void matmul_tiles(int64_t M, int64_t height, int64_t columns, int64_t K, struct matrix a,
                        struct matrix b, struct result to, bool finish, float *packed_a) {
    const bool transposed = a.row == 1;
    const bool pack = transposed ? a.col > NARROW && columns >= PACK_TRANSPOSED_A_FROM * NR
                                 : columns >= PACK_A_FROM * NR;
    const int64_t together = transposed ? TILES : 1;
    for (int64_t i = 0, tile = 0; i < M; i += height, tile = (tile + 1) % together) {
        const int64_t rows = min(height, M - i);
        struct matrix at = block(a, i, 0);
        if (pack && tile == 0)
            matmul_pack_a(min(together * height, M - i), height, K, at, packed_a);
        if (pack) at = (struct matrix){packed_a + tile * WIDTH * K, 1, WIDTH};
        for (int64_t j = 0; j < columns; j += NR) {
            const struct result c = result_at(to, i, j);
            matmul_rows(rows, K, at.data, at.row, at.col, b.data + j * b.col, b.row,
                        min(NR, columns - j), &c);
        }
        if (finish) matmul_finish(rows, columns, result_at(to, i, 0), NULL);
    }
}

/* C = A B, finished as `to` says, on one thread. B is packed unless its panels are whole and meet
   few rows only. `scratch`: MATMUL_SCRATCH floats, aligned to 64 bytes. */
LOCAL void matmul_simd(int64_t M, int64_t N, int64_t K, struct matrix a, struct matrix b,
                       struct result to, float *scratch) {
    const int64_t slices = slices_of(K), blocks = blocks_of(N, K);
    const bool in_place = b.col == 1 && N % NR == 0 && M <= IN_PLACE_ROWS;
    for (int64_t slice = 0; slice < slices; ++slice, to.add = to.c, to.add_row = to.row) {
        const int64_t k = part(K, slices, slice), kc = part(K, slices, slice + 1) - k;
        for (int64_t i = 0; i < blocks; ++i) {
            const int64_t j = block_start(N, blocks, NR, i);
            const int64_t columns = block_start(N, blocks, NR, i + 1) - j;
            struct matrix bj = block(b, k, j);
            if (!in_place) matmul_pack_b(kc, columns, bj, scratch);
            if (!in_place) bj = matmul_panels(kc, scratch);
            matmul_tiles(M, tile_height(M, MR), columns, kc, block(a, 0, k), bj,
                         result_at(to, 0, j), slice == slices - 1, scratch + KC * NC);
        }
    }
}
