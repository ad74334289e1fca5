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
    // VDPBF16PS, without AVX512-BF16 among the flags of the whole file: run only behind its check.
    static constexpr bool has_dot_pairs = true;
    static Vector dot_pairs(Vector a, Vector b, Vector c) {
        __asm__("vdpbf16ps %2, %1, %0" : "+v"(c) : "v"(a), "v"(b));
        return c;
    }
    // VCVTNE2PS2BF16: pairs of neighbours of `a`, then of `b`, to the nearest, to even in the middle.
    static Vector to_pairs(Vector a, Vector b) {
        Vector pairs;
        __asm__("vcvtne2ps2bf16 %1, %2, %0" : "=v"(pairs) : "v"(a), "v"(b));
        return pairs;
    }
    // Numbers of 16 bits of two registers in turn: those of the lower, those of the upper halves.
    static Vector low_words(Vector a, Vector b) { return words<0>(a, b); }
    static Vector high_words(Vector a, Vector b) { return words<16>(a, b); }
    static Vector load_bfloat16(const std::uint16_t* from) {
        const __m256i top = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(top), 16));
    }
    static Vector load_half(const std::uint16_t* from) {
        return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
    }
    static void store_half(std::uint16_t* to, Vector a) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                            _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
    }
    static Vector low(Vector a, Vector b) {
        const __m512i lanes =
            _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
        return _mm512_permutex2var_ps(a, lanes, b);
    }
    static Vector high(Vector a, Vector b) {
        const __m512i lanes =
            _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
        return _mm512_permutex2var_ps(a, lanes, b);
    }
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

    template <int kFirst>
    static Vector words(Vector a, Vector b) {
        constexpr auto at = [](int i) { return (kFirst + 32 + i) << 16 | (kFirst + i); };
        const __m512i places =
            _mm512_setr_epi32(at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7), at(8), at(9),
                              at(10), at(11), at(12), at(13), at(14), at(15));
        return _mm512_castsi512_ps(_mm512_permutex2var_epi16(_mm512_castps_si512(a), places,
                                                             _mm512_castps_si512(b)));
    }

    // For tiles (tile_loops.h): pairs of 16-bit integers in lanes of 32 bits.
    using Ints = __m512i;
    using Table = __m512i;  // 16 entries of 16 bits, twice
    static constexpr std::size_t kMaxRows = 8;
    static constexpr bool kTableHasOffset = true;

    static Vector splat(float a) { return _mm512_set1_ps(a); }
    static Ints splat(std::int32_t a) { return _mm512_set1_epi32(a); }
    static void store(float* to, Vector a) { _mm512_storeu_ps(to, a); }
    template <std::size_t kBytes>
    static void prefetch(const std::uint8_t* from) {
        for (std::size_t at = 0; at < kBytes; at += 64)
            _mm_prefetch(reinterpret_cast<const char*>(from) + at, _MM_HINT_T0);
    }
    static Ints load_ints(const std::uint8_t* from) { return _mm512_loadu_si512(from); }
    static Vector to_floats(Ints a) { return _mm512_cvtepi32_ps(a); }
    static Vector halves(const std::uint8_t* from) {
        return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
    }
    static Vector bfloats(const std::uint8_t* from) {
        const auto tops = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(tops), 16));
    }
    static Vector unsigned_bytes(const std::uint8_t* from) {
        const auto bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
        return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes));
    }
    static Vector signed_bytes(const std::uint8_t* from) {
        const auto bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
        return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
    }
    static Table table(const std::uint8_t* entries, int offset) {
        const auto bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(entries));
        const auto offsets = _mm256_set1_epi16(static_cast<std::int16_t>(offset));
        return _mm512_broadcast_i64x4(_mm256_sub_epi16(_mm256_cvtepu8_epi16(bytes), offsets));
    }
    // The look-up reads five bits, the table says the same for both values of the fifth.
    static void pairs_of_codes(const std::uint8_t* from, Table table, Ints* pairs) {
        const Ints codes = load_ints(from);
        pairs[0] = _mm512_permutexvar_epi16(codes, table);
        pairs[1] = _mm512_permutexvar_epi16(_mm512_srli_epi16(codes, 4), table);
        pairs[2] = _mm512_permutexvar_epi16(_mm512_srli_epi16(codes, 8), table);
        pairs[3] = _mm512_permutexvar_epi16(_mm512_srli_epi16(codes, 12), table);
    }
    static Ints pairs_of_bytes(const std::uint8_t* from) {
        return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
    }
    // pairs | (bits >> shift << 4 & mask)
    static Ints add_bits(Ints pairs, Ints bits, int shift, std::int16_t mask) {
        bits = shift < 4 ? _mm512_slli_epi16(bits, 4 - shift) : _mm512_srli_epi16(bits, shift - 4);
        return _mm512_ternarylogic_epi32(pairs, bits, _mm512_set1_epi16(mask), 0xf8);
    }
    static Ints subtract_pairs(Ints a, Ints b) { return _mm512_sub_epi16(a, b); }
    static Vector first(Ints a) {
        return _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(a, 16), 16));
    }
    static Vector second(Ints a) { return _mm512_cvtepi32_ps(_mm512_srai_epi32(a, 16)); }
    static Ints dot(Ints sum, Ints pairs, const std::int16_t* pair) {
        return _mm512_dpwssd_epi32(sum, pairs, _mm512_set1_epi32(bobot::load<std::int32_t>(reinterpret_cast<const std::uint8_t*>(pair))));
    }
};

}  // namespace

const Kernels kAvx512 = kernels<Avx512>();

}  // namespace bobot
