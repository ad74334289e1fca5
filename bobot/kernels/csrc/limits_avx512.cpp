// The multiply-adds of AVX-512: float32, and where the processor has them the dot products of VNNI
// and of bfloat16. 20 sums are in flight: each instruction takes 4 to 6 cycles and two start in a
// cycle.
//
// The functions for extensions say so themselves, since a processor with AVX-512 may lack either.
#include <immintrin.h>

#include "limits_read.h"

namespace bobot {
namespace {

typedef std::uint64_t Words __attribute__((vector_size(64)));
// GCC 12 stores an array of __m512i each time.
typedef std::uint32_t Ints __attribute__((vector_size(64)));

constexpr int kA = 5, kB = 4;
constexpr int kSums = kA * kB;

float float32(std::size_t num_rounds, const LoopData& data) {
    __m512 a[kA], b[kB], sums[kSums] = {};
    for (int i = 0; i < kA; ++i) a[i] = _mm512_load_ps(data.floats + 16 * i);
    for (int j = 0; j < kB; ++j) b[j] = _mm512_load_ps(data.floats + 512 + 16 * j);
    for (std::size_t round = 0; round < num_rounds; ++round)
        for (int i = 0; i < kA; ++i)
            for (int j = 0; j < kB; ++j)
                sums[kB * i + j] = _mm512_fmadd_ps(a[i], b[j], sums[kB * i + j]);
    __m512 sum = sums[0];
    for (int i = 1; i < kSums; ++i) sum = _mm512_add_ps(sum, sums[i]);
    return _mm512_cvtss_f32(sum);
}

__attribute__((target("avx512bf16"))) float bf16(std::size_t num_rounds, const LoopData& data) {
    __m512bh a[kA], b[kB];
    __m512 sums[kSums] = {};
    for (int i = 0; i < kA; ++i) a[i] = (__m512bh)_mm512_load_si512(data.bfloats + 32 * i);
    for (int j = 0; j < kB; ++j) b[j] = (__m512bh)_mm512_load_si512(data.bfloats + 1024 + 32 * j);
    for (std::size_t round = 0; round < num_rounds; ++round)
        for (int i = 0; i < kA; ++i)
            for (int j = 0; j < kB; ++j)
                sums[kB * i + j] = _mm512_dpbf16_ps(sums[kB * i + j], a[i], b[j]);
    __m512 sum = sums[0];
    for (int i = 1; i < kSums; ++i) sum = _mm512_add_ps(sum, sums[i]);
    return _mm512_cvtss_f32(sum);
}

__attribute__((target("avx512vnni"))) float vnni_int16(std::size_t num_rounds,
                                                       const LoopData& data) {
    __m512i a[kA], b[kB];
    Ints sums[kSums] = {};
    for (int i = 0; i < kA; ++i) a[i] = _mm512_load_si512(data.bytes + 64 * i);
    for (int j = 0; j < kB; ++j) b[j] = _mm512_load_si512(data.bytes + 2048 + 64 * j);
    for (std::size_t round = 0; round < num_rounds; ++round)
        for (int i = 0; i < kA; ++i)
            for (int j = 0; j < kB; ++j)
                sums[kB * i + j] =
                    (Ints)_mm512_dpwssd_epi32((__m512i)sums[kB * i + j], a[i], b[j]);
    Ints sum = sums[0];
    for (int i = 1; i < kSums; ++i) sum += sums[i];
    return static_cast<float>(sum[0]);
}

__attribute__((target("avx512vnni"))) float vnni_int8(std::size_t num_rounds,
                                                      const LoopData& data) {
    __m512i a[kA], b[kB];
    Ints sums[kSums] = {};
    for (int i = 0; i < kA; ++i) a[i] = _mm512_load_si512(data.bytes + 64 * i);
    for (int j = 0; j < kB; ++j) b[j] = _mm512_load_si512(data.bytes + 2048 + 64 * j);
    for (std::size_t round = 0; round < num_rounds; ++round)
        for (int i = 0; i < kA; ++i)
            for (int j = 0; j < kB; ++j)
                sums[kB * i + j] =
                    (Ints)_mm512_dpbusd_epi32((__m512i)sums[kB * i + j], a[i], b[j]);
    Ints sum = sums[0];
    for (int i = 1; i < kSums; ++i) sum += sums[i];
    return static_cast<float>(sum[0]);
}

}  // namespace

const ReadLoops kAvx512Reads = kReadLoops<Words>;
const OperationLoop kAvx512Float32 = {"avx512_float32", 2.0 * 16 * kSums, float32};
const OperationLoop kAvx512Bf16 = {"avx512_bf16", 2.0 * 32 * kSums, bf16};
const OperationLoop kAvx512VnniInt16 = {"avx512vnni_int16", 2.0 * 32 * kSums, vnni_int16};
const OperationLoop kAvx512VnniInt8 = {"avx512vnni_int8", 2.0 * 64 * kSums, vnni_int8};

}  // namespace bobot
