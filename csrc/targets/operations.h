/* Every operation, compiled for the target whose file includes this one inside its region.
   The target has defined ML_TABLE (the name of its table), ML_NAME, LANES and ML_MR. */
#include "../simd.h"

#include "../gelu.c"
#include "../matmul.c"
#include "../matvec.c"
#include "../softmax.c"
#include "../layer_norm.c"
#include "../cross_entropy.c"
#include "../attention.c"
#include "../embedding.c"
#include "../optimizer.c"
#include "../roof.c"

/* exp and tanh alone, so that a test can hold them to their bound over every float. */
LOCAL void map(int64_t n, int function, const float *x, float *y) {
    for (int64_t j = 0; j < n; j += LANES) {
        const vec v = load_upto(x + j, n - j, 0);
        store_upto(y + j, n - j, function ? vtanh(v) : vexp(v));
    }
}

const struct table ML_TABLE = {
    .name = ML_NAME,
    .matmul = {matmul_naive, matmul_reordered, matmul_tiled},
    .matmul_simd = matmul_simd,
    .matmul_pack_b = matmul_pack_b,
    .matmul_tiles = matmul_tiles,
    .matmul_finish = matmul_finish,
    .matvec = matvec,
    .vecmat = vecmat,
    .MR = MR,
    .NR = NR,
    .softmax = {softmax_naive, softmax_simd},
    .softmax_rows = softmax_rows,
    .softmax_vjp = {softmax_vjp_naive, softmax_vjp_simd},
    .layer_norm = layer_norm,
    .layer_norm_vjp = layer_norm_vjp,
    .gelu = {gelu_exact, gelu_tanh},
    .gelu_vjp = gelu_vjp,
    .cross_entropy = cross_entropy,
    .cross_entropy_vjp = cross_entropy_vjp,
    .attention = attention,
    .attention_vjp = attention_vjp,
    .embedding_vjp = embedding_vjp,
    .adamw = adamw,
    .sum_squares = sum_squares,
    .row_scale = row_scale,
    .map = map,
    .roof_fma = roof_fma,
    .roof_read = roof_read,
    .roof_copy = roof_copy,
};
