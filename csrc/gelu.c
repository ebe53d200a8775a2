/* gelu(x) = x Phi(x), Phi the normal distribution function, exactly or by its tanh approximation
   Phi(x) ~ (1 + tanh u) / 2 = 1 / (1 + exp(-2u)),  u = sqrt(2/pi) (x + 0.044715 x^3).
   About 35 FLOP an element, 8 bytes forward, 12 backward (x is read again, nothing is saved).
   Specification: minillm/kernels/gelu.py   Source: Hendrycks and Gimpel 2016, arXiv:1606.08415. */

/* Phi(x), and exp(-x^2/2) as a by-product. For a = |x| the tail is 1 - Phi(a) = exp(-a^2/2) t P(t),
   t = 1 / (1 + 0.33 a): a minimax fit of the Mills ratio, relative error 5e-8. */
INLINE vec normal_cdf(vec x, vec *bell) {
    const vec a = (vec)((ivec)x & isplat(INT32_MAX));
    const vec t = splat(1.0f) / (splat(1.0f) + splat(0.33f) * a);
    const float c[] = {-0x1.5b115ep-6f, 0x1.ff76c8p-4f,  -0x1.154b8ep-2f, 0x1.d445b6p-3f, -0x1.e519fep-5f,
                       0x1.f77f98p-4f,  0x1.c5d07cp-4f,  0x1.0f07cap-3f,  0x1.0d8edcp-3f};
    *bell = vexp(splat(-0.5f) * a * a);
    const vec tail = *bell * t * polynomial(t, c, 9);
    return pick(x < splat(0), tail, splat(1.0f) - tail);
}

#define ROOT_2_OVER_PI 0.797884561f
#define ONE_OVER_ROOT_2PI 0.398942280f

INLINE vec tanh_cdf(vec x) {
    const vec u = splat(ROOT_2_OVER_PI) * (x + splat(0.044715f) * x * x * x);
    return splat(1.0f) / (splat(1.0f) + vexp(splat(-2.0f) * u));
}

/* x Phi(x), but 0 rather than -inf * 0 far out on the left. */
INLINE vec times_cdf(vec x, vec cdf) { return pick(x == splat(-INFINITY), splat(-0.0f), x * cdf); }

LOCAL void gelu(int64_t n, const float *x, float *y, bool tanh_form) {
    for (int64_t j = 0; j < n; j += LANES) {
        const vec xj = load_upto(x + j, n - j, 0);
        vec bell;
        store_upto(y + j, n - j, times_cdf(xj, tanh_form ? tanh_cdf(xj) : normal_cdf(xj, &bell)));
    }
}

/* dx = dy (Phi(x) + x Phi'(x)); Phi' = exp(-x^2/2) / sqrt(2 pi), or Phi (1 - Phi) 2 u' for tanh. */
LOCAL void gelu_vjp(int64_t n, const float *x, const float *dy, float *dx, bool tanh_form) {
    for (int64_t j = 0; j < n; j += LANES) {
        const vec xj = load_upto(x + j, n - j, 0);
        vec cdf, density;
        if (tanh_form) {
            const vec slope = splat(2 * ROOT_2_OVER_PI) * (splat(1.0f) + splat(3 * 0.044715f) * xj * xj);
            cdf = tanh_cdf(xj);
            density = cdf * (splat(1.0f) - cdf) * slope;
        } else {
            cdf = normal_cdf(xj, &density);
            density *= splat(ONE_OVER_ROOT_2PI);
        }
        const vec bend = pick(density == splat(0), splat(0), xj * density); /* not inf * 0 */
        store_upto(dx + j, n - j, load_upto(dy + j, n - j, 0) * (cdf + bend));
    }
}
