// The kernels with AVX-512 (F, BW, DQ, VL and VNNI) and F16C: Intel servers from Cascade Lake
// (2019), AMD from Zen 4. And those with AMX besides, for many rows: Intel servers from Sapphire
// Rapids (2023).
#include <immintrin.h>

#include "packed_loops.h"
#if defined(BOBOT_HAS_AMX)
#include "amx_emulated.h"
#include "amx_loops.h"
#endif

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
    // VCVTNE2PS2BF16: pairs of neighbours of `a`, then of `b`, to the nearest, to even in the
    // middle.
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

    // For tiles: tile_quads.h, tile_integers.h, tile_loops.h.
    using Ints = __m512i;
    using Table = __m512i;  // 16 bytes, four times
    static constexpr std::size_t kMaxRows = 8;
    static constexpr bool kSaturates = false;

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
    static Table quad_table(const std::uint8_t* entries, int) {
        const auto bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(entries));
        return _mm512_broadcast_i32x4(bytes);
    }
    static void quads_of_codes(const std::uint8_t* from, Ints* quads) {
        const Ints codes = load_ints(from), low = _mm512_set1_epi8(15);
        quads[0] = _mm512_and_si512(codes, low);
        quads[1] = _mm512_and_si512(_mm512_srli_epi16(codes, 4), low);
    }
    static Ints look_up_quads(Table table, Ints quads) { return _mm512_shuffle_epi8(table, quads); }
    // Inputs a, b of row r and c, d of row r + 2 as a, c, b, d.
    template <bool kIsSigned>
    static Ints quads_of_bytes(const std::uint8_t* from) {
        static_assert(!kIsSigned);
        const auto* rows = reinterpret_cast<const __m256i*>(from);
        const Ints both = _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_loadu_si256(rows)),
                                             _mm256_loadu_si256(rows + 2), 1);
        const Ints order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
        const Ints eighths = _mm512_permutexvar_epi64(order, both);
        const Ints turns = _mm512_broadcast_i32x4(
            _mm_setr_epi8(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15));
        return _mm512_xor_si512(_mm512_shuffle_epi8(eighths, turns), _mm512_set1_epi8(-128));
    }
    static void store_quads(const std::int32_t* codes, std::int8_t* to) {
        const __m128i order =
            _mm_setr_epi8(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15);
        for (std::size_t i = 0; i < 32; i += 16) {
            const __m128i bytes = _mm512_cvtepi32_epi8(_mm512_loadu_si512(codes + i));
            _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), _mm_shuffle_epi8(bytes, order));
        }
    }
    // Each pair of bytes | (bits >> first << 4 & mask) | (bits >> second << 12 & mask << 8)
    static Ints add_upper_bits(Ints quads, Ints bits, int first, int second, int mask) {
        quads = or_masked(quads, shift_pairs(bits, 4 - first), static_cast<std::int16_t>(mask));
        return or_masked(quads, shift_pairs(bits, 12 - second),
                         static_cast<std::int16_t>(mask << 8));
    }
    static Ints shift_pairs(Ints a, int left) {
        return left < 0 ? _mm512_srli_epi16(a, -left) : _mm512_slli_epi16(a, left);
    }
    static Ints or_masked(Ints a, Ints b, std::int16_t mask) {
        return _mm512_ternarylogic_epi32(a, b, _mm512_set1_epi16(mask), 0xf8);
    }
    static Ints even_pairs(Ints quads) {
        return _mm512_and_si512(quads, _mm512_set1_epi16(255));
    }
    static Ints odd_pairs(Ints quads) { return _mm512_srli_epi16(quads, 8); }
    template <int>
    static constexpr std::size_t kRun = 1;
    template <int>
    static Ints dot_quads(Ints sum, const Ints* quads, const std::int8_t* from) {
        return _mm512_dpbusd_epi32(sum, *quads, splat(lane_of(from)));
    }
    static Ints subtract_pairs(Ints a, Ints b) { return _mm512_sub_epi16(a, b); }
    static Vector first(Ints a) {
        return _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(a, 16), 16));
    }
    static Vector second(Ints a) { return _mm512_cvtepi32_ps(_mm512_srai_epi32(a, 16)); }
    static Ints dot(Ints sum, Ints pairs, const std::int16_t* pair) {
        return _mm512_dpwssd_epi32(sum, pairs, splat(lane_of(pair)));
    }

    // For codes that are no integers (tile_floats.h).
    using FloatTable = __m512;

    static FloatTable float_table(const float* entries) {
        return entries ? _mm512_loadu_ps(entries) : zero();
    }
    static Vector look_up_floats(FloatTable table, Ints codes, int shift) {
        return _mm512_permutexvar_ps(_mm512_srli_epi32(codes, shift), table);
    }
    static Vector first_bfloat(Ints a) { return _mm512_castsi512_ps(_mm512_slli_epi32(a, 16)); }
    static Vector second_bfloat(Ints a) {
        return _mm512_castsi512_ps(_mm512_and_si512(a, _mm512_set1_epi32(-65536)));
    }
    static Vector bfloat_pairs(Vector first, Vector second) {
        return _mm512_castsi512_ps(_mm512_or_si512(
            _mm512_srli_epi32(_mm512_castps_si512(first), 16), _mm512_castps_si512(second)));
    }
    // Moved by 7 bits the fields are those of a half, whose exponent is biased by 8 more.
    static void e4m3(const std::uint8_t* from, Vector& first, Vector& second) {
        const __m256i codes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
        const __m512i fields = _mm512_slli_epi16(_mm512_cvtepi8_epi16(codes), 7);
        const __mmask32 is_nan = _mm256_cmpeq_epi8_mask(
            _mm256_or_si256(codes, _mm256_set1_epi8(-128)), _mm256_set1_epi8(-1));
        const __m512i halves = _mm512_mask_mov_epi16(
            _mm512_and_si512(fields, _mm512_set1_epi16(static_cast<std::int16_t>(0xbf80))), is_nan,
            _mm512_set1_epi16(0x7e00));
        first = _mm512_cvtph_ps(_mm512_castsi512_si256(halves));
        second = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(halves, 1));
    }
};

}  // namespace

const Kernels kAvx512 = kernels<Avx512>();
#if defined(BOBOT_HAS_AMX)
const Kernels kAmx = kernels_with_unit<Avx512, AmxUnit>();
const Kernels kAmxEmulated = kernels_with_unit<Avx512, EmulatedAmxUnit>();
#endif

}  // namespace bobot
