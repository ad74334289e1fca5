// The kernels with AVX-512 (F, BW, DQ, VL and VNNI) and F16C: Intel servers from Cascade Lake (2019),
// AMD from Zen 4.
#include <immintrin.h>

#include "packed_loops.h"

namespace bobot {
namespace {

struct Avx512 {
    using Vector = __m512;
    static constexpr std::size_t width = 16;

    static Vector zero() { return _mm512_setzero_ps(); }
    static Vector load(const float* from) { return _mm512_loadu_ps(from); }
    static Vector fma(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
    static float sum(Vector a) { return _mm512_reduce_add_ps(a); }
    static float from_half(std::uint16_t bits) { return _cvtsh_ss(bits); }
    template <bool kHasMinimum, std::size_t kCount>
    static void widen(const std::int8_t* q, float scale, float minimum, float* out) {
        const Vector scales = _mm512_set1_ps(scale), minima = _mm512_set1_ps(minimum);
        for (std::size_t i = 0; i < kCount; i += width) {
            const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(q + i));
            const Vector values = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
            _mm512_storeu_ps(out + i, kHasMinimum ? _mm512_fmsub_ps(scales, values, minima)
                                                    : _mm512_mul_ps(scales, values));
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

const Kernels kAvx512 = kernels<Avx512>();

}  // namespace bobot
