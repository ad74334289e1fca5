// Products with tiles whose codes are no integers (tiles.h): FP8, bfloat16, float16, and four bits
// with a table of floats. Activations are floats, so that nothing is rounded but sums; those that
// are bfloat16 numbers meet bfloat16 and FP8 weights, which are such numbers too, in instructions
// that multiply two pairs of them (the processor's AVX512-BF16), twice as many at a time.
//
//     e4m3(from, first, second)      FP8 numbers times 2**-8: at `from`, and 16 behind
//     float_table, look_up_floats    entries of a table of 16 floats, by the low four bits of lanes
//     first_bfloat, second_bfloat    of a pair, as floats
//     bfloat_pairs(first, second)    a register of pairs of two that are bfloat16 numbers
//
// One function, `widened`, says what the codes of a format mean, and `pairs_of_bfloats` in pairs.
#pragma once

#include "packed_formats.h"
#include "tile_loops.h"
#include "tiles.h"

namespace bobot {
namespace {

// Inputs 2r and 2r + 1 of a tile for lanes from `lane` on, as floats.
template <class Simd, Codes kCodes>
__attribute__((always_inline)) inline void widened(const std::uint8_t* tile, std::size_t r,
                                                   std::size_t lane,
                                                   const typename Simd::FloatTable& table,
                                                   typename Simd::Vector& first,
                                                   typename Simd::Vector& second) {
    if constexpr (kCodes == Codes::e4m3) {
        Simd::e4m3(tile + 32 * r + lane, first, second);
    } else if constexpr (kCodes == Codes::halves) {
        first = Simd::halves(tile + 64 * r + 2 * lane);
        second = Simd::halves(tile + 64 * r + 32 + 2 * lane);
    } else if constexpr (kCodes == Codes::bfloats) {
        const auto pairs = Simd::load_ints(tile + 64 * r + 4 * lane);
        first = Simd::first_bfloat(pairs);
        second = Simd::second_bfloat(pairs);
    } else {
        const auto codes = Simd::load_ints(tile + 64 * (r / 4) + 4 * lane);
        const int shift = static_cast<int>(4 * (r % 4));
        first = Simd::look_up_floats(table, codes, shift);
        second = Simd::look_up_floats(table, codes, shift + 16);
    }
}

// The same as a register of bfloat16 pairs, of codes that are such numbers.
template <class Simd, Codes kCodes>
__attribute__((always_inline)) inline typename Simd::Vector pairs_of_bfloats(
    const std::uint8_t* tile, std::size_t r, std::size_t lane) {
    if constexpr (kCodes == Codes::bfloats) {
        return Simd::load(reinterpret_cast<const float*>(tile + 64 * r + 4 * lane));
    } else {
        typename Simd::Vector first, second;
        Simd::e4m3(tile + 32 * r + lane, first, second);
        return Simd::bfloat_pairs(first, second);
    }
}

template <Codes kCodes>
constexpr bool kIsScaled = kCodes == Codes::e4m3 || kCodes == Codes::four_bits_of_floats;
template <Codes kCodes>
constexpr bool kAreBfloats = kCodes == Codes::e4m3 || kCodes == Codes::bfloats;

// The scales of `width` outputs of a panel for tile t; those of FP8 with what e4m3 leaves out.
template <class Simd, Codes kCodes>
typename Simd::Vector float_scale(const Tiles& w, std::size_t panel, std::size_t t,
                                  std::size_t lane) {
    if constexpr (!kIsScaled<kCodes>) return Simd::splat(1.0f);
    const std::size_t number = panel * w.scales_per_panel + t * kTile / w.group;
    const std::uint8_t* from =
        w.data + w.scales_at + (number * kPanel + lane) * scale_bytes(w.scale_kind);
    const auto scale = w.scale_kind == Scales::float32
                           ? Simd::load(reinterpret_cast<const float*>(from))
                       : w.scale_kind == Scales::float16 ? Simd::halves(from)
                                                         : Simd::bfloats(from);
    return kCodes == Codes::e4m3 ? scale * Simd::splat(kE4m3Factor) : scale;
}

// Of `count` tiles those whose sum is in registers before it is scaled and added to what is in
// memory. Sums of sums lose less than one long sum; beside activations of bfloat16 it is nothing.
template <bool kBfloat, bool kHasScales>
std::size_t tiles_at_once(const Tiles& w, std::size_t count) {
    if constexpr (!kHasScales) return kBfloat ? count : 4;
    return w.group % (4 * kTile) == 0 ? 4 : w.group % (2 * kTile) == 0 ? 2 : 1;
}

// dots += the products of one tile of each panel with kRows rows of activations.
template <class Simd, Codes kCodes, std::size_t kRows, std::size_t kPanels, std::size_t kChains>
__attribute__((always_inline)) inline void add_floats(
    const std::uint8_t* const (&tiles)[kPanels], std::size_t lane,
    const typename Simd::FloatTable& table, const float* values,
    typename Simd::Vector (&dots)[kPanels][kRows][kChains]) {
#pragma GCC unroll 4
    for (std::size_t r = 0; r < kTile / 2; ++r) {
        typename Simd::Vector first[kPanels], second[kPanels];
        for (std::size_t p = 0; p < kPanels; ++p)
            widened<Simd, kCodes>(tiles[p], r, lane, table, first[p], second[p]);
        for (std::size_t m = 0; m < kRows; ++m) {
            const auto one = Simd::splat(values[m * kTile + 2 * r]);
            const auto other = Simd::splat(values[m * kTile + 2 * r + 1]);
            for (std::size_t p = 0; p < kPanels; ++p) {
                auto& chains = dots[p][m];
                chains[0] = Simd::fma(first[p], one, chains[0]);
                chains[kChains - 1] = Simd::fma(second[p], other, chains[kChains - 1]);
            }
        }
    }
}

template <class Simd, Codes kCodes, std::size_t kRows, std::size_t kPanels, std::size_t kChains>
__attribute__((always_inline)) inline void add_bfloats(
    const std::uint8_t* const (&tiles)[kPanels], std::size_t lane, const std::uint16_t* values,
    typename Simd::Vector (&dots)[kPanels][kRows][kChains]) {
#pragma GCC unroll 4
    for (std::size_t r = 0; r < kTile / 2; ++r) {
        typename Simd::Vector pairs[kPanels];
        for (std::size_t p = 0; p < kPanels; ++p)
            pairs[p] = pairs_of_bfloats<Simd, kCodes>(tiles[p], r, lane);
        for (std::size_t m = 0; m < kRows; ++m) {
            const auto* pair = reinterpret_cast<const std::uint8_t*>(values + m * kTile + 2 * r);
            const auto both = Simd::splat(load<float>(pair));
            for (std::size_t p = 0; p < kPanels; ++p) {
                auto& dot = dots[p][m][r % kChains];
                dot = Simd::dot_pairs(pairs[p], both, dot);
            }
        }
    }
}

// Where the codes of some tiles in a row lie: in the weight itself, or widened before.
template <std::size_t kPanels>
struct FloatRun {
    const std::uint8_t* tiles[kPanels];
    std::size_t panels[kPanels];
    std::size_t first, end;  // tiles of a panel
};

// Added to out[p][m][lane ..], for the kRows rows of block `b` and `width` outputs of each panel.
// kCodes: in memory, kScaled: of the weight.
template <class Simd, Codes kCodes, Codes kScaled, std::size_t kRows, std::size_t kPanels,
          bool kBfloat>
void sum_float_tiles(const Tiles& w, const FloatRun<kPanels>& run, std::size_t lane,
                         const Activations& x, std::size_t b,
                         float (&out)[kPanels][kRows * kPanel]) {
    // Few rows would wait for one chain of sums, and for memory; many find theirs in the cache.
    constexpr std::size_t kChains = kRows < 8 ? 2 : 1, kAhead = kRows < 8 ? 4096 : 1024;
    constexpr std::size_t kTileBytes = code_bytes(kCodes);
    using Vector = typename Simd::Vector;
    const auto table = Simd::float_table(w.format->float_table);
    const std::size_t at_once =
        tiles_at_once<kBfloat, kIsScaled<kScaled>>(w, run.end - run.first);
    const std::uint8_t* tiles[kPanels];
    for (std::size_t p = 0; p < kPanels; ++p) tiles[p] = run.tiles[p];
    for (std::size_t start = run.first; start < run.end; start += at_once) {
        const std::size_t stop = start + at_once < run.end ? start + at_once : run.end;
        Vector dots[kPanels][kRows][kChains];
        for (auto& panel : dots)
            for (auto& chains : panel)
                for (Vector& dot : chains) dot = Simd::zero();
        for (std::size_t t = start; t < stop; ++t) {
            const std::size_t at = (b * w.num_tiles + t) * kRows * kTile;
            for (std::size_t p = 0; p < kPanels; ++p)
                Simd::template prefetch<kTileBytes>(tiles[p] + kAhead);
            if constexpr (kBfloat)
                add_bfloats<Simd, kCodes, kRows, kPanels, kChains>(tiles, lane, x.bfloats + at,
                                                                   dots);
            else
                add_floats<Simd, kCodes, kRows, kPanels, kChains>(tiles, lane, table,
                                                                  x.values + at, dots);
            for (std::size_t p = 0; p < kPanels; ++p) tiles[p] += kTileBytes;
        }
        for (std::size_t p = 0; p < kPanels; ++p) {
            const Vector scale = float_scale<Simd, kScaled>(w, run.panels[p], start, lane);
            for (std::size_t m = 0; m < kRows; ++m) {
                float* sum = out[p] + m * kPanel + lane;
                Vector total = dots[p][m][0];
                if constexpr (kChains == 2) total += dots[p][m][1];
                Simd::store(sum, Simd::fma(total, scale, Simd::load(sum)));
            }
        }
    }
}

// The rows of block `b`, of every lane, into `out`.
template <class Simd, Codes kCodes, Codes kScaled, std::size_t kRows, std::size_t kPanels,
          bool kBfloat>
void multiply_float_block(const Tiles& w, const FloatRun<kPanels>& run, const Activations& x,
                          std::size_t b, const Outputs& out) {
    const std::size_t row = b * kRows;
    const std::size_t count = x.num_rows - row < kRows ? x.num_rows - row : kRows;
    float sums[kPanels][kRows * kPanel];
    const auto each = [&](auto move) {
        for (std::size_t p = 0; p < kPanels; ++p) {
            const std::size_t n = run.panels[p] * kPanel;
            const std::size_t width = w.num_rows - n < kPanel ? w.num_rows - n : kPanel;
            for (std::size_t m = 0; m < count; ++m)
                move(out.at(row + m, n), sums[p] + m * kPanel, 4 * width);
        }
    };
    std::memset(sums, 0, sizeof sums);
    if (run.first)
        each([](float* there, float* here, std::size_t bytes) { std::memcpy(here, there, bytes); });
    for (std::size_t lane = 0; lane < kPanel; lane += Simd::width)
        sum_float_tiles<Simd, kCodes, kScaled, kRows, kPanels, kBfloat>(w, run, lane, x, b,
                                                                            sums);
    each([](float* there, float* here, std::size_t bytes) { std::memcpy(there, here, bytes); });
}

// As tile_product in tile_loops.h.
template <class Simd, Codes kCodes, std::size_t kRows, bool kBfloat>
void float_panels_product(const Tiles& w, const Activations& x, std::size_t first,
                          std::size_t end, const Outputs& out) {
    constexpr std::size_t kPanels = kRows == 8 ? 2 : 1, kCachedBytes = 1 << 18;
    const std::size_t panel_bytes = w.num_tiles * code_bytes(kCodes);
    const std::size_t fitting = kCachedBytes / panel_bytes / kPanels * kPanels;
    const std::size_t at_once = fitting ? fitting : kPanels;
    for (std::size_t start = first; start < end; start += at_once) {
        const std::size_t stop = start + at_once < end ? start + at_once : end;
        for (std::size_t b = 0; b < x.num_blocks; ++b)
            for (std::size_t panel = start; panel < stop; panel += kPanels) {
                FloatRun<kPanels> run{{}, {}, 0, w.num_tiles};
                for (std::size_t p = 0; p < kPanels; ++p) {
                    run.panels[p] = panel + p < stop ? panel + p : stop - 1;
                    run.tiles[p] = w.data + run.panels[p] * panel_bytes;
                }
                multiply_float_block<Simd, kCodes, kCodes, kRows, kPanels, kBfloat>(
                    w, run, x, b, out);
            }
    }
}

// For many rows: FP8 codes are widened once for all of them, some at a time, into bfloat16 tiles
// that stay in the second-level cache.
template <class Simd, std::size_t kRows>
void e4m3_product_of_many(const Tiles& w, const Activations& x, std::size_t first, std::size_t end,
                          const Outputs& out) {
    constexpr std::size_t kPanels = 4, kRun = 16, kBytes = code_bytes(Codes::bfloats);
    alignas(64) std::uint8_t wide[kPanels][kRun * kBytes];
    for (std::size_t start = first; start < end; start += kPanels) {
        const std::size_t stop = start + kPanels < end ? start + kPanels : end;
        for (std::size_t from = 0; from < w.num_tiles; from += kRun) {
            const std::size_t to = from + kRun < w.num_tiles ? from + kRun : w.num_tiles;
            for (std::size_t panel = start; panel < stop; ++panel)
                for (std::size_t t = from; t < to; ++t) {
                    const std::uint8_t* tile =
                        w.data + (panel * w.num_tiles + t) * code_bytes(Codes::e4m3);
                    std::uint8_t* there = wide[panel - start] + (t - from) * kBytes;
                    for (std::size_t r = 0; r < kTile / 2; ++r)
                        Simd::store(reinterpret_cast<float*>(there + 64 * r),
                                    pairs_of_bfloats<Simd, Codes::e4m3>(tile, r, 0));
                }
            for (std::size_t b = 0; b < x.num_blocks; ++b)
                for (std::size_t panel = start; panel < stop; panel += 2) {
                    const std::size_t other = panel + 1 < stop ? panel + 1 : panel;
                    const FloatRun<2> run{
                        {wide[panel - start], wide[other - start]}, {panel, other}, from, to};
                    multiply_float_block<Simd, Codes::bfloats, Codes::e4m3, kRows, 2, true>(
                        w, run, x, b, out);
                }
        }
    }
}

template <class Simd, Codes kCodes, std::size_t kRows>
void float_tile_product(const Tiles& w, const Activations& x, std::size_t first, std::size_t end,
                        const Outputs& out) {
    if constexpr (Simd::has_dot_pairs && kAreBfloats<kCodes>)
        if (x.type == ActivationType::bfloat16) {
            if constexpr (kCodes == Codes::e4m3 && kRows == 8)
                if (x.num_blocks > 1)
                    return e4m3_product_of_many<Simd, kRows>(w, x, first, end, out);
            return float_panels_product<Simd, kCodes, kRows, true>(w, x, first, end, out);
        }
    float_panels_product<Simd, kCodes, kRows, false>(w, x, first, end, out);
}

template <class Simd, Codes kCodes>
void float_tile_product_of_rows(const Tiles& w, const Activations& x, std::size_t first,
                                std::size_t end, const Outputs& out) {
    switch (x.block_rows) {
        case 1: return float_tile_product<Simd, kCodes, 1>(w, x, first, end, out);
        case 2: return float_tile_product<Simd, kCodes, 2>(w, x, first, end, out);
        case 4: return float_tile_product<Simd, kCodes, 4>(w, x, first, end, out);
    }
    if constexpr (Simd::kMaxRows == 8)
        float_tile_product<Simd, kCodes, 8>(w, x, first, end, out);
}

template <Codes kCodes>
struct Constant {
    static constexpr Codes value = kCodes;
};

// Calls `action` with the codes as a constant.
template <class Action>
void with_float_codes(Codes codes, Action action) {
    switch (codes) {
        case Codes::four_bits_of_floats: return action(Constant<Codes::four_bits_of_floats>());
        case Codes::e4m3: return action(Constant<Codes::e4m3>());
        case Codes::halves: return action(Constant<Codes::halves>());
        default: return action(Constant<Codes::bfloats>());
    }
}

template <class Simd>
void multiply_float_tiles(const Tiles& w, const Activations& x, std::size_t first, std::size_t end,
                          const Outputs& out) {
    with_float_codes(w.format->codes, [&](auto codes) {
        float_tile_product_of_rows<Simd, decltype(codes)::value>(w, x, first, end, out);
    });
}

// The rows of a panel as floats, num_columns each.
template <class Simd, Codes kCodes>
void unpack_float_panel(const Tiles& w, std::size_t panel, float* out) {
    using Vector = typename Simd::Vector;
    const auto table = Simd::float_table(w.format->float_table);
    for (std::size_t lane = 0; lane < kPanel; lane += Simd::width) {
        const std::uint8_t* tile = w.data + panel * w.num_tiles * code_bytes(kCodes);
        for (std::size_t t = 0; t < w.num_tiles; ++t, tile += code_bytes(kCodes)) {
            const Vector scale = float_scale<Simd, kCodes>(w, panel, t, lane);
            for (std::size_t r = 0; r < kTile / 2; ++r) {
                Vector pair[2];
                widened<Simd, kCodes>(tile, r, lane, table, pair[0], pair[1]);
                for (std::size_t i = 0; i < 2; ++i) {
                    if constexpr (kIsScaled<kCodes>) pair[i] = pair[i] * scale;
                    float lanes[Simd::width];
                    Simd::store(lanes, pair[i]);
                    for (std::size_t n = 0; n < Simd::width; ++n)
                        out[(lane + n) * w.num_columns + t * kTile + 2 * r + i] = lanes[n];
                }
            }
        }
    }
}

template <class Simd>
void unpack_float_tiles(const Tiles& w, std::size_t panel, float* out) {
    with_float_codes(w.format->codes,
                     [&](auto codes) {
                         unpack_float_panel<Simd, decltype(codes)::value>(w, panel, out);
                     });
}

}  // namespace
}  // namespace bobot
