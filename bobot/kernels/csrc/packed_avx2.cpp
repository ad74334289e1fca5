// The kernels with AVX2, FMA and F16C: Intel from Haswell (2013), AMD from Excavator (2015).
#include <immintrin.h>

#include "packed_loops.h"

namespace bobot {
namespace {

struct Avx2 {
    using Vector = __m256;
    static constexpr std::size_t width = 8;

    static Vector zero() { return _mm256_setzero_ps(); }
    static Vector load(const float* from) { return _mm256_loadu_ps(from); }
    static Vector fma(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
    static float sum(Vector a) {
        __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
        s = _mm_add_ps(s, _mm_movehl_ps(s, s));
        return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
    }
    static float from_half(std::uint16_t bits) { return _cvtsh_ss(bits); }
    template <bool kHasMinimum, std::size_t kCount>
    static void widen(const std::int8_t* q, float scale, float minimum, float* out) {
        const Vector scales = _mm256_set1_ps(scale), minima = _mm256_set1_ps(minimum);
        for (std::size_t i = 0; i < kCount; i += width) {
            const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(q + i));
            const Vector values = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
            _mm256_storeu_ps(out + i, kHasMinimum ? _mm256_fmsub_ps(scales, values, minima)
                                                    : _mm256_mul_ps(scales, values));
        }
    }
    template <std::size_t kCount>
    static void look_up(const std::int8_t* table, std::int8_t* q) {
        const __m128i levels = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
        for (std::size_t i = 0; i < kCount; i += 16) {
            auto* sixteen = reinterpret_cast<__m128i*>(q + i);
            _mm_storeu_si128(sixteen, _mm_shuffle_epi8(levels, _mm_loadu_si128(sixteen)));
        }
    }
};

}  // namespace

const Kernels kAvx2 = kernels<Avx2>();

}  // namespace bobot
