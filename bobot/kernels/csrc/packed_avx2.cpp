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
    static constexpr bool has_dot_pairs = false;
    static Vector load_bfloat16(const std::uint16_t* from) {
        const __m128i top = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(top), 16));
    }
    static Vector load_half(const std::uint16_t* from) {
        return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
    }
    static void store_half(std::uint16_t* to, Vector a) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                         _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
    }
    static Vector low(Vector a, Vector b) {
        return _mm256_permute2f128_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b), 0x20);
    }
    static Vector high(Vector a, Vector b) {
        return _mm256_permute2f128_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b), 0x31);
    }
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

    // For tiles: tile_quads.h, tile_integers.h, tile_loops.h.
    using Ints = __m256i;
    using Table = __m256i;  // 16 bytes, twice
    static constexpr std::size_t kMaxRows = 4;
    static constexpr bool kSaturates = true;  // sums of two products of bytes, at 16 bits

    static Vector splat(float a) { return _mm256_set1_ps(a); }
    static Ints splat(std::int32_t a) { return _mm256_set1_epi32(a); }
    static void store(float* to, Vector a) { _mm256_storeu_ps(to, a); }
    template <std::size_t kBytes>
    static void prefetch(const std::uint8_t* from) {
        for (std::size_t at = 0; at < kBytes; at += 64)
            _mm_prefetch(reinterpret_cast<const char*>(from) + at, _MM_HINT_T0);
    }
    static Ints load_ints(const std::uint8_t* from) {
        return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    }
    static Vector to_floats(Ints a) { return _mm256_cvtepi32_ps(a); }
    static Vector halves(const std::uint8_t* from) {
        return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
    }
    static Vector bfloats(const std::uint8_t* from) {
        const auto tops = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(tops), 16));
    }
    static Vector unsigned_bytes(const std::uint8_t* from) {
        const auto bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
        return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));
    }
    static Vector signed_bytes(const std::uint8_t* from) {
        const auto bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
        return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
    }
    static Table quad_table(const std::uint8_t* entries, int offset) {
        const auto bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(entries));
        const auto offsets = _mm_set1_epi8(static_cast<char>(offset));
        return _mm256_broadcastsi128_si256(_mm_sub_epi8(bytes, offsets));
    }
    static void quads_of_codes(const std::uint8_t* from, Ints* quads) {
        const Ints codes = load_ints(from), low = _mm256_set1_epi8(15);
        quads[0] = _mm256_and_si256(codes, low);
        quads[1] = _mm256_and_si256(_mm256_srli_epi16(codes, 4), low);
    }
    static Ints look_up_quads(Table table, Ints quads) { return _mm256_shuffle_epi8(table, quads); }
    // Inputs a, b of row r and c, d of row r + 2 as a, c, b, d.
    template <bool kIsSigned>
    static Ints quads_of_bytes(const std::uint8_t* from) {
        const __m128i row = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
        const __m128i other = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + 64));
        const Ints turns =
            _mm256_setr_m128i(_mm_unpacklo_epi8(row, other), _mm_unpackhi_epi8(row, other));
        return kIsSigned ? turns : _mm256_xor_si256(turns, _mm256_set1_epi8(-128));
    }
    static void store_quads(const std::int32_t* codes, std::int8_t* to) {
        for (std::size_t i = 0; i < 32; i += 8) {
            const auto* fours = reinterpret_cast<const __m128i*>(codes + i);
            const __m128i pairs =
                _mm_packs_epi32(_mm_loadu_si128(fours), _mm_loadu_si128(fours + 1));
            const __m128i bytes = _mm_packs_epi16(pairs, pairs);
            const __m128i turns = _mm_unpacklo_epi8(bytes, _mm_srli_epi64(bytes, 32));
            _mm_storel_epi64(reinterpret_cast<__m128i*>(to + i), turns);
        }
    }
    // Each pair of bytes | (bits >> first << 4 & mask) | (bits >> second << 12 & mask << 8)
    static Ints add_upper_bits(Ints quads, Ints bits, int first, int second, int mask) {
        quads = or_masked(quads, shift_pairs(bits, 4 - first), static_cast<std::int16_t>(mask));
        return or_masked(quads, shift_pairs(bits, 12 - second),
                         static_cast<std::int16_t>(mask << 8));
    }
    static Ints shift_pairs(Ints a, int left) {
        return left < 0 ? _mm256_srli_epi16(a, -left) : _mm256_slli_epi16(a, left);
    }
    static Ints or_masked(Ints a, Ints b, std::int16_t mask) {
        return _mm256_or_si256(a, _mm256_and_si256(b, _mm256_set1_epi16(mask)));
    }
    static Ints even_pairs(Ints quads) {
        return _mm256_and_si256(quads, _mm256_set1_epi16(255));
    }
    static Ints odd_pairs(Ints quads) { return _mm256_srli_epi16(quads, 8); }
    // Quads whose products with -127 .. 127 add up at 16 bits; 128 stands for signed values.
    template <int kLargest>
    static constexpr std::size_t kRun = kLargest == 31 ? 4 : kLargest == 63 ? 2 : 1;
    template <int kLargest>
    static Ints dot_quads(Ints sum, const Ints* quads, const std::int8_t* from) {
        Ints halves = _mm256_setzero_si256();
        for (std::size_t i = 0; i < kRun<kLargest>; ++i) {
            const Ints x = splat(lane_of(from + 4 * i));
            const Ints products =
                kLargest == 128
                    ? _mm256_maddubs_epi16(_mm256_abs_epi8(quads[i]), _mm256_sign_epi8(x, quads[i]))
                    : _mm256_maddubs_epi16(quads[i], x);
            halves = _mm256_add_epi16(halves, products);
        }
        return _mm256_add_epi32(sum, _mm256_madd_epi16(halves, _mm256_set1_epi16(1)));
    }
    static Ints subtract_pairs(Ints a, Ints b) { return _mm256_sub_epi16(a, b); }
    static Vector first(Ints a) {
        return _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(a, 16), 16));
    }
    static Vector second(Ints a) { return _mm256_cvtepi32_ps(_mm256_srai_epi32(a, 16)); }
    static Ints dot(Ints sum, Ints pairs, const std::int16_t* pair) {
        return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, splat(lane_of(pair))));
    }

    // For codes that are no integers (tile_floats.h).
    struct FloatTable {
        __m256 low, high;
    };

    static FloatTable float_table(const float* entries) {
        if (!entries) return {zero(), zero()};
        return {_mm256_loadu_ps(entries), _mm256_loadu_ps(entries + 8)};
    }
    static Vector look_up_floats(const FloatTable& table, Ints codes, int shift) {
        const Ints index = _mm256_srli_epi32(codes, shift);
        const __m256 upper = _mm256_castsi256_ps(_mm256_slli_epi32(index, 28));
        return _mm256_blendv_ps(_mm256_permutevar8x32_ps(table.low, index),
                                _mm256_permutevar8x32_ps(table.high, index), upper);
    }
    static Vector first_bfloat(Ints a) { return _mm256_castsi256_ps(_mm256_slli_epi32(a, 16)); }
    static Vector second_bfloat(Ints a) {
        return _mm256_castsi256_ps(_mm256_and_si256(a, _mm256_set1_epi32(-65536)));
    }
    // Moved by 7 bits the fields are those of a half, whose exponent is biased by 8 more.
    static Vector e4m3(const std::uint8_t* from) {
        const __m128i codes =
            _mm_cvtepi8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
        const __m128i magnitude = _mm_set1_epi16(0x7f);
        const __m128i is_nan = _mm_cmpeq_epi16(_mm_and_si128(codes, magnitude), magnitude);
        const __m128i fields = _mm_and_si128(_mm_slli_epi16(codes, 7),
                                             _mm_set1_epi16(static_cast<std::int16_t>(0xbf80)));
        return _mm256_cvtph_ps(
            _mm_or_si128(fields, _mm_and_si128(is_nan, _mm_set1_epi16(0x7e00))));
    }
    static void e4m3(const std::uint8_t* from, Vector& first, Vector& second) {
        first = e4m3(from);
        second = e4m3(from + 16);
    }
};

}  // namespace

const Kernels kAvx2 = kernels<Avx2>();

}  // namespace bobot
