/* Three loops that want nothing but to keep the machine busy: what they reach is the roof over what
   any kernel can reach. They repeat in here, so that a call's overhead does not show on 24 KB.
     roof_fma    a = a x + c in as many registers as a product has for its tile: with 2 MR chains
                 neither the latency (4 cycles or so) nor the two units of a core (ARM: four) keep
                 each other waiting; 4 MR LANES FLOP a round
     roof_read   the sum of n floats; 4 n bytes a pass. From four places at a time, as kernels read
                 several arrays: 12 GB/s from DRAM where one stream got 10, no less from the caches
     roof_copy   y = x; 8 n bytes a pass, what the loop reads and what it writes. A cache that
                 fetches a line before it is written to moves 12 n. So it is for the results of the
                 kernels, which are ordinary stores like these and not streaming ones.
   Specification: minillm/kernels/roof.py   Source: McCalpin 1995, STREAM; Williams, Waterman and
   Patterson 2009, Roofline, doi:10.1145/1498765.1498785. */

enum { CHAINS = 2 * ML_MR };                       /* 12 of 16 registers, 28 of 32 */
enum { STREAMS = 4, AHEAD = 4, SUMS = ML_MR + 2 }; /* 8 of 16 registers, 16 of 32 */
enum { STEP = AHEAD * LANES };                     /* floats from each stream at a time */

/* x and c come from outside: a compiler that knew them could work out the result. */
LOCAL int64_t roof_fma(int64_t rounds, float x, float c, float *sum) {
    const vec vx = splat(x), vc = splat(c);
    vec a[CHAINS], total = splat(0);
    for (int i = 0; i < CHAINS; ++i) a[i] = splat((float)i); /* equal chains would become one */
    for (int64_t round = 0; round < rounds; ++round)
#pragma GCC unroll 28
        for (int i = 0; i < CHAINS; ++i) a[i] = a[i] * vx + vc;
    for (int i = 0; i < CHAINS; ++i) total += a[i];
    *sum = sum_lanes(total);
    return 2 * rounds * CHAINS * LANES;
}

/* The sums are carried from pass to pass: no pass can be left out. */
LOCAL float roof_read(int64_t n, const float *x, int64_t passes) {
    const int64_t stream = n / (STREAMS * STEP) * STEP;
    vec sums[SUMS] = {0};
    for (int64_t pass = 0; pass < passes; ++pass) {
        for (int64_t i = 0; i < stream; i += STEP)
#pragma GCC unroll 16
            for (int k = 0; k < STREAMS * AHEAD; ++k)
                sums[k % SUMS] += load(x + k / AHEAD * stream + i + k % AHEAD * LANES);
        for (int64_t i = STREAMS * stream; i < n; i += LANES) sums[0] += load_upto(x + i, n - i, 0);
    }
#pragma GCC unroll 16
    for (int k = 1; k < SUMS; ++k) sums[0] += sums[k]; /* unrolled: else sums live in memory */
    return sum_lanes(sums[0]);
}

LOCAL void roof_copy(int64_t n, const float *restrict x, float *restrict y, int64_t passes) {
    for (int64_t pass = 0; pass < passes; ++pass) {
        int64_t i = 0;
        for (; i + STEP <= n; i += STEP) {
#pragma GCC unroll 4
            for (int k = 0; k < AHEAD; ++k) store(y + i + k * LANES, load(x + i + k * LANES));
            /* Else the loop becomes a call of memcpy, and all passes but one may disappear. */
            __asm__ volatile("" ::: "memory");
        }
        for (; i < n; i += LANES) store_upto(y + i, n - i, load_upto(x + i, n - i, 0));
    }
}
