/* The next token: the first at which the sum of e^((x - max x) / temperature), over the top_k
   likeliest and whatever ties with the last of them, exceeds u of the whole.
   In doubles, and each term twice rather than kept. Specification: minillm/kernels/draw.py */
#include <math.h>
#include <stdint.h>
#include <string.h>
#include "api.h"

/* Floats in their order are integers in theirs, once all bits of the negative but the sign turn. */
static int32_t turned(int32_t bits) { return bits ^ (bits >> 31 & INT32_MAX); }
static int32_t integer_of(float x) {
    int32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return turned(bits);
}
static float float_of(int32_t integer) {
    float x;
    const int32_t bits = turned(integer);
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* The largest float that k of x reach, by halving the range: one look at all of x for each of 32
   bits, and no sorting. */
static float kth_largest(int64_t n, const float *x, int64_t k) {
    int64_t low = integer_of(-INFINITY), high = integer_of(INFINITY);
    while (low < high) {
        const int64_t middle = high - (high - low) / 2;
        const float bound = float_of((int32_t)middle);
        int32_t count = 0;
        for (int64_t i = 0; i < n; ++i) count += x[i] >= bound;
        if (count >= k)
            low = middle;
        else
            high = middle - 1;
    }
    return float_of((int32_t)low);
}

int64_t ml_draw(int64_t n, const float *x, double temperature, int64_t top_k, double u) {
    const float least = top_k < n ? kth_largest(n, x, top_k) : -INFINITY;
    double most = -INFINITY, whole = 0, sum = 0;
    for (int64_t i = 0; i < n; ++i) most = x[i] > most ? x[i] : most;
    for (int64_t i = 0; i < n; ++i)
        if (x[i] >= least) whole += exp((x[i] - most) / temperature);
    for (int64_t i = 0; i < n; ++i) {
        if (x[i] >= least) sum += exp((x[i] - most) / temperature);
        if (sum > u * whole) return i;
    }
    return n - 1; /* there was a NaN */
}
