#include "cpu_features.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace bobot {

#if defined(__x86_64__)

// The compiler's own check also asks the operating system (XGETBV), but knows "f16c" only from GCC 11 on.
static bool has_f16c() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

static CpuFeatures detect() {
    __builtin_cpu_init();
    const bool avx2 =
        __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
    const bool avx512vnni = avx2 && __builtin_cpu_supports("avx512f") &&
                            __builtin_cpu_supports("avx512bw") &&
                            __builtin_cpu_supports("avx512dq") &&
                            __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
    return {avx2, avx512vnni};
}

#else

static CpuFeatures detect() { return {false, false}; }

#endif

const CpuFeatures& cpu_features() {
    static const CpuFeatures found = detect();
    return found;
}

}  // namespace bobot
