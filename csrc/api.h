/* The C interface, also the text that cffi reads: plain declarations, no preprocessor. Arrays are
   float32 and contiguous along their last axis; sizes and strides count elements. Nothing is
   checked here: minillm/kernels/_cffi.py does that. `threads` is the most that may take part; the
   result does not depend on it. */

const char *
ml_target_name(int i); /* the i-th target this CPU can run, widest first; NULL past them */
int ml_set_target(const char *name); /* 1, or 0 where there is no such target or the CPU lacks it */
const char *ml_get_target(void);
const char *ml_compiler(void);
int ml_openmp(void); /* the OpenMP version the kernels were built with, such as 201511; 0 without */
void ml_keep_memory(void); /* ask malloc to keep freed memory for the next step; glibc only */
int ml_count_threads(int threads); /* how many threads a parallel region of `threads` really gets */

/* c[i] = a[i] b[i] for each i < batch; a[i] starts at a + a_at[i], and so on; NULL means 0.
   rung: 0 naive, 1 reordered, 2 tiled, 3 simd (and parallel, with threads > 1). Rung 3 then takes
   what is not NULL: c += add (rows add_row apart), c *= times, slope = gelu'(c) and c = gelu(c). */
void ml_matmul(int rung, int64_t batch, int64_t M, int64_t N, int64_t K, const float *a,
               const int64_t *a_at, int64_t a_row, int64_t a_col, const float *b,
               const int64_t *b_at, int64_t b_row, int64_t b_col, float *c, const float *add,
               int64_t add_row, const float *times, float *slope, int tanh_form, int threads);

/* Over rows of n. rung: 0 naive, 1 simd. With causal > 0 row r sees r % causal + 1 + (n - causal)
   entries: the rows are those of (causal, n) score matrices. */
void ml_softmax(int rung, int64_t rows, int64_t n, int64_t causal, const float *x, float *y,
                int threads);
void ml_softmax_vjp(int rung, int64_t rows, int64_t n, const float *y, const float *dy, float *dx,
                    int threads);

void ml_layer_norm(int64_t rows, int64_t n, const float *x, const float *weight, const float *bias,
                   float eps, float *y, float *mean, float *rstd, int threads);
int64_t ml_layer_norm_chunks(int64_t rows);
/* dx += add unless that is NULL. dweight and dbias: (chunks, n), zeroed; their first rows hold the
   results. */
void ml_layer_norm_vjp(int64_t rows, int64_t n, const float *x, const float *weight,
                       const float *mean, const float *rstd, const float *dy, const float *add,
                       float *dx, float *dweight, float *dbias, int threads);

void ml_gelu(int64_t n, const float *x, float *y, float *slope, int tanh_form, int threads);
void ml_gelu_vjp(int64_t n, const float *slope, const float *dy, float *dx, int threads);

/* strides: (batch, head, row) of q, k, v, o, in this order; lse: (B, H, T). */
void ml_attention(int64_t B, int64_t H, int64_t T, int64_t S, int64_t D, float scale, int causal,
                  const float *q, const float *k, const float *v, float *o, const int64_t *strides,
                  float *lse, int threads);
/* strides: of q, k, v, o, do, dq, dk, dv. */
void ml_attention_vjp(int64_t B, int64_t H, int64_t T, int64_t S, int64_t D, float scale,
                      int causal, const float *q, const float *k, const float *v, const float *o,
                      const float *grad, const float *lse, float *dq, float *dk, float *dv,
                      const int64_t *strides, int threads);

/* A row whose target is `ignored` gets loss 0 and gradient 0. */
void ml_cross_entropy(int64_t rows, int64_t n, const float *x, const int64_t *targets,
                      int64_t ignored, float smoothing, float *loss, float *lse, int threads);
void ml_cross_entropy_vjp(int64_t rows, int64_t n, const float *x, const int64_t *targets,
                          int64_t ignored, float smoothing, const float *lse, const float *g,
                          float *dx, int threads);

void ml_embedding_vjp(int64_t tokens, int64_t n, const int64_t *ids, const float *dy,
                      float *dweight, int threads);

/* Over the elements of `count` arrays, of which number i has n[i]. */
void ml_adamw(int64_t count, const int64_t *n, float *const *p, const float *const *g,
              float *const *m, float *const *v, const float *decay, float lr, double beta1,
              double beta2, float eps, float c1, float c2, int threads);
double ml_sum_squares(int64_t count, const int64_t *n, const float *const *x, int threads);
void ml_scale(int64_t count, const int64_t *n, float *const *x, float factor, int threads);

void ml_map(int64_t n, int function, const float *x, float *y); /* 0 exp, 1 tanh */

/* One token more through a GPT: see decode.c. weights: for each layer norm, qkv, proj, norm, fc and
   proj, each a matrix or gain and then a bias or NULL; then the last norm and the head.
   caches: (B, n_head, size, D) keys and values of each layer, of which `length` tokens are there.
 */
int64_t ml_decode_work(int64_t B, int64_t C, int64_t H, int64_t size, int threads);
void ml_decode(int64_t layers, int64_t B, int64_t C, int64_t H, int64_t V, int64_t n_head,
               int64_t size, int64_t length, float eps, const float *const *weights,
               float *const *caches, float *x, float *logits, float *work, int threads);

int64_t ml_draw(int64_t n, const float *x, double temperature, int64_t top_k, double u);

/* The machine's roofs: thread i works on row i of n floats, `passes` times. sums: (threads). */
int64_t ml_roof_fma(int64_t rounds, float x, float c, float *sums, int threads); /* FLOP done */
void ml_roof_read(int64_t n, const float *x, int64_t row, int64_t passes, float *sums, int threads);
void ml_roof_copy(int64_t n, const float *x, int64_t x_row, float *y, int64_t y_row, int64_t passes,
                  int threads);
