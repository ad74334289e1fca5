#include "cpu_features.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace bobot {

#if defined(__x86_64__)

// The compiler's own check also asks the operating system (XGETBV), but knows "f16c" only from GCC
// 11 on.
static bool has_f16c() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

#if defined(__linux__)

// The bits of XCR0: which registers the operating system saves (Intel SDM volume 1, section 13.3).
static unsigned long long saved_registers() {
    unsigned low = 0, high = 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (static_cast<unsigned long long>(high) << 32) | low;
}

// Processor, operating system and this process: Linux hands the 8 KiB of tile data only to a
// process that asks (Documentation/arch/x86/xstate.rst); without it the first tile instruction ends
// the program.
static bool has_amx() {
    constexpr unsigned kOsXsave = 1u << 27;                            // leaf 1, ECX
    // Leaf 7, EDX: bf16, tile, int8.
    constexpr unsigned kAmx = (1u << 22) | (1u << 24) | (1u << 25);
    constexpr unsigned long long kTiles = (1ull << 17) | (1ull << 18); // XTILECFG, XTILEDATA
    constexpr long kRequestPermission = 0x1023, kTileData = 18;        // ARCH_REQ_XCOMP_PERM
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & kOsXsave)) return false;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & kAmx) != kAmx) return false;
    if ((saved_registers() & kTiles) != kTiles) return false;
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

#else

static bool has_amx() { return false; }

#endif

static CpuFeatures detect() {
    __builtin_cpu_init();
    const bool avx2 =
        __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
    const bool avx512vnni = avx2 && __builtin_cpu_supports("avx512f") &&
                            __builtin_cpu_supports("avx512bw") &&
                            __builtin_cpu_supports("avx512dq") &&
                            __builtin_cpu_supports("avx512vl") &&
                            __builtin_cpu_supports("avx512vnni");
    const bool avx512bf16 = avx512vnni && __builtin_cpu_supports("avx512bf16");
    return {avx2, avx512vnni, avx512bf16, avx512bf16 && has_amx()};
}

#else

static CpuFeatures detect() { return {false, false, false, false}; }

#endif

const CpuFeatures& cpu_features() {
    static const CpuFeatures found = detect();
    return found;
}

}  // namespace bobot
