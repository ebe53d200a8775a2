/* The vector vocabulary that every kernel is written in.

   `vec` holds LANES floats and takes part in ordinary arithmetic: with GNU vector extensions
   `acc += a * b` is one fused multiply-add where the target has it. A target (targets/avx2.c, ...)
   defines LANES before it includes this file, so each kernel is compiled once per target.

   Comparisons give an `ivec` of all ones (true) or zeros (false) in each lane; `pick` selects by
   it. */

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));

#define INLINE static inline __attribute__((always_inline, unused))
#define LOCAL static __attribute__((unused)) /* a target need not call every function */

INLINE vec load(const float *p) {
    vec v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE void store(float *p, vec v) { memcpy(p, &v, sizeof v); }

INLINE vec splat(float x) { return x - (vec){0}; } /* x - 0 keeps the sign of -0 */

INLINE ivec isplat(int32_t x) { return x - (ivec){0}; }

INLINE vec pick(ivec mask, vec yes, vec no) {
    return (vec)((mask & (ivec)yes) | (~mask & (ivec)no));
}

/* 0, 1, 2, ...: the lane numbers. */
INLINE ivec lane_numbers(void) {
    ivec n;
    for (int i = 0; i < LANES; ++i) n[i] = i;
    return n;
}

/* The first n < LANES elements; the other lanes are `fill`. Never touches memory past p + n. */
INLINE vec load_first(const float *p, int64_t n, float fill) {
#if LANES == 16
    return _mm512_mask_loadu_ps(splat(fill), (__mmask16)((1u << n) - 1), p);
#elif LANES == 8
    ivec mask = lane_numbers() < isplat((int32_t)n);
    return pick(mask, (vec)_mm256_maskload_ps(p, (__m256i)mask), splat(fill));
#else
    vec v = splat(fill);
    for (int64_t i = 0; i < n; ++i) v[i] = p[i];
    return v;
#endif
}

INLINE void store_first(float *p, int64_t n, vec v) {
#if LANES == 16
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), v);
#elif LANES == 8
    _mm256_maskstore_ps(p, (__m256i)(lane_numbers() < isplat((int32_t)n)), v);
#else
    for (int64_t i = 0; i < n; ++i) p[i] = v[i];
#endif
}

/* LANES / 2 floats as doubles, which fill a vector as well. Without the intrinsic gcc converts
   by parts of it: the sum of 3 MB of squares then reads 36 GB/s on two cores, not 51. */
typedef double dvec __attribute__((vector_size(4 * LANES)));
INLINE dvec load_doubles(const float *p) {
#if LANES == 16
    return (dvec)_mm512_cvtps_pd(_mm256_loadu_ps(p));
#elif LANES == 8
    return (dvec)_mm256_cvtps_pd(_mm_loadu_ps(p));
#else
    return (dvec){p[0], p[1]};
#endif
}

/* Load or store at most LANES elements: the loop `for (j = 0; j < n; j += LANES)` needs no tail. */
INLINE vec load_upto(const float *p, int64_t n, float fill) {
    return n >= LANES ? load(p) : load_first(p, n, fill);
}

INLINE void store_upto(float *p, int64_t n, vec v) {
    if (n >= LANES)
        store(p, v);
    else
        store_first(p, n, v);
}

/* sum + b a[0], with a[0] broadcast on its way from memory: one instruction for the processor's
   front end where splat and multiply-add are two. Pays for some of a tile's factors, not for all
   (each is then loaded once a vector, and two loads a cycle are the limit). */
INLINE vec add_product(vec sum, vec b, const float *a) {
#if LANES == 16
    asm("vfmadd231ps %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(b), "m"(*a));
    return sum;
#else
    return sum + splat(*a) * b;
#endif
}

/* Store past the caches, without first fetching the line that is overwritten. p stands on a
   boundary of sizeof v; other threads see the value after stream_end. */
INLINE void stream(float *p, vec v) {
#if LANES == 16
    _mm512_stream_ps(p, (__m512)v);
#elif LANES == 8
    _mm256_stream_ps(p, (__m256)v);
#else
    store(p, v);
#endif
}

INLINE void stream_end(void) {
#if LANES >= 8
    _mm_sfence();
#endif
}

/* a > b ? a : b and a < b ? a : b in each lane; where one is NaN, b. */
INLINE vec vmax(vec a, vec b) {
#if LANES == 16
    return (vec)_mm512_max_ps((__m512)a, (__m512)b);
#elif LANES == 8
    return (vec)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return pick(a > b, a, b);
#endif
}

INLINE vec vmin(vec a, vec b) {
#if LANES == 16
    return (vec)_mm512_min_ps((__m512)a, (__m512)b);
#elif LANES == 8
    return (vec)_mm256_min_ps((__m256)a, (__m256)b);
#else
    return pick(a < b, a, b);
#endif
}

/* v with its lanes moved down by `by`, round the end: lane i holds what lane i + by held. */
INLINE vec rotate(vec v, int by) {
    const ivec from = (lane_numbers() + by) & (LANES - 1);
#if defined(__clang__)
    vec r;
    for (int i = 0; i < LANES; ++i) r[i] = v[from[i]];
    return r;
#else
    return __builtin_shuffle(v, from);
#endif
}

/* Folds over the lanes: halves onto each other, always in the same order. */
INLINE float sum_lanes(vec v) {
#pragma GCC unroll 4
    for (int half = LANES / 2; half; half /= 2) v += rotate(v, half);
    return v[0];
}

INLINE float max_lanes(vec v) {
#pragma GCC unroll 4
    for (int half = LANES / 2; half; half /= 2) v = vmax(v, rotate(v, half));
    return v[0];
}

/* p(x) = c[0] x^(n-1) + ... + c[n-1], by Horner's rule. */
INLINE vec polynomial(vec x, const float *c, int n) {
    vec p = splat(c[0]);
#pragma GCC unroll 16
    for (int i = 1; i < n; ++i) p = p * x + splat(c[i]);
    return p;
}

#define ROUND 12582912.0f /* 1.5 * 2^23: adding it leaves an integer in the low bits */

/* p 2^n for an integer n in -150 ... 128, rounded once where the result is subnormal; but 0 where
   x < -104. */
INLINE vec times_power_of_two(vec p, vec n, vec x) {
#if LANES == 16 /* one instruction, and one for the mask */
    const __mmask16 alive = _mm512_cmp_ps_mask((__m512)x, (__m512)splat(-104), _CMP_NLT_UQ);
    return (vec)_mm512_maskz_scalef_ps(alive, (__m512)p, (__m512)n);
#else
    const ivec alive = ~(x < splat(-104)); /* a NaN is alive */
    const ivec k = ((ivec)(n + splat(ROUND)) - (ivec)splat(ROUND)) & alive, half = k >> 1;
    p = p * (vec)((half + 127) << 23) * (vec)((k - half + 127) << 23);
    return (vec)((ivec)p & alive);
#endif
}

/* e^x = 2^n e^r with n = round(x / ln 2) and |r| <= ln 2 / 2. Within 2 ULP over every float,
   results below FLT_MIN included. NaN gives NaN. Below -104, where e^x rounds to 0, nothing is
   scaled: x86 takes a detour through microcode for a subnormal result, and tails are full of them
   (one head of attention, (64, 64, 32): 10.8 us instead of 16.6).
   Source: Cody and Waite 1980, chapter 6; the polynomial is a minimax fit of (e^r - 1 - r) / r^2.
 */
INLINE vec vexp(vec x) {
    x = vmin(splat(89.0f), x); /* e^89 overflows; a NaN passes */
    const vec n = (x * splat(1.44269504f) + splat(ROUND)) - splat(ROUND);
    vec r = x - n * splat(0.693145752f); /* ln 2 in two parts: n times the first is exact */
    r -= n * splat(1.42860677e-6f);
    const float c[] = {0x1.6db426p-10f, 0x1.123b56p-7f, 0x1.55545ep-5f, 0x1.55548ep-3f, 0x1.0p-1f};
    return times_power_of_two(polynomial(r, c, 5) * r * r + r + splat(1.0f), n, x);
}

/* tanh x = x + x^3 p(x^2) for |x| < 0.625, else sign(x) (1 - 2 / (e^2|x| + 1)). Within 2 ULP. */
INLINE vec vtanh(vec x) {
    const ivec sign = isplat(INT32_MIN);
    vec a = (vec)((ivec)x & ~sign), s = x * x;
    const float c[] = {-0x1.76abf6p-8f, 0x1.5256cep-6f, -0x1.b84448p-5f, 0x1.110768p-3f,
                       -0x1.555534p-2f};
    vec small = x + x * s * polynomial(s, c, 5);
    vec large = splat(1.0f) - splat(2.0f) / (vexp(a + a) + splat(1.0f));
    large = (vec)((ivec)large | ((ivec)x & sign));
    return pick(a < splat(0.625f), small, large);
}

/* Weave two vectors: a0 b0 a1 b1 ... from their low or their high halves. */
#if defined(__clang__)
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (ivec){__VA_ARGS__})
#endif
#if LANES == 16
#define WEAVE_LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define WEAVE_HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif LANES == 8
#define WEAVE_LOW 0, 8, 1, 9, 2, 10, 3, 11
#define WEAVE_HIGH 4, 12, 5, 13, 6, 14, 7, 15
#else
#define WEAVE_LOW 0, 4, 1, 5
#define WEAVE_HIGH 2, 6, 3, 7
#endif

/* Transpose a LANES x LANES block in registers: weaving row i with row i + LANES/2, log2(LANES)
   times, is a transpose (each round rotates the bits of the element's index by one place). */
INLINE void transpose(vec rows[LANES]) {
#pragma GCC unroll 4
    for (int round = 1; round < LANES; round *= 2) {
        vec woven[LANES];
#pragma GCC unroll 8
        for (int i = 0; i < LANES / 2; ++i) {
            woven[2 * i] = SHUFFLE(rows[i], rows[i + LANES / 2], WEAVE_LOW);
            woven[2 * i + 1] = SHUFFLE(rows[i], rows[i + LANES / 2], WEAVE_HIGH);
        }
        memcpy(rows, woven, sizeof woven);
    }
}

/* The sum of the lanes of each row, as one vector: the same weaving, but both halves are added at
   once, so that each round leaves half the rows. */
INLINE vec sum_rows(vec rows[LANES]) {
#pragma GCC unroll 4
    for (int half = LANES / 2; half; half /= 2)
#pragma GCC unroll 8
        for (int i = 0; i < half; ++i)
            rows[i] = SHUFFLE(rows[i], rows[i + half], WEAVE_LOW) +
                      SHUFFLE(rows[i], rows[i + half], WEAVE_HIGH);
    return rows[0];
}
