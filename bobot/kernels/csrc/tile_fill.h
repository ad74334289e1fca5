// Activations as products of tiles read them (tiles.h), from rows of floats:
//
//     store_quads     32 numbers as bytes in kQuadOrder
#pragma once

#include "packed_formats.h"
#include "tiles.h"

namespace bobot {
namespace {

// 32 floats as integers, `largest_code` at most, times the returned scale; the sums of both halves.
inline float round_to_integers(const float* from, float largest_code, std::int32_t* codes,
                               std::int32_t* sums) {
    std::uint32_t largest_bits = 0;
    for (std::size_t i = 0; i < kTile; ++i) {
        const std::uint32_t bits = bits_of(from[i]) & 0x7fffffffu;
        largest_bits = bits > largest_bits ? bits : largest_bits;
    }
    const float largest = float_of(largest_bits);
    const bool is_finite = largest_bits < 0x7f800000u;
    const float factor = is_finite && largest > 1e-30f ? largest_code / largest : 0.0f;
    constexpr float kRounder = 12582912.0f;  // 1.5 * 2**23: what is added to it is rounded
    for (std::size_t half = 0; half < 2; ++half) {
        std::int32_t sum = 0;
        for (std::size_t i = 16 * half; i < 16 * half + 16; ++i) {
            const float value = is_finite ? from[i] * factor : 0.0f;
            codes[i] = static_cast<std::int32_t>(bits_of(value + kRounder) - bits_of(kRounder));
            sum += codes[i];
        }
        sums[half] = sum;
    }
    return is_finite ? largest / largest_code : __builtin_nanf("");
}

// 32 floats as bfloat16, to the nearest even.
inline void round_to_bfloats(const float* from, std::uint16_t* to) {
    for (std::size_t i = 0; i < kTile; ++i) {
        const std::uint32_t bits = bits_of(from[i]);
        const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
        const std::uint32_t nearest = bits + 0x7fffu + (bits >> 16 & 1u);
        const std::uint32_t rounded = is_nan ? bits | 0x400000u : nearest;
        to[i] = static_cast<std::uint16_t>(rounded >> 16);
    }
}

// Tile t of row m in block b, from 32 floats.
template <class Simd>
void fill_tile(const float* values, const Activations& x, std::size_t b, std::size_t t,
                      std::size_t m) {
    const std::size_t rows = x.block_rows, tile = b * (x.num_columns / kTile) + t;
    const std::size_t at = tile * rows + m;
    if (x.type == ActivationType::float32) {
        std::memcpy(x.values + at * kTile, values, kTile * sizeof *values);
        float total = 0;
        for (std::size_t i = 0; i < kTile; ++i) total += values[i];
        x.totals[at] = total;
        return;
    }
    if (x.type == ActivationType::bfloat16) {
        round_to_bfloats(values, x.bfloats + at * kTile);
        return;
    }
    std::int32_t codes[kTile], sums[2];
    const bool is_wide = x.type == ActivationType::int16;
    x.scales[at] = round_to_integers(values, is_wide ? 32767.0f : 127.0f, codes, sums);
    for (std::size_t h = 0; h < 2; ++h) x.sums[(tile * 2 + h) * rows + m] = sums[h];
    x.totals[at] = x.scales[at] * static_cast<float>(sums[0] + sums[1]);
    if (is_wide) {
        for (std::size_t i = 0; i < kTile; ++i)
            x.codes[at * kTile + i] = static_cast<std::int16_t>(codes[i]);
        return;
    }
    Simd::store_quads(codes, x.bytes + at * kTile);
}

// Fills blocks [first, end) of `x` from rows of floats.
template <class Simd>
void fill_activations(const float* from, const Activations& x, std::size_t first,
                      std::size_t end) {
    const std::size_t tiles = x.num_columns / kTile;
    const float zeros[kTile] = {};
    for (std::size_t b = first; b < end; ++b)
        for (std::size_t m = 0; m < x.block_rows; ++m) {
            const std::size_t row = b * x.block_rows + m;
            for (std::size_t t = 0; t < tiles; ++t)
                fill_tile<Simd>(
                    row < x.num_rows ? from + row * x.num_columns + t * kTile : zeros, x, b, t, m);
        }
}

}  // namespace
}  // namespace bobot
