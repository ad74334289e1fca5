// Tiles of packed weights (tiles.h) as the right factors of AMX: 16 rows of pairs of bfloat16, row
// r with inputs 2r and 2r + 1 of 16 outputs. That is the order tiles have anyway; what is left is
// to look codes up, to multiply by the scale in float32 and to round once, to the nearest even: a
// weight moves by one part in 256 at most.
//
// For processors with AVX-512 and AVX512-BF16, as all with AMX are. A format is one `float_pairs`,
// the two floats of each pair without scale, and one line in `widening_of`.
//
// Not done: to multiply the codes, small integers that bfloat16 holds exactly, and the sums of each
// group by their scales. It would save the rounding and the look at every weight's scale, but takes
// a register of sums to memory and back for every 32 inputs instead of every 256 and fewer, which
// costs more than the products (llama.cpp does it; it reaches 6 to 8 % of the unit's speed).
#pragma once

#include <immintrin.h>

#include "tile_floats.h"

namespace bobot {
namespace {

constexpr std::size_t kPairsOfTile = kPanel * kTile;  // bfloat16 numbers

// What codes stand for, without their scale.
template <class Simd>
struct CodeTable {
    __m512i low, high;                 // integers 0 to 31, 32 to 63 as bfloat16: exact
    typename Simd::FloatTable floats;  // of four_bits_of_floats
};

template <class Simd>
CodeTable<Simd> code_table(const TileFormat& format) {
    alignas(64) std::uint16_t entries[64];
    const int mask = format.codes == Codes::four_bits ? 15 : 63;
    for (int code = 0; code < 64; ++code) {
        const int value = format.table[code & 15] + (code & mask & ~15) - format.offset;
        entries[code] = static_cast<std::uint16_t>(bits_of(static_cast<float>(value)) >> 16);
    }
    return {_mm512_load_si512(entries), _mm512_load_si512(entries + 32),
            Simd::float_table(format.float_table)};
}

// The pairs of row r = 4v + i of a tile, for i < 4: floats without their scale.
struct FloatPairs {
    __m512 first[4], second[4];
};

// From pairs of bfloat16.
inline void set_pairs(FloatPairs& pairs, int i, __m512i bfloats) {
    pairs.first[i] = _mm512_castsi512_ps(_mm512_slli_epi32(bfloats, 16));
    pairs.second[i] = _mm512_castsi512_ps(_mm512_and_si512(bfloats, _mm512_set1_epi32(-65536)));
}

// bits << to or >> -to, in each half of a lane.
inline __m512i moved(__m512i bits, int to) {
    return to < 0 ? _mm512_srli_epi16(bits, -to) : _mm512_slli_epi16(bits, to);
}

// Where the mask has ones a, else b.
inline __m512i chosen(int mask, __m512i a, __m512i b) {
    const __m512i masks = _mm512_set1_epi16(static_cast<std::int16_t>(mask));
    return _mm512_ternarylogic_epi32(masks, a, b, 0xca);
}

template <class Simd, Codes kCodes>
__attribute__((always_inline)) inline FloatPairs float_pairs(const std::uint8_t* tile, int v,
                                                             const CodeTable<Simd>& table) {
    FloatPairs pairs;
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        const int r = 4 * v + i;
        if constexpr (is_float(kCodes)) {
            widened<Simd, kCodes>(tile, r, 0, table.floats, pairs.first[i], pairs.second[i]);
        } else if constexpr (kCodes == Codes::bytes) {
            const auto* row = reinterpret_cast<const __m256i*>(tile + 32 * r);
            const __m512i codes = _mm512_cvtepi8_epi16(_mm256_loadu_si256(row));
            pairs.first[i] =
                _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(codes, 16), 16));
            pairs.second[i] = _mm512_cvtepi32_ps(_mm512_srai_epi32(codes, 16));
        } else {
            const __m512i code = _mm512_srli_epi16(_mm512_loadu_si512(tile + 64 * v), 4 * i);
            if constexpr (kCodes == Codes::four_bits) {
                // The look-up reads five bits; the table says the same for both values of the
                // fifth.
                set_pairs(pairs, i, _mm512_permutexvar_epi16(code, table.low));
            } else if constexpr (kCodes == Codes::five_bits) {
                const __m512i upper = moved(_mm512_loadu_si512(tile + 256), 4 - r);
                set_pairs(pairs, i, _mm512_permutexvar_epi16(chosen(16, upper, code), table.low));
            } else {
                const __m512i upper =
                    moved(_mm512_loadu_si512(tile + 256 + 64 * (v / 2)), 4 - 2 * (r % 8));
                const __m512i index = chosen(48, upper, code);
                set_pairs(pairs, i, _mm512_permutex2var_epi16(table.low, index, table.high));
            }
        }
    }
    return pairs;
}

// VCVTNE2PS2BF16, without AVX512-BF16 among the flags of the whole file; then the halves in turn.
inline __m512i rounded_pairs(__m512 first, __m512 second) {
    __m512i bfloats;
    __asm__("vcvtne2ps2bf16 %2, %1, %0" : "=v"(bfloats) : "v"(second), "v"(first));
    const __m512i in_turn = _mm512_set_epi16(
        31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8,
        23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(in_turn, bfloats);
}

// Where the next tile of a panel is read.
template <class Simd>
struct PanelPlace {
    const std::uint8_t* tile;
    ScaleReader<Simd> scales;
};

// The next `count` tiles of a panel, kPairsOfTile numbers each.
template <class Simd, Codes kCodes, bool kHasMinima, int kGroups>
void widen_tiles(PanelPlace<Simd>& place, const CodeTable<Simd>& table, std::size_t count,
                 std::uint16_t* to) {
    constexpr std::size_t kBytes = code_bytes(kCodes), kAhead = 8;
    constexpr int kVectors = 4 / kGroups;
    for (std::size_t t = 0; t < count; ++t, place.tile += kBytes) {
        for (std::size_t at = 0; at < kBytes; at += 64)
            __builtin_prefetch(place.tile + kAhead * kBytes + at, 0, 2);
        for (int g = 0; g < kGroups; ++g) {
            __m512 scale = place.scales.next();
            if constexpr (kCodes == Codes::e4m3)
                scale = _mm512_mul_ps(scale, _mm512_set1_ps(kE4m3Factor));
            __m512 minimum = _mm512_setzero_ps();
            if constexpr (kHasMinima) minimum = place.scales.minimum();
#pragma GCC unroll 4
            for (int v = g * kVectors; v < (g + 1) * kVectors; ++v) {
                const FloatPairs pairs = float_pairs<Simd, kCodes>(place.tile, v, table);
                for (int i = 0; i < 4; ++i, to += 2 * kPanel)
                    _mm512_store_si512(
                        to, rounded_pairs(_mm512_fmsub_ps(pairs.first[i], scale, minimum),
                                          _mm512_fmsub_ps(pairs.second[i], scale, minimum)));
            }
        }
    }
}

template <class Simd>
using Widening = void (*)(PanelPlace<Simd>&, const CodeTable<Simd>&, std::size_t, std::uint16_t*);

template <class Simd>
Widening<Simd> widening_of(const TileFormat& format) {
    const bool has_minima = format.minima != Minima::none;
    switch (format.codes) {
        case Codes::four_bits:
            return has_minima ? widen_tiles<Simd, Codes::four_bits, true, 1>
                              : widen_tiles<Simd, Codes::four_bits, false, 1>;
        case Codes::five_bits:
            return has_minima ? widen_tiles<Simd, Codes::five_bits, true, 1>
                              : widen_tiles<Simd, Codes::five_bits, false, 1>;
        case Codes::six_bits: return widen_tiles<Simd, Codes::six_bits, false, 2>;
        case Codes::bytes: return widen_tiles<Simd, Codes::bytes, false, 1>;
        case Codes::four_bits_of_floats:
            return widen_tiles<Simd, Codes::four_bits_of_floats, false, 1>;
        case Codes::e4m3: return widen_tiles<Simd, Codes::e4m3, false, 1>;
        case Codes::halves: return widen_tiles<Simd, Codes::halves, false, 1>;
        case Codes::bfloats: break;
    }
    return widen_tiles<Simd, Codes::bfloats, false, 1>;
}

}  // namespace
}  // namespace bobot
