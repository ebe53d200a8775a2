/* gelu(x) = x Phi(x), Phi the normal distribution function, exactly or by its tanh approximation
   Phi(x) ~ (1 + tanh u) / 2 = 1 / (1 + exp(-2u)),  u = sqrt(2/pi) (x + 0.044715 x^3).
   Forward also gives the slope Phi(x) + x Phi'(x): it costs two more multiplications while the
   exponential is at hand, and backward is then one. Kept for backward is the slope instead of x.
   About 45 FLOP and 12 bytes an element forward, 1 FLOP and 12 bytes backward.
   Specification: minillm/kernels/gelu.py   Source: Hendrycks and Gimpel 2016, arXiv:1606.08415. */

/* Phi(x), and exp(-x^2/2) as a by-product. For a = |x| the tail is 1 - Phi(a) = exp(-a^2/2) t P(t),
   t = 1 / (1 + 0.33 a): a minimax fit of the Mills ratio, relative error 5e-8. */
INLINE vec normal_cdf(vec x, vec *bell) {
    const vec a = (vec)((ivec)x & isplat(INT32_MAX));
    const vec t = splat(1.0f) / (splat(1.0f) + splat(0.33f) * a);
    const float c[] = {-0x1.5b115ep-6f, 0x1.ff76c8p-4f,  -0x1.154b8ep-2f,
                       0x1.d445b6p-3f,  -0x1.e519fep-5f, 0x1.f77f98p-4f,
                       0x1.c5d07cp-4f,  0x1.0f07cap-3f,  0x1.0d8edcp-3f};
    *bell = vexp(splat(-0.5f) * a * a);
    const vec tail = *bell * t * polynomial(t, c, 9);
    return pick(x < splat(0), tail, splat(1.0f) - tail);
}

#define ROOT_2_OVER_PI 0.797884561f
#define ONE_OVER_ROOT_2PI 0.398942280f

LOCAL void gelu_exact(int64_t n, const float *x, float *y, float *slope) {
    for (int64_t j = 0; j < n; j += LANES) {
        const vec xj = load_upto(x + j, n - j, 0);
        vec bell;
        const vec cdf = normal_cdf(xj, &bell);
        store_upto(y + j, n - j, xj * cdf);
        store_upto(slope + j, n - j, cdf + xj * bell * splat(ONE_OVER_ROOT_2PI));
    }
}

/* Phi = 1 / (1 + e^-2u) has Phi' = Phi (1 - Phi) 2 u'. */
LOCAL void gelu_tanh(int64_t n, const float *x, float *y, float *slope) {
    for (int64_t j = 0; j < n; j += LANES) {
        const vec xj = load_upto(x + j, n - j, 0), cubic = splat(0.044715f) * xj * xj;
        const vec two_u = splat(2 * ROOT_2_OVER_PI) * xj * (splat(1.0f) + cubic);
        const vec two_du = splat(2 * ROOT_2_OVER_PI) * (splat(1.0f) + splat(3.0f) * cubic);
        const vec e = vexp(-two_u), cdf = splat(1.0f) / (splat(1.0f) + e);
        store_upto(y + j, n - j, xj * cdf);
        const vec rest = pick(cdf == splat(0), splat(1.0f), e * cdf); /* 1 - Phi; not inf * 0 */
        store_upto(slope + j, n - j, cdf + xj * cdf * rest * two_du);
    }
}

/* dx = dy slope; dx and dy may be the same memory. */
LOCAL void gelu_vjp(int64_t n, const float *slope, const float *dy, float *dx) {
    for (int64_t j = 0; j < n; j += LANES)
        store_upto(dx + j, n - j, load_upto(dy + j, n - j, 0) * load_upto(slope + j, n - j, 0));
}
