// Q8_0 with AVX2, FMA and F16C: Intel from Haswell (2013), AMD from Excavator (2015).
#include <immintrin.h>

#include "q8_0_loops.h"

namespace bobot {
namespace {

struct Avx2 {
    using Vector = __m256;
    static constexpr std::size_t width = 8;

    static Vector zero() { return _mm256_setzero_ps(); }
    static Vector load(const float* from) { return _mm256_loadu_ps(from); }
    static Vector load_bytes(const std::int8_t* from) {
        const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
        return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
    }
    static void store(float* to, Vector a) { _mm256_storeu_ps(to, a); }
    static Vector broadcast(float value) { return _mm256_set1_ps(value); }
    static Vector mul(Vector a, Vector b) { return _mm256_mul_ps(a, b); }
    static Vector fma(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
    static float sum(Vector a) {
        __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
        s = _mm_add_ps(s, _mm_movehl_ps(s, s));
        return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
    }
    static float from_half(std::uint16_t bits) { return _cvtsh_ss(bits); }
};

}  // namespace

const Q8Kernels kQ8Avx2 = Q8Loops<Avx2>::kernels();

}  // namespace bobot
