// The multiply-adds of AVX2, as many in flight as its 16 registers allow.
#include <immintrin.h>

#include "limits_read.h"

namespace bobot {
namespace {

typedef std::uint64_t Words __attribute__((vector_size(32)));
// GCC 12 stores an array of __m256i each time.
typedef std::uint32_t Ints __attribute__((vector_size(32)));

float float32(std::size_t num_rounds, const LoopData& data) {
    __m256 a[2], b[5], sums[10] = {};
    for (int i = 0; i < 2; ++i) a[i] = _mm256_load_ps(data.floats + 8 * i);
    for (int i = 0; i < 5; ++i) b[i] = _mm256_load_ps(data.floats + 64 + 8 * i);
    for (std::size_t round = 0; round < num_rounds; ++round)
        for (int i = 0; i < 2; ++i)
            for (int j = 0; j < 5; ++j)
                sums[5 * i + j] = _mm256_fmadd_ps(a[i], b[j], sums[5 * i + j]);
    __m256 sum = sums[0];
    for (int i = 1; i < 10; ++i) sum = _mm256_add_ps(sum, sums[i]);
    return _mm256_cvtss_f32(sum);
}

// Products of pairs of int16 and their sum, then the sum over rounds: two instructions. Each round
// has other factors, for a product that never changes would be taken out of the loop.
float int16(std::size_t num_rounds, const LoopData& data) {
    const auto* factors = reinterpret_cast<const __m256i*>(data.bytes);
    __m256i b[4];
    Ints sums[8] = {};
    for (int i = 0; i < 4; ++i) b[i] = _mm256_load_si256(factors + i);
    for (std::size_t round = 0; round < num_rounds; ++round)
        for (int i = 0; i < 2; ++i) {
            const __m256i a = _mm256_load_si256(factors + 4 + (2 * round + i) % 64);
            for (int j = 0; j < 4; ++j)
                sums[4 * i + j] += (Ints)_mm256_madd_epi16(a, b[j]);
        }
    Ints sum = sums[0];
    for (int i = 1; i < 8; ++i) sum += sums[i];
    return static_cast<float>(sum[0]);
}

}  // namespace

const ReadLoops kAvx2Reads = kReadLoops<Words>;
const OperationLoop kAvx2Float32 = {"avx2_float32", 2 * 8 * 10, float32};
const OperationLoop kAvx2Int16 = {"avx2_int16", 2 * 16 * 8, int16};

}  // namespace bobot
