/* Which target runs: the widest that this CPU has, found on first use, or the one asked for. */
#include "table.h"
#include "api.h"

#if defined(__x86_64__)
static const struct table *const targets[] = {&ml_avx512, &ml_avx2, &ml_baseline};
#elif defined(__aarch64__)
static const struct table *const targets[] = {&ml_neon, &ml_baseline};
#else
static const struct table *const targets[] = {&ml_baseline};
#endif
enum { N_TARGETS = sizeof targets / sizeof *targets };

static const struct table *active; /* the only mutable global: two threads store the same value */

static bool cpu_has(const char *name) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!strcmp(name, "avx2"))
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (!strcmp(name, "avx512"))
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
               __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
#endif
    (void)name;
    return true;
}

const char *ml_target_name(int i) {
    for (int t = 0; t < N_TARGETS; ++t)
        if (cpu_has(targets[t]->name) && i-- == 0) return targets[t]->name;
    return NULL;
}

int ml_set_target(const char *name) {
    for (int t = 0; t < N_TARGETS; ++t)
        if (!strcmp(name, targets[t]->name) && cpu_has(name)) {
            active = targets[t];
            return 1;
        }
    return 0;
}

const struct table *ml_active(void) {
    if (!active) ml_set_target(ml_target_name(0));
    return active;
}

const char *ml_get_target(void) { return ml_active()->name; }

const char *ml_compiler(void) {
#if defined(__clang__)
    return "clang " __clang_version__;
#else
    return "gcc " __VERSION__;
#endif
}

int ml_openmp(void) {
#ifdef _OPENMP
    return _OPENMP;
#else
    return 0;
#endif
}
