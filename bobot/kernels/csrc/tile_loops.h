// Products with tiles (tiles.h), written once over a `Simd` type. Lanes are outputs: a register of pairs
// holds two inputs of `width` outputs, and is multiplied by one pair of an activation in all lanes.
//
//     Ints, pairs_of_codes    four registers of pairs from a vector of 4-bit codes, by look-up
//     pairs_of_bytes, add_bits
//     dot                     sum + first * first + second * second, in 32 bits
//     first, second           the two numbers of a pair as floats
//
// A panel of outputs is multiplied with a block of rows at a time, whose sums stay in registers.
#pragma once

#include "packed_formats.h"
#include "tiles.h"

namespace bobot {
namespace {

// Reads the scales of one panel, tile after tile, for lanes [lane, lane + width).
template <class Simd>
struct ScaleReader {
    using Vector = typename Simd::Vector;

    ScaleReader() = default;
    ScaleReader(const Tiles& w, std::size_t panel, std::size_t lane)
        : scale_kind_(w.scale_kind), steps_kind_(w.format->steps), minima_kind_(w.format->minima),
          each_(scale_bytes(w.scale_kind)) {
        const std::size_t scales = panel * w.scales_per_panel * kPanel + lane;
        scales_ = w.data + w.scales_at + scales * each_;
        minima_ = w.data + w.minima_at + scales * each_;
        steps_ = w.data + w.steps_at + panel * w.steps_per_panel * kPanel + lane;
        min_steps_ = w.data + w.min_steps_at + panel * w.num_tiles * kPanel + lane;
        per_scale_ = w.num_columns / w.scales_per_panel / (w.group < kTile ? w.group : kTile);
    }

    // Of the next 32 inputs, or the next 16 where that is the group.
    Vector next() {
        if (left_ == 0) read();
        --left_;
        if (steps_kind_ == Steps::none) return scale_now_;
        const Vector multiple = steps_kind_ == Steps::signed_bytes ? Simd::signed_bytes(steps_)
                                                                   : Simd::unsigned_bytes(steps_);
        steps_ += kPanel;
        return scale_now_ * multiple;
    }

    // The minimum of the inputs whose scale was read last.
    Vector minimum() {
        if (minima_kind_ == Minima::added) return -minimum_now_;
        const Vector found = minimum_now_ * Simd::unsigned_bytes(min_steps_);
        min_steps_ += kPanel;
        return found;
    }

private:
    void read() {
        scale_now_ = floats(scales_);
        scales_ += kPanel * each_;
        if (minima_kind_ != Minima::none) minimum_now_ = floats(minima_);
        minima_ += kPanel * each_;
        left_ = per_scale_;
    }

    Vector floats(const std::uint8_t* from) const {
        switch (scale_kind_) {
            case Scales::float16: return Simd::halves(from);
            case Scales::bfloat16: return Simd::bfloats(from);
            case Scales::float32: return Simd::load(reinterpret_cast<const float*>(from));
            case Scales::none: return Simd::splat(1.0f);
            case Scales::e8m0: break;
        }
        float found[Simd::width];  // halved, as the tables of E2M1 are doubled
        for (std::size_t i = 0; i < Simd::width; ++i) found[i] = float_of(half_of_e8m0(from[i]));
        return Simd::load(found);
    }

    Scales scale_kind_ = Scales::float32;
    Steps steps_kind_ = Steps::none;
    Minima minima_kind_ = Minima::none;
    std::size_t each_ = 0, per_scale_ = 0, left_ = 0;
    const std::uint8_t *scales_ = nullptr, *steps_ = nullptr, *minima_ = nullptr,
                       *min_steps_ = nullptr;
    Vector scale_now_ = Simd::zero(), minimum_now_ = Simd::zero();
};

// The four registers of pairs from vector v of a tile, for lanes from `lane` on. Codes of bytes are
// what they stand for; others are not yet, the offset is still in them.
template <class Simd, Codes kCodes>
__attribute__((always_inline)) inline void pairs_of(const std::uint8_t* tile, std::size_t v, std::size_t lane,
              const typename Simd::Table& table, typename Simd::Ints* pairs) {
    if constexpr (kCodes == Codes::bytes) {
        for (std::size_t i = 0; i < 4; ++i)
            pairs[i] = Simd::pairs_of_bytes(tile + 32 * (4 * v + i) + 2 * lane);
    } else {
        Simd::pairs_of_codes(tile + 64 * v + 4 * lane, table, pairs);
        if constexpr (kCodes == Codes::five_bits) {
            const auto upper = Simd::load_ints(tile + 256 + 4 * lane);
            for (std::size_t i = 0; i < 4; ++i)
                pairs[i] = Simd::add_bits(pairs[i], upper, static_cast<int>(4 * v + i), 16);
        }
        if constexpr (kCodes == Codes::six_bits) {
            const auto upper = Simd::load_ints(tile + 256 + 64 * (v / 2) + 4 * lane);
            for (std::size_t i = 0; i < 4; ++i)
                pairs[i] = Simd::add_bits(pairs[i], upper, static_cast<int>(2 * (4 * v + i) % 16),
                                          48);
        }
    }
}

// What a product of some panels and one block of rows reads: pointers that move from tile to tile.
template <class Simd, std::size_t kPanels>
struct PanelReaders {
    PanelReaders(const Tiles& w, const std::size_t (&panels)[kPanels], std::size_t lane)
        : table(Simd::table(w.format->table,
                            w.format->codes == Codes::four_bits ? w.format->offset : 0)),
          offset(w.format->offset) {
        const std::size_t panel_bytes = w.num_tiles * code_bytes(w.format->codes);
        for (std::size_t p = 0; p < kPanels; ++p) {
            tiles[p] = w.data + panels[p] * panel_bytes;
            scales[p] = ScaleReader<Simd>(w, panels[p], lane);
        }
    }

    const typename Simd::Table table;
    const std::int32_t offset;
    const std::uint8_t* tiles[kPanels];
    ScaleReader<Simd> scales[kPanels];
};

// Whether codes still need their offset taken off when they are pairs.
template <class Simd, Codes kCodes>
constexpr bool kHasOffset = kCodes == Codes::five_bits || kCodes == Codes::six_bits ||
                            (kCodes == Codes::four_bits && !Simd::kTableHasOffset);

// sums += scale * (codes . x) for one group of inputs: 32-bit integers inside, floats outside.
template <class Simd, Codes kCodes, std::size_t kGroups, std::size_t kRows, std::size_t kPanels>
__attribute__((always_inline)) inline void add_integer_group(PanelReaders<Simd, kPanels>& w, std::size_t g, std::size_t lane,
                       const Activations& x, std::size_t at,
                       typename Simd::Vector (&sums)[kPanels][kRows]) {
    constexpr std::size_t kVectors = 4 / kGroups;
    const std::int16_t* codes = x.codes + at * kTile;
    const std::int32_t* totals = x.sums + at * 2;
    typename Simd::Ints dots[kPanels][kRows];
    for (std::size_t m = 0; m < kRows; ++m) {
        std::int32_t start = 0;
        if constexpr (kHasOffset<Simd, kCodes>)
            start = -w.offset *
                    (kGroups == 2 ? totals[g * kRows + m] : totals[m] + totals[kRows + m]);
        for (std::size_t p = 0; p < kPanels; ++p) dots[p][m] = Simd::splat(start);
    }
#pragma GCC unroll 4
    for (std::size_t v = g * kVectors; v < (g + 1) * kVectors; ++v) {
        typename Simd::Ints pairs[kPanels][4];
        for (std::size_t p = 0; p < kPanels; ++p)
            pairs_of<Simd, kCodes>(w.tiles[p], v, lane, w.table, pairs[p]);
        for (std::size_t i = 0; i < 4; ++i)
            for (std::size_t m = 0; m < kRows; ++m)
                for (std::size_t p = 0; p < kPanels; ++p)
                    dots[p][m] =
                        Simd::dot(dots[p][m], pairs[p][i], codes + m * kTile + 8 * v + 2 * i);
    }
    for (std::size_t p = 0; p < kPanels; ++p) {
        const auto scale = w.scales[p].next();
        for (std::size_t m = 0; m < kRows; ++m)
            sums[p][m] =
                Simd::fma(Simd::to_floats(dots[p][m]), scale * x.scales[at + m], sums[p][m]);
    }
}

// The same in floats.
template <class Simd, Codes kCodes, std::size_t kGroups, std::size_t kRows, std::size_t kPanels>
__attribute__((always_inline)) inline void add_float_group(PanelReaders<Simd, kPanels>& w, std::size_t g, std::size_t lane,
                     const Activations& x, std::size_t at,
                     typename Simd::Vector (&sums)[kPanels][kRows]) {
    constexpr std::size_t kVectors = 4 / kGroups;
    const float* values = x.values + at * kTile;
    const auto offset = Simd::splat(w.offset * 0x10001);
    typename Simd::Vector dots[kPanels][kRows];
    for (auto& panel : dots)
        for (auto& each : panel) each = Simd::zero();
#pragma GCC unroll 4
    for (std::size_t v = g * kVectors; v < (g + 1) * kVectors; ++v) {
        typename Simd::Ints pairs[kPanels][4];
        for (std::size_t p = 0; p < kPanels; ++p)
            pairs_of<Simd, kCodes>(w.tiles[p], v, lane, w.table, pairs[p]);
        for (std::size_t i = 0; i < 4; ++i)
            for (std::size_t p = 0; p < kPanels; ++p) {
                if constexpr (kHasOffset<Simd, kCodes>)
                    pairs[p][i] = Simd::subtract_pairs(pairs[p][i], offset);
                const auto first = Simd::first(pairs[p][i]), second = Simd::second(pairs[p][i]);
                const float* pair = values + 8 * v + 2 * i;
                for (std::size_t m = 0; m < kRows; ++m) {
                    dots[p][m] = Simd::fma(first, Simd::splat(pair[m * kTile]), dots[p][m]);
                    dots[p][m] = Simd::fma(second, Simd::splat(pair[m * kTile + 1]), dots[p][m]);
                }
            }
    }
    for (std::size_t p = 0; p < kPanels; ++p) {
        const auto scale = w.scales[p].next();
        for (std::size_t m = 0; m < kRows; ++m)
            sums[p][m] = Simd::fma(dots[p][m], scale, sums[p][m]);
    }
}

// out[p][m][lane ..] for the kRows rows of block `b` and `width` outputs of each panel.
template <class Simd, Codes kCodes, bool kHasMinima, std::size_t kGroups, std::size_t kRows,
          std::size_t kPanels, bool kInteger>
void block_product(const Tiles& tiles, const std::size_t (&panels)[kPanels], std::size_t lane,
                   const Activations& x, std::size_t b, float (&out)[kPanels][kRows * kPanel]) {
    // Few rows wait for memory, many compute on what is in the cache.
    constexpr std::size_t kTileBytes = code_bytes(kCodes), kAhead = kRows < 8 ? 4096 : 1024;
    PanelReaders<Simd, kPanels> w(tiles, panels, lane);
    typename Simd::Vector sums[kPanels][kRows];
    for (auto& panel : sums)
        for (auto& each : panel) each = Simd::zero();
    for (std::size_t t = 0; t < tiles.num_tiles; ++t) {
        const std::size_t at = (b * tiles.num_tiles + t) * kRows;
        for (std::size_t p = 0; p < kPanels; ++p)
            Simd::template prefetch<kTileBytes>(w.tiles[p] + kAhead);
        for (std::size_t g = 0; g < kGroups; ++g)
            if constexpr (kInteger)
                add_integer_group<Simd, kCodes, kGroups, kRows, kPanels>(w, g, lane, x, at, sums);
            else
                add_float_group<Simd, kCodes, kGroups, kRows, kPanels>(w, g, lane, x, at, sums);
        for (std::size_t p = 0; p < kPanels; ++p) {
            w.tiles[p] += kTileBytes;
            if constexpr (kHasMinima) {
                const auto minimum = w.scales[p].minimum();
                for (std::size_t m = 0; m < kRows; ++m) sums[p][m] -= minimum * x.totals[at + m];
            }
        }
    }
    for (std::size_t p = 0; p < kPanels; ++p)
        for (std::size_t m = 0; m < kRows; ++m)
            Simd::store(out[p] + m * kPanel + lane, sums[p][m]);
}

// out[m * out_stride + n] = sum over k of x[m, k] * w[n, k], for outputs n of panels [first, end). As
// many panels at a time as stay in the second-level cache while all rows pass.
template <class Simd, Codes kCodes, bool kHasMinima, std::size_t kGroups, std::size_t kRows>
void tile_product(const Tiles& w, const Activations& x, std::size_t first, std::size_t end,
                  float* out, std::size_t out_stride) {
    // Two panels share every activation that is read, where the registers hold so many sums.
    constexpr std::size_t kPanels = kRows == 8 ? 2 : 1, kCachedBytes = 1 << 18;
    const std::size_t panel_bytes = w.num_tiles * code_bytes(kCodes);
    const std::size_t fitting = kCachedBytes / panel_bytes / kPanels * kPanels;
    const std::size_t at_once = fitting ? fitting : kPanels;
    for (std::size_t start = first; start < end; start += at_once) {
        const std::size_t stop = start + at_once < end ? start + at_once : end;
        for (std::size_t b = 0; b < x.num_blocks; ++b) {
            const std::size_t row = b * kRows;
            const std::size_t count = x.num_rows - row < kRows ? x.num_rows - row : kRows;
            for (std::size_t panel = start; panel < stop; panel += kPanels) {
                std::size_t panels[kPanels];
                for (std::size_t p = 0; p < kPanels; ++p)
                    panels[p] = panel + p < stop ? panel + p : stop - 1;
                float sums[kPanels][kRows * kPanel];
                for (std::size_t lane = 0; lane < kPanel; lane += Simd::width)
                    if (x.is_integer)
                        block_product<Simd, kCodes, kHasMinima, kGroups, kRows, kPanels, true>(
                            w, panels, lane, x, b, sums);
                    else
                        block_product<Simd, kCodes, kHasMinima, kGroups, kRows, kPanels, false>(
                            w, panels, lane, x, b, sums);
                for (std::size_t p = 0; p < kPanels; ++p) {
                    const std::size_t n = panels[p] * kPanel;
                    const std::size_t width = w.num_rows - n < kPanel ? w.num_rows - n : kPanel;
                    for (std::size_t m = 0; m < count; ++m)
                        std::memcpy(out + (row + m) * out_stride + n, sums[p] + m * kPanel,
                                    4 * width);
                }
            }
        }
    }
}

template <class Simd, Codes kCodes, bool kHasMinima, std::size_t kGroups>
void tile_product_of_rows(const Tiles& w, const Activations& x, std::size_t first, std::size_t end,
                          float* out, std::size_t out_stride) {
    switch (x.block_rows) {
        case 1: return tile_product<Simd, kCodes, kHasMinima, kGroups, 1>(w, x, first, end, out, out_stride);
        case 2: return tile_product<Simd, kCodes, kHasMinima, kGroups, 2>(w, x, first, end, out, out_stride);
        case 4: return tile_product<Simd, kCodes, kHasMinima, kGroups, 4>(w, x, first, end, out, out_stride);
    }
    if constexpr (Simd::kMaxRows == 8)
        tile_product<Simd, kCodes, kHasMinima, kGroups, 8>(w, x, first, end, out, out_stride);
}

// tile_floats.h
template <class Simd>
void multiply_float_tiles(const Tiles& w, const Activations& x, std::size_t first, std::size_t end,
                          float* out, std::size_t out_stride);
template <class Simd>
void unpack_float_tiles(const Tiles& w, std::size_t panel, float* out);

template <class Simd>
void multiply_tiles(const Tiles& w, const Activations& x, std::size_t first, std::size_t end,
                    float* out, std::size_t out_stride) {
    if (is_float(w.format->codes))
        return multiply_float_tiles<Simd>(w, x, first, end, out, out_stride);
    const bool has_minima = w.format->minima != Minima::none;
    const auto product = [&]() {
        switch (w.format->codes) {
            case Codes::four_bits:
                return has_minima ? tile_product_of_rows<Simd, Codes::four_bits, true, 1>
                                  : tile_product_of_rows<Simd, Codes::four_bits, false, 1>;
            case Codes::five_bits:
                return has_minima ? tile_product_of_rows<Simd, Codes::five_bits, true, 1>
                                  : tile_product_of_rows<Simd, Codes::five_bits, false, 1>;
            case Codes::six_bits: return tile_product_of_rows<Simd, Codes::six_bits, false, 2>;
            default: break;
        }
        return tile_product_of_rows<Simd, Codes::bytes, false, 1>;
    }();
    product(w, x, first, end, out, out_stride);
}

// 32 floats as integers of 16 bits times the returned scale, and the sums of both halves.
inline float round_to_integers(const float* from, std::int16_t* codes, std::int32_t* sums) {
    std::uint32_t largest_bits = 0;
    for (std::size_t i = 0; i < kTile; ++i) {
        const std::uint32_t bits = bits_of(from[i]) & 0x7fffffffu;
        largest_bits = bits > largest_bits ? bits : largest_bits;
    }
    const float largest = float_of(largest_bits);
    const bool is_finite = largest_bits < 0x7f800000u;
    const float factor = is_finite && largest > 1e-30f ? 32767.0f / largest : 0.0f;
    constexpr float kRounder = 12582912.0f;  // 1.5 * 2**23: what is added to it is rounded
    for (std::size_t half = 0; half < 2; ++half) {
        std::int32_t sum = 0;
        for (std::size_t i = 16 * half; i < 16 * half + 16; ++i) {
            const float value = is_finite ? from[i] * factor : 0.0f;
            const auto code = static_cast<std::int32_t>(bits_of(value + kRounder) - bits_of(kRounder));
            codes[i] = static_cast<std::int16_t>(code);
            sum += code;
        }
        sums[half] = sum;
    }
    return is_finite ? largest / 32767.0f : __builtin_nanf("");
}

// Fills blocks [first, end) of `x` from rows of floats.
inline void fill_activations(const float* from, const Activations& x, std::size_t first,
                             std::size_t end) {
    const std::size_t tiles = x.num_columns / kTile, rows = x.block_rows;
    for (std::size_t b = first; b < end; ++b)
        for (std::size_t m = 0; m < rows; ++m) {
            const std::size_t row = b * rows + m;
            for (std::size_t t = 0; t < tiles; ++t) {
                const std::size_t at = (b * tiles + t) * rows + m;
                float values[kTile] = {};
                if (row < x.num_rows)
                    std::memcpy(values, from + row * x.num_columns + t * kTile, sizeof values);
                if (x.is_integer) {
                    std::int32_t sums[2];
                    x.scales[at] = round_to_integers(values, x.codes + at * kTile, sums);
                    for (std::size_t h = 0; h < 2; ++h)
                        x.sums[((b * tiles + t) * 2 + h) * rows + m] = sums[h];
                    x.totals[at] = x.scales[at] * static_cast<float>(sums[0] + sums[1]);
                } else {
                    if (x.is_bfloat)
                        for (std::size_t i = 0; i < kTile; ++i)
                            x.bfloats[at * kTile + i] =
                                static_cast<std::uint16_t>(bits_of(values[i]) >> 16);
                    else
                        std::memcpy(x.values + at * kTile, values, sizeof values);
                    float total = 0;
                    for (float value : values) total += value;
                    x.totals[at] = total;
                }
            }
        }
}

// Rows of the weights as floats: [first, end), `out` with num_columns for each.
template <class Simd, Codes kCodes, std::size_t kGroups>
void unpack_panel(const Tiles& w, std::size_t panel, float* out) {
    constexpr std::size_t kTileBytes = code_bytes(kCodes), kVectors = 4 / kGroups;
    using Vector = typename Simd::Vector;
    const auto table =
        Simd::table(w.format->table, kCodes == Codes::four_bits ? w.format->offset : 0);
    const auto offset = Simd::splat(w.format->offset * 0x10001);
    for (std::size_t lane = 0; lane < kPanel; lane += Simd::width) {
        ScaleReader<Simd> reader(w, panel, lane);
        const std::uint8_t* tile = w.data + panel * w.num_tiles * kTileBytes;
        for (std::size_t t = 0; t < w.num_tiles; ++t, tile += kTileBytes) {
            Vector values[kTile];
            for (std::size_t g = 0; g < kGroups; ++g) {
                const Vector scale = reader.next();
                for (std::size_t v = g * kVectors; v < (g + 1) * kVectors; ++v) {
                    typename Simd::Ints pairs[4];
                    pairs_of<Simd, kCodes>(tile, v, lane, table, pairs);
                    for (std::size_t i = 0; i < 4; ++i) {
                        if constexpr (kHasOffset<Simd, kCodes>)
                            pairs[i] = Simd::subtract_pairs(pairs[i], offset);
                        values[8 * v + 2 * i] = Simd::first(pairs[i]) * scale;
                        values[8 * v + 2 * i + 1] = Simd::second(pairs[i]) * scale;
                    }
                }
            }
            if (w.format->minima != Minima::none) {
                const Vector minimum = reader.minimum();
                for (Vector& value : values) value -= minimum;
            }
            for (std::size_t k = 0; k < kTile; ++k) {
                float lanes[Simd::width];
                Simd::store(lanes, values[k]);
                for (std::size_t n = 0; n < Simd::width; ++n)
                    out[(lane + n) * w.num_columns + t * kTile + k] = lanes[n];
            }
        }
    }
}

template <class Simd>
void unpack_tiles(const Tiles& w, std::size_t panel, float* out) {
    switch (w.format->codes) {
        case Codes::four_bits: return unpack_panel<Simd, Codes::four_bits, 1>(w, panel, out);
        case Codes::five_bits: return unpack_panel<Simd, Codes::five_bits, 1>(w, panel, out);
        case Codes::six_bits: return unpack_panel<Simd, Codes::six_bits, 2>(w, panel, out);
        case Codes::bytes: return unpack_panel<Simd, Codes::bytes, 1>(w, panel, out);
        default: return unpack_float_tiles<Simd>(w, panel, out);
    }
}

}  // namespace
}  // namespace bobot
