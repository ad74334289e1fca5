// Products of tiles with activations rounded to 16 or to 8 bits, written once over a `Simd` type:
//
//     dot                     sum + the products of one pair of an activation
//     dot_quads               sum + the products of kRun<largest value> quads of an activation
//
// 32-bit integers inside a group of inputs, floats outside. A few rows are multiplied while tiles
// are unpacked. For many, a run of tiles of some panels is unpacked once and multiplied with one
// block of rows after the other: it stays in the first-level cache, and the weights come from
// memory once.
#pragma once

#include "tile_quads.h"

namespace bobot {
namespace {

constexpr std::size_t kRunTiles = 8;
constexpr std::size_t kFewBlocks = 4;  // up to so many, tiles are unpacked as they are multiplied
constexpr std::size_t kBlocks = 16;    // of rows, whose sums stay in the cache with a run of tiles

template <class FormOf, std::size_t kPanelsOf, std::size_t kRowsOf, ActivationType kTypeOf>
struct IntegerPlan {
    using Form = FormOf;
    static constexpr std::size_t kPanels = kPanelsOf, kRows = kRowsOf;
    static constexpr ActivationType kType = kTypeOf;
    static constexpr int kLargest = Form::kIsSigned                    ? 128
                                    : Form::kCodes == Codes::six_bits ? 63
                                                                      : 31;
};

template <class Simd, class Plan>
using Sums = typename Simd::Vector[Plan::kPanels][Plan::kRows];

template <class Simd, class Plan>
using TileOfPlan = UnpackedTile<Simd, Plan::Form::kGroups>;

template <class Simd, class Plan>
void clear(Sums<Simd, Plan>& sums) {
    for (auto& panel : sums)
        for (auto& each : panel) each = Simd::zero();
}

// dots[p][m] += the quads of group g of tiles[p], times the activations of row m from `at` on.
template <class Simd, class Plan>
__attribute__((always_inline)) inline void add_dots(
    const TileOfPlan<Simd, Plan>* const* tiles, std::size_t g, const Activations& x, std::size_t at,
    typename Simd::Ints (&dots)[Plan::kPanels][Plan::kRows]) {
    constexpr std::size_t kQuads = 8 / Plan::Form::kGroups;
    if constexpr (Plan::kType == ActivationType::int8) {
        constexpr std::size_t kRun = Simd::template kRun<Plan::kLargest>;
        const std::int8_t* codes = x.bytes + at * kTile;
#pragma GCC unroll 8
        for (std::size_t q = g * kQuads; q < (g + 1) * kQuads; q += kRun)
            for (std::size_t m = 0; m < Plan::kRows; ++m)
                for (std::size_t p = 0; p < Plan::kPanels; ++p)
                    dots[p][m] = Simd::template dot_quads<Plan::kLargest>(
                        dots[p][m], tiles[p]->quads + q, codes + m * kTile + 4 * q);
    } else {
        const std::int16_t* codes = x.codes + at * kTile;
#pragma GCC unroll 16
        for (std::size_t i = g * 2 * kQuads; i < (g + 1) * 2 * kQuads; ++i) {
            typename Simd::Ints pairs[Plan::kPanels];
            for (std::size_t p = 0; p < Plan::kPanels; ++p)
                pairs[p] = pair_of<Simd>(tiles[p]->quads, i);
            for (std::size_t m = 0; m < Plan::kRows; ++m)
                for (std::size_t p = 0; p < Plan::kPanels; ++p)
                    dots[p][m] = Simd::dot(dots[p][m], pairs[p], codes + m * kTile + 2 * i);
        }
    }
}

// sums[p][m] += the 32 inputs of a tile; `at` counts them from the first row of a block on.
template <class Simd, class Plan>
__attribute__((always_inline)) inline void add_tile(const TileOfPlan<Simd, Plan>* const* tiles,
                                                    std::int32_t offset, const Activations& x,
                                                    std::size_t at, Sums<Simd, Plan>& sums) {
    constexpr std::size_t kRows = Plan::kRows;
    const std::int32_t* totals = x.sums + 2 * at;
#pragma GCC unroll 2
    for (std::size_t g = 0; g < Plan::Form::kGroups; ++g) {
        std::int32_t starts[kRows];
        for (std::size_t m = 0; m < kRows; ++m)
            starts[m] = Plan::Form::kIsSigned      ? 0
                        : Plan::Form::kGroups == 2 ? -offset * totals[g * kRows + m]
                                                   : -offset * (totals[m] + totals[kRows + m]);
        typename Simd::Ints dots[Plan::kPanels][kRows];
        for (auto& panel : dots)
            for (std::size_t m = 0; m < kRows; ++m) panel[m] = Simd::splat(starts[m]);
        add_dots<Simd, Plan>(tiles, g, x, at, dots);
        for (std::size_t p = 0; p < Plan::kPanels; ++p)
            for (std::size_t m = 0; m < kRows; ++m)
                sums[p][m] = Simd::fma(Simd::to_floats(dots[p][m]),
                                       tiles[p]->scales[g] * x.scales[at + m], sums[p][m]);
    }
    if constexpr (Plan::Form::kHasMinima)
        for (std::size_t p = 0; p < Plan::kPanels; ++p)
            for (std::size_t m = 0; m < kRows; ++m)
                sums[p][m] =
                    Simd::fma(-tiles[p]->minimum, Simd::splat(x.totals[at + m]), sums[p][m]);
}

// Sums of the rows of block `b` and `width` outputs of each panel, into the result.
template <class Simd, class Plan>
void write_sums(const Tiles& w, const std::size_t (&panels)[Plan::kPanels], std::size_t lane,
                const Activations& x, std::size_t b, const Sums<Simd, Plan>& sums,
                const Outputs& out) {
    const std::size_t row = b * Plan::kRows;
    const std::size_t num_rows = x.num_rows - row < Plan::kRows ? x.num_rows - row : Plan::kRows;
    for (std::size_t p = 0; p < Plan::kPanels; ++p) {
        const std::size_t n = panels[p] * kPanel + lane;
        const std::size_t left = n < w.num_rows ? w.num_rows - n : 0;
        for (std::size_t m = 0; m < num_rows; ++m) {
            float lanes[Simd::width];
            Simd::store(lanes, sums[p][m]);
            std::memcpy(out.at(row + m, n), lanes,
                        4 * (left < Simd::width ? left : Simd::width));
        }
    }
}

// Block `b` of rows, with each tile of a panel as it is unpacked.
template <class Simd, class Plan>
void multiply_block(const Tiles& w, std::size_t panel, std::size_t lane, const Activations& x,
                    std::size_t b, const Outputs& out) {
    constexpr std::size_t kAhead = 4096;
    const std::int32_t offset = offset_of_quads(*w.format);
    TileReader<Simd, typename Plan::Form> reader(w, panel, lane);
    Sums<Simd, Plan> sums;
    clear<Simd, Plan>(sums);
    for (std::size_t t = 0; t < w.num_tiles; ++t) {
        Simd::template prefetch<Plan::Form::kBytes>(reader.codes() + kAhead);
        TileOfPlan<Simd, Plan> tile;
        reader.next(tile);
        const TileOfPlan<Simd, Plan>* tiles[] = {&tile};
        add_tile<Simd, Plan>(tiles, offset, x, (b * w.num_tiles + t) * Plan::kRows, sums);
    }
    write_sums<Simd, Plan>(w, {panel}, lane, x, b, sums, out);
}

// Blocks [first, end) of rows, kBlocks at most, for one run of unpacked tiles after the other.
template <class Simd, class Plan>
void multiply_blocks(const Tiles& w, const std::size_t (&panels)[Plan::kPanels], std::size_t lane,
                     const Activations& x, std::size_t first, std::size_t end, const Outputs& out) {
    using Form = typename Plan::Form;
    constexpr std::size_t kPanels = Plan::kPanels;
    const std::int32_t offset = offset_of_quads(*w.format);
    TileReader<Simd, Form> readers[kPanels];
    for (std::size_t p = 0; p < kPanels; ++p) readers[p] = {w, panels[p], lane};
    TileOfPlan<Simd, Plan> run[kPanels][kRunTiles];
    Sums<Simd, Plan> sums[kBlocks];
    for (std::size_t b = first; b < end; ++b) clear<Simd, Plan>(sums[b - first]);
    for (std::size_t start = 0; start < w.num_tiles; start += kRunTiles) {
        const std::size_t count = w.num_tiles - start < kRunTiles ? w.num_tiles - start : kRunTiles;
        const std::uint8_t* ahead[kPanels];
        for (std::size_t p = 0; p < kPanels; ++p) {
            for (std::size_t t = 0; t < count; ++t) readers[p].next(run[p][t]);
            // The next run, or the first one of the next panels.
            ahead[p] = readers[p].codes();
            if (start + count == w.num_tiles)
                ahead[p] += (kPanels - 1) * w.num_tiles * Form::kBytes;
        }
        for (std::size_t b = first; b < end; ++b) {
            Sums<Simd, Plan> now;
            std::memcpy(&now, &sums[b - first], sizeof now);
            for (std::size_t t = 0; t < count; ++t) {
                const TileOfPlan<Simd, Plan>* tiles[kPanels];
                for (std::size_t p = 0; p < kPanels; ++p) {
                    if (b == first)
                        Simd::template prefetch<Form::kBytes>(ahead[p] + t * Form::kBytes);
                    tiles[p] = run[p] + t;
                }
                const std::size_t at = (b * w.num_tiles + start + t) * Plan::kRows;
                add_tile<Simd, Plan>(tiles, offset, x, at, now);
            }
            std::memcpy(&sums[b - first], &now, sizeof now);
        }
    }
    for (std::size_t b = first; b < end; ++b)
        write_sums<Simd, Plan>(w, panels, lane, x, b, sums[b - first], out);
}

// out.at(m, n) = sum over k of x[m, k] * w[n, k], for outputs n of panels [first, end),
// each of which is unpacked for every block of rows.
template <class Simd, class Form, std::size_t kRows, ActivationType kType>
void product_of_few(const Tiles& w, const Activations& x, std::size_t first, std::size_t end,
                      const Outputs& out) {
    using Plan = IntegerPlan<Form, 1, kRows, kType>;
    for (std::size_t panel = first; panel < end; ++panel)
        for (std::size_t lane = 0; lane < kPanel; lane += Simd::width)
            for (std::size_t b = 0; b < x.num_blocks; ++b)
                multiply_block<Simd, Plan>(w, panel, lane, x, b, out);
}

// The same for many blocks, all of kMaxRows rows.
template <class Simd, class Form, ActivationType kType>
void product_of_many(const Tiles& w, const Activations& x, std::size_t first, std::size_t end,
                       const Outputs& out) {
    // Two panels share every activation that is read, where there are registers for the dots.
    constexpr std::size_t kPanels = Simd::kMaxRows == 8 ? 2 : 1;
    using Plan = IntegerPlan<Form, kPanels, Simd::kMaxRows, kType>;
    for (std::size_t b = 0; b < x.num_blocks; b += kBlocks) {
        const std::size_t stop = b + kBlocks < x.num_blocks ? b + kBlocks : x.num_blocks;
        for (std::size_t panel = first; panel < end; panel += kPanels) {
            std::size_t panels[kPanels];
            for (std::size_t p = 0; p < kPanels; ++p)
                panels[p] = panel + p < end ? panel + p : end - 1;
            for (std::size_t lane = 0; lane < kPanel; lane += Simd::width)
                multiply_blocks<Simd, Plan>(w, panels, lane, x, b, stop, out);
        }
    }
}

template <class Simd, class Form, ActivationType kType>
void integer_product(const Tiles& w, const Activations& x, std::size_t first, std::size_t end,
                     const Outputs& out) {
    if (x.num_blocks > kFewBlocks)
        return product_of_many<Simd, Form, kType>(w, x, first, end, out);
    switch (x.block_rows) {
        case 1: return product_of_few<Simd, Form, 1, kType>(w, x, first, end, out);
        case 2: return product_of_few<Simd, Form, 2, kType>(w, x, first, end, out);
        case 4: return product_of_few<Simd, Form, 4, kType>(w, x, first, end, out);
    }
    if constexpr (Simd::kMaxRows == 8)
        product_of_few<Simd, Form, 8, kType>(w, x, first, end, out);
}

}  // namespace
}  // namespace bobot
