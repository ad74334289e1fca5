// Q8_0 with AVX-512 (the F subset alone) and F16C: Intel servers from Skylake-SP (2017), AMD from Zen 4.
#include <immintrin.h>

#include "q8_0_loops.h"

namespace bobot {
namespace {

struct Avx512 {
    using Vector = __m512;
    static constexpr std::size_t width = 16;

    static Vector zero() { return _mm512_setzero_ps(); }
    static Vector load(const float* from) { return _mm512_loadu_ps(from); }
    static Vector load_bytes(const std::int8_t* from) {
        const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
        return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
    }
    static void store(float* to, Vector a) { _mm512_storeu_ps(to, a); }
    static Vector broadcast(float value) { return _mm512_set1_ps(value); }
    static Vector mul(Vector a, Vector b) { return _mm512_mul_ps(a, b); }
    static Vector fma(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
    static float sum(Vector a) { return _mm512_reduce_add_ps(a); }
    static float from_half(std::uint16_t bits) { return _cvtsh_ss(bits); }
};

}  // namespace

const Q8Kernels kQ8Avx512 = Q8Loops<Avx512>::kernels();

}  // namespace bobot
