// Products with tiles (tiles.h) and the tiles as floats, written once over a `Simd` type. Lanes are
// outputs: a register holds numbers of `width` outputs, and is multiplied by one activation, or
// a few neighbours, in all lanes.
//
//     first, second           the two numbers of a pair (tile_quads.h) as floats
//
// A panel of outputs is multiplied with a block of rows at a time, whose sums stay in registers.
#pragma once

#include "tile_fill.h"
#include "tile_integers.h"

namespace bobot {
namespace {

// Inputs 2i and 2i + 1 of a tile as floats, without the scale.
template <class Simd>
__attribute__((always_inline)) inline void floats_of_pair(const typename Simd::Ints* quads,
                                                          std::size_t i,
                                                          typename Simd::Ints offset,
                                                          typename Simd::Vector& first,
                                                          typename Simd::Vector& second) {
    const auto pair = Simd::subtract_pairs(pair_of<Simd>(quads, i), offset);
    first = Simd::first(pair);
    second = Simd::second(pair);
}

// out[m][lane ..] for the kRows rows of block `b` and `width` outputs of a panel.
template <class Simd, class Form, std::size_t kRows>
void float_block(const Tiles& w, std::size_t panel, std::size_t lane, const Activations& x,
                 std::size_t b, float (&out)[kRows * kPanel]) {
    constexpr std::size_t kAhead = kRows < 8 ? 4096 : 1024, kPairs = 16 / Form::kGroups;
    using Vector = typename Simd::Vector;
    TileReader<Simd, Form> reader(w, panel, lane);
    const auto offset = Simd::splat(offset_of_quads(*w.format) * 0x10001);
    Vector sums[kRows];
    for (auto& each : sums) each = Simd::zero();
    for (std::size_t t = 0; t < w.num_tiles; ++t) {
        const std::size_t at = (b * w.num_tiles + t) * kRows;
        const float* values = x.values + at * kTile;
        Simd::template prefetch<Form::kBytes>(reader.codes() + kAhead);
        UnpackedTile<Simd, Form::kGroups> tile;
        reader.next(tile);
#pragma GCC unroll 2
        for (std::size_t g = 0; g < Form::kGroups; ++g) {
            Vector dots[kRows];
            for (auto& each : dots) each = Simd::zero();
#pragma GCC unroll 16
            for (std::size_t i = g * kPairs; i < (g + 1) * kPairs; ++i) {
                Vector first, second;
                floats_of_pair<Simd>(tile.quads, i, offset, first, second);
                for (std::size_t m = 0; m < kRows; ++m) {
                    const float* pair = values + m * kTile + 2 * i;
                    dots[m] = Simd::fma(first, Simd::splat(pair[0]), dots[m]);
                    dots[m] = Simd::fma(second, Simd::splat(pair[1]), dots[m]);
                }
            }
            for (std::size_t m = 0; m < kRows; ++m)
                sums[m] = Simd::fma(dots[m], tile.scales[g], sums[m]);
        }
        if constexpr (Form::kHasMinima)
            for (std::size_t m = 0; m < kRows; ++m)
                sums[m] = Simd::fma(-tile.minimum, Simd::splat(x.totals[at + m]), sums[m]);
    }
    for (std::size_t m = 0; m < kRows; ++m) Simd::store(out + m * kPanel + lane, sums[m]);
}

// out.at(m, n) = sum over k of x[m, k] * w[n, k], for outputs n of panels [first, end).
// As many panels at a time as stay in the second-level cache while all rows pass.
template <class Simd, class Form, std::size_t kRows>
void float_product(const Tiles& w, const Activations& x, std::size_t first, std::size_t end,
                   const Outputs& out) {
    constexpr std::size_t kCachedBytes = 1 << 18;
    const std::size_t fitting = kCachedBytes / (w.num_tiles * Form::kBytes);
    const std::size_t at_once = fitting ? fitting : 1;
    for (std::size_t start = first; start < end; start += at_once) {
        const std::size_t stop = start + at_once < end ? start + at_once : end;
        for (std::size_t b = 0; b < x.num_blocks; ++b) {
            const std::size_t row = b * kRows;
            const std::size_t count = x.num_rows - row < kRows ? x.num_rows - row : kRows;
            for (std::size_t panel = start; panel < stop; ++panel) {
                float sums[kRows * kPanel];
                for (std::size_t lane = 0; lane < kPanel; lane += Simd::width)
                    float_block<Simd, Form, kRows>(w, panel, lane, x, b, sums);
                const std::size_t n = panel * kPanel;
                const std::size_t width = w.num_rows - n < kPanel ? w.num_rows - n : kPanel;
                for (std::size_t m = 0; m < count; ++m)
                    std::memcpy(out.at(row + m, n), sums + m * kPanel, 4 * width);
            }
        }
    }
}

template <class Simd, class Form>
void float_product_of_rows(const Tiles& w, const Activations& x, std::size_t first, std::size_t end,
                           const Outputs& out) {
    switch (x.block_rows) {
        case 1: return float_product<Simd, Form, 1>(w, x, first, end, out);
        case 2: return float_product<Simd, Form, 2>(w, x, first, end, out);
        case 4: return float_product<Simd, Form, 4>(w, x, first, end, out);
    }
    if constexpr (Simd::kMaxRows == 8)
        float_product<Simd, Form, 8>(w, x, first, end, out);
}

template <class Simd, class Form>
void tile_product(const Tiles& w, const Activations& x, std::size_t first, std::size_t end,
                  const Outputs& out) {
    switch (x.type) {
        case ActivationType::float32:
            return float_product_of_rows<Simd, Form>(w, x, first, end, out);
        case ActivationType::int16:
            return integer_product<Simd, Form, ActivationType::int16>(w, x, first, end, out);
        case ActivationType::int8:
        case ActivationType::bfloat16: break;  // the latter never with integers
    }
    // Values above 31 would not fit unsigned dot products that saturate; signed they do.
    constexpr bool kMayBeLarge = Form::kCodes == Codes::bytes || Form::kIsLookedUp;
    if constexpr (Simd::kSaturates && kMayBeLarge)
        if (Form::kCodes == Codes::bytes || largest_entry(*w.format) > 31)
            return integer_product<
                Simd, Unpacking<Form::kCodes, false, Form::kIsLookedUp, true>,
                ActivationType::int8>(w, x, first, end, out);
    integer_product<Simd, Form, ActivationType::int8>(w, x, first, end, out);
}

// Calls found(form) with how the tiles of a format are unpacked.
template <class Found>
void with_form(const TileFormat& format, Found found) {
    const bool has_minima = format.minima != Minima::none;
    switch (format.codes) {
        case Codes::four_bits:
            if (has_minima) return found(Unpacking<Codes::four_bits, true, false, false>{});
            if (is_linear(format)) return found(Unpacking<Codes::four_bits, false, false, false>{});
            return found(Unpacking<Codes::four_bits, false, true, false>{});
        case Codes::five_bits:
            if (has_minima) return found(Unpacking<Codes::five_bits, true, false, false>{});
            return found(Unpacking<Codes::five_bits, false, false, false>{});
        case Codes::six_bits: return found(Unpacking<Codes::six_bits, false, false, false>{});
        case Codes::bytes: return found(Unpacking<Codes::bytes, false, false, false>{});
        default: break;  // tile_floats.h
    }
}

// tile_floats.h
template <class Simd>
void multiply_float_tiles(const Tiles& w, const Activations& x, std::size_t first, std::size_t end,
                          const Outputs& out);
template <class Simd>
void unpack_float_tiles(const Tiles& w, std::size_t panel, float* out);

template <class Simd>
void multiply_by_vectors(const Tiles& w, const Activations& x, std::size_t first, std::size_t end,
                         const Outputs& out) {
    if (is_float(w.format->codes))
        return multiply_float_tiles<Simd>(w, x, first, end, out);
    with_form(*w.format, [&](auto form) {
        tile_product<Simd, decltype(form)>(w, x, first, end, out);
    });
}

// What else multiplies many rows: nothing, unless a Simd type has a matrix unit beside it
// (amx_loops.h).
template <class Simd>
struct ManyRows {
    static constexpr bool kHasUnit = false;
};

// As Kernels::multiply_tiles.
template <class Simd>
void multiply_tiles(const Tiles& w, const Activations& x, std::size_t first, std::size_t end,
                    float* to, std::size_t stride) {
    const Outputs out{to, stride, first * kPanel};
    if constexpr (!ManyRows<Simd>::kHasUnit)
        multiply_by_vectors<Simd>(w, x, first, end, out);
    else if (x.block_rows == kUnitRows)
        ManyRows<Simd>::multiply(w, x, first, end, out);
    else
        multiply_by_vectors<typename ManyRows<Simd>::FewRows>(w, x, first, end, out);
}

// Rows of the weights as floats: the 16 of a panel, `out` with num_columns for each.
template <class Simd, class Form>
void unpack_panel(const Tiles& w, std::size_t panel, float* out) {
    using Vector = typename Simd::Vector;
    const auto offset = Simd::splat(offset_of_quads(*w.format) * 0x10001);
    for (std::size_t lane = 0; lane < kPanel; lane += Simd::width) {
        TileReader<Simd, Form> reader(w, panel, lane);
        for (std::size_t t = 0; t < w.num_tiles; ++t) {
            UnpackedTile<Simd, Form::kGroups> tile;
            reader.next(tile);
            for (std::size_t i = 0; i < kTile / 2; ++i) {
                Vector values[2];
                floats_of_pair<Simd>(tile.quads, i, offset, values[0], values[1]);
                for (std::size_t k = 0; k < 2; ++k) {
                    values[k] = values[k] * tile.scales[i * Form::kGroups / 16];
                    if constexpr (Form::kHasMinima) values[k] -= tile.minimum;
                    float lanes[Simd::width];
                    Simd::store(lanes, values[k]);
                    for (std::size_t n = 0; n < Simd::width; ++n)
                        out[(lane + n) * w.num_columns + t * kTile + 2 * i + k] = lanes[n];
                }
            }
        }
    }
}

template <class Simd>
void unpack_tiles(const Tiles& w, std::size_t panel, float* out) {
    if (is_float(w.format->codes)) return unpack_float_tiles<Simd>(w, panel, out);
    with_form(*w.format, [&](auto form) { unpack_panel<Simd, decltype(form)>(w, panel, out); });
}

}  // namespace
}  // namespace bobot
