#include "limits.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <limits>
#include <memory>
#include <new>
#include <random>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "cpu_features.h"
#include "limits_read.h"

namespace bobot {
namespace {

// Of one try: much longer than it takes to start the threads, and short enough that some of the
// tries find every core free while other programs run too.
constexpr double kShortestS = 0.003;
constexpr int kTries = 40, kReadTries = 12;
constexpr std::size_t kParts = 4;  // of the memory, read in turn, so that no cache holds the next
constexpr std::size_t kHugePage = 2 << 20;

double seconds_now() {
    const auto since = std::chrono::steady_clock::now().time_since_epoch();
    return std::chrono::duration<double>(since).count();
}

// Seconds from the first thread's begin of work(thread) to the last one's end: without the time
// that it takes to wake the threads, which on a busy machine is longer than the work.
template <class Work>
double time_in_threads(int num_threads, Work work) {
    double first = std::numeric_limits<double>::infinity(), last = 0;
#pragma omp parallel num_threads(num_threads)
    {
#pragma omp barrier
        const double start = seconds_now();
#pragma omp for schedule(static) nowait
        for (int thread = 0; thread < num_threads; ++thread) work(thread);
        const double end = seconds_now();
#pragma omp critical
        {
            first = std::min(first, start);
            last = std::max(last, end);
        }
    }
    return last - first;
}

const LoopData& loop_data() {
    static const LoopData data = [] {
        LoopData made;
        std::mt19937 random(1);
        for (float& value : made.floats)
            value = std::uniform_real_distribution<float>(0.5f, 2.0f)(random) *
                    (random() & 1 ? 1.0f : -1.0f);
        // Sign, exponents of 0.5 and 1, 7 bits after the point.
        for (std::uint16_t& value : made.bfloats)
            value = static_cast<std::uint16_t>((random() & 0x807f) |
                                               (random() & 1 ? 0x3f00 : 0x3f80));
        for (std::uint8_t& value : made.bytes)
            value = static_cast<std::uint8_t>(1 + random() % 255);
        return made;
    }();
    return data;
}

// SSE, NEON: vectors that every processor has.
typedef float Four __attribute__((vector_size(16)));
typedef std::uint64_t Words __attribute__((vector_size(16)));

float portable_float32(std::size_t num_rounds, const LoopData& data) {
    const auto* factors = reinterpret_cast<const Four*>(data.floats);
    Four sums[10] = {};
    for (std::size_t round = 0; round < num_rounds; ++round) {
        const Four a = factors[round % 128];  // another each time, or the products would be hoisted
        for (int j = 0; j < 10; ++j) sums[j] += a * factors[128 + j];
    }
    Four sum = sums[0];
    for (int j = 1; j < 10; ++j) sum += sums[j];
    return sum[0];
}

// The widest loads this machine has.
const ReadLoops& read_loops() {
#if defined(__x86_64__)
    if (cpu_features().avx2 && __builtin_cpu_supports("avx512f")) return kAvx512Reads;
    if (cpu_features().avx2) return kAvx2Reads;
#endif
    return kPortableReads;
}

struct Free {
    void operator()(void* memory) const { std::free(memory); }
};

}  // namespace

const ReadLoops kPortableReads = kReadLoops<Words>;
const OperationLoop kPortableFloat32 = {"portable_float32", 2 * 4 * 10, portable_float32};

UsableLoops usable_loops() {
    UsableLoops found{};
    auto add = [&](bool is_usable, const OperationLoop& loop) {
        if (is_usable) found.loops[found.count++] = &loop;
    };
#if defined(__x86_64__)
    const CpuFeatures& cpu = cpu_features();
#if defined(BOBOT_HAS_AMX)
    add(cpu.amx, kAmxBf16);
    add(cpu.amx, kAmxInt8);
#endif
    const bool avx512 = cpu.avx2 && __builtin_cpu_supports("avx512f");
    add(cpu.avx512vnni, kAvx512VnniInt8);
    add(cpu.avx512vnni, kAvx512VnniInt16);
    add(avx512 && __builtin_cpu_supports("avx512bf16"), kAvx512Bf16);
    add(avx512, kAvx512Float32);
    add(cpu.avx2, kAvx2Int16);
    add(cpu.avx2, kAvx2Float32);
#endif
    add(true, kPortableFloat32);
    return found;
}

double operations_per_s(const OperationLoop& loop, int num_threads) {
    const LoopData& data = loop_data();
    std::size_t num_rounds = 1000;
    std::atomic<float> kept{0};  // so that the compiler can't see that nobody asks for the sums
    auto best_of = [&](int tries, int threads) {
        double least = std::numeric_limits<double>::infinity();
        for (int i = 0; i < tries; ++i)
            least = std::min(least, time_in_threads(threads, [&](int) {
                                 kept = loop.run(num_rounds, data);
                             }));
        return least;
    };
    while (best_of(3, 1) < kShortestS) num_rounds *= 2;
    const double least = best_of(kTries, num_threads);
    return loop.operations * static_cast<double>(num_rounds) * num_threads / least;
}

double read_bytes_per_s(std::size_t num_bytes, int num_threads) {
    const std::size_t per_part = num_bytes / num_threads / kHugePage * kHugePage / kParts;
    const std::size_t per_thread = per_part * kParts;
    const std::size_t used_bytes = per_thread * num_threads;
    std::unique_ptr<std::uint8_t, Free> memory(
        static_cast<std::uint8_t*>(std::aligned_alloc(kHugePage, used_bytes)));
    if (!memory) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
    // Where not allowed: small pages, a little slower.
    madvise(memory.get(), used_bytes, MADV_HUGEPAGE);
#endif
    std::uint8_t* const from = memory.get();
    time_in_threads(num_threads, [&](int thread) {
        // xorshift64: no page may look like another.
        std::uint64_t state = 0x9e3779b97f4a7c15u + thread;
        auto* words = reinterpret_cast<std::uint64_t*>(from + thread * per_thread);
        for (std::size_t i = 0; i < per_thread / sizeof state; ++i) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            words[i] = state;
        }
    });
    std::atomic<std::uint64_t> kept{0};
    double least = std::numeric_limits<double>::infinity();
    std::size_t part = 0;
    for (int i = 0; i < kReadTries; ++i)
        for (const ReadLoop read : {read_loops().in_order, read_loops().interleaved})
            for (const std::size_t ahead : {0, 1024, 4096}) {
                part = (part + 1) % kParts;
                least = std::min(least, time_in_threads(num_threads, [&](int thread) {
                                     const std::size_t own = thread * per_thread;
                                     kept = read(from + own + part * per_part, per_part, ahead);
                                 }));
            }
    return static_cast<double>(per_part * num_threads) / least;
}

}  // namespace bobot
