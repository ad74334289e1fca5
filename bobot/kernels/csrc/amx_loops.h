// Products of many rows with tiles (tiles.h) by a matrix unit (amx_unit.h), over a `Simd` type for
// what it does not do. Both factors are rounded to bfloat16, sums are float32.
//
// Two panels and 256 of their inputs are widened at a time (amx_widen.h), 16 KiB that stay in the
// first-level cache while all rows of a part, 256 at most, pass in blocks of 32: two by two
// registers of sums, two of rows, two of weights, so that one register is loaded for each product.
// Sums leave the registers every 256 inputs, for the second-level cache, where the same 256 inputs
// of all rows stay for the next panels. Where all inputs of the rows fit in it, a pair of panels is
// multiplied to its end instead, and weights are read in the order in which they lie.
//
// No machine with AMX was at hand: the sizes are reasoned from published costs (a product starts
// every 16 cycles, a load takes 8), not measured. Sums take 256 KiB a thread, too much for the
// stacks of some.
//
// The unit works on its own: a pass over 8 blocks of weights is some 300 micro-operations and 512
// cycles of products. So the next weights are widened, some between any two passes, while the unit
// is busy, into a second buffer, and the next inputs of the rows are fetched.
#pragma once

#include "amx_widen.h"
#include "matrix_unit.h"

namespace bobot {
namespace {

constexpr std::size_t kChunkTiles = 8, kPartBlocks = 8, kPairsAtOnce = 8;
constexpr std::size_t kNearBytes = 1 << 19;  // a quarter of the second-level cache
constexpr std::size_t kSumsOfBlock = kUnitRows * 2 * kPanel, kBlockTile = kUnitRows * kTile;

// One or two panels and some of their tiles.
struct Job {
    std::size_t panel, num_panels, tile, num_tiles, slot;  // slot: the place of their sums
    std::size_t size() const { return num_panels * num_tiles; }
};

// The order of jobs for one part of the rows: chunk after chunk of as many pairs as are multiplied
// at once.
struct Jobs {
    std::size_t first, end, num_tiles, pairs_at_once;

    std::size_t num_pairs() const { return (end - first + 1) / 2; }
    std::size_t num_chunks() const { return (num_tiles + kChunkTiles - 1) / kChunkTiles; }
    std::size_t count() const { return num_pairs() * num_chunks(); }
    Job at(std::size_t index) const {
        if (index >= count()) return {};
        const std::size_t group = index / (num_chunks() * pairs_at_once) * pairs_at_once;
        const std::size_t left = num_pairs() - group;
        const std::size_t pairs = left < pairs_at_once ? left : pairs_at_once;
        const std::size_t inside = index - group * num_chunks();
        const std::size_t slot = inside % pairs, tile = inside / pairs * kChunkTiles;
        const std::size_t panel = first + 2 * (group + slot);
        return {panel, end - panel < 2 ? 1 : std::size_t{2}, tile,
                num_tiles - tile < kChunkTiles ? num_tiles - tile : kChunkTiles, slot};
    }
};

// The weights of a job and where they are read.
template <class Simd>
class JobWeights {
public:
    explicit JobWeights(const Tiles& w)
        : w_(w), table_(code_table<Simd>(*w.format)), widen_(widening_of<Simd>(*w.format)) {}

    // Those of the `job` with places [first, end) among its tiles, panel by panel. Each job in its
    // turn.
    void widen(const Job& job, std::size_t first, std::size_t end, std::uint16_t* to) {
        while (first < end) {
            const std::size_t p = first / job.num_tiles, tile = first % job.num_tiles;
            const std::size_t left = job.num_tiles - tile;
            const std::size_t count = left < end - first ? left : end - first;
            PanelPlace<Simd>& place = places_[job.slot][p];
            if (job.tile + tile == 0) {
                const std::size_t panel = job.panel + p;
                place.tile = w_.data + panel * w_.num_tiles * code_bytes(w_.format->codes);
                place.scales = ScaleReader<Simd>(w_, panel, 0);
            }
            widen_(place, table_, count, to + (p * kChunkTiles + tile) * kPairsOfTile);
            first += count;
        }
    }

private:
    const Tiles& w_;
    const CodeTable<Simd> table_;
    const Widening<Simd> widen_;
    PanelPlace<Simd> places_[kPairsAtOnce][2];
};

// sums (4 of 16 x 16) += rows . weights over the tiles of a job; the first of a panel starts at 0.
template <class Unit, std::size_t kRowTiles, std::size_t kPanels>
void add_block(Unit& unit, const std::uint16_t* rows, const std::uint16_t* weights,
               std::size_t num_tiles, bool is_first, float* sums) {
    constexpr std::size_t kRowBytes = 64;
    for_each_sum<kRowTiles, kPanels>([&](auto sum) {
        constexpr int kSum = decltype(sum)::number;
        if (is_first)
            unit.template zero<kSum>();
        else
            unit.template load<kSum>(sums + kSum * kPanel * 16, kRowBytes);
    });
    constexpr std::size_t kNumber = sizeof *rows;
    const UnitFactor left{rows, kRowBytes, kBlockTile * kNumber, 16 * kTile * kNumber};
    const UnitFactor right{weights, kRowBytes, kPairsOfTile * kNumber,
                           kChunkTiles * kPairsOfTile * kNumber};
    add_products<Unit, kRowTiles, kPanels>(unit, left, right, num_tiles);
    for_each_sum<kRowTiles, kPanels>([&](auto sum) {
        constexpr int kSum = decltype(sum)::number;
        unit.template store<kSum>(sums + kSum * kPanel * 16, kRowBytes);
    });
}

// The rows and outputs that there are, from the sums of a block and a job, to rows from `row` on.
inline void copy_sums(const float* sums, const Job& job, const Tiles& w, std::size_t row,
                      std::size_t num_rows, const Outputs& out) {
    const std::size_t n = job.panel * kPanel, width = job.num_panels * kPanel;
    const std::size_t num_outputs = w.num_rows - n < width ? w.num_rows - n : width;
    for (std::size_t m = 0; m < num_rows; ++m) {
        const float* from = sums + m / 16 * kSumsOfBlock / 2 + m % 16 * kPanel;
        float* to = out.at(row + m, n);
        if (num_outputs == 2 * kPanel) {  // both lines of a page at once
            std::memcpy(to, from, kPanel * sizeof(float));
            std::memcpy(to + kPanel, from + kSumsOfBlock / 4, kPanel * sizeof(float));
        } else {
            for (std::size_t i = 0; i < num_outputs; ++i)
                to[i] = from[i / kPanel * (kSumsOfBlock / 4) + i % kPanel];
        }
    }
}

// The part of a block's next inputs that falls to a job, into the second-level cache.
inline void fetch_next(const Activations& x, std::size_t block, const Jobs& jobs, const Job& job) {
    const std::size_t first = job.tile + job.num_tiles;
    const std::size_t left = jobs.num_tiles - first;
    const std::size_t lines = (left < kChunkTiles ? left : kChunkTiles) * kUnitRows;
    const std::uint16_t* next = x.bfloats + (block * jobs.num_tiles + first) * kBlockTile;
    for (std::size_t i = lines * job.slot / jobs.pairs_at_once;
         i < lines * (job.slot + 1) / jobs.pairs_at_once; ++i)
        __builtin_prefetch(next + i * kTile, 0, 2);
}

using PartSums = float[kPairsAtOnce][kPartBlocks][kSumsOfBlock];

inline PartSums& part_sums() {
    alignas(64) static thread_local PartSums sums;
    return sums;
}

// All jobs of the rows of blocks [first, end).
template <class Simd, class Unit>
void multiply_part(const Tiles& w, const Activations& x, std::size_t first, std::size_t end,
                   const Jobs& jobs, const Outputs& out) {
    constexpr decltype(&add_block<Unit, 1, 1>) kAdd[2][2] = {
        {add_block<Unit, 1, 1>, add_block<Unit, 1, 2>},
        {add_block<Unit, 2, 1>, add_block<Unit, 2, 2>}};
    alignas(64) std::uint16_t widened[2][2 * kChunkTiles * kPairsOfTile];
    PartSums& sums = part_sums();
    Unit unit;
    JobWeights<Simd> weights(w);
    Job next = jobs.at(0);
    weights.widen(next, 0, next.size(), widened[0]);
    for (std::size_t j = 0; j < jobs.count(); ++j) {
        const Job job = next;
        next = jobs.at(j + 1);
        for (std::size_t b = first; b < end; ++b) {
            const std::size_t row = b * kUnitRows, left = x.num_rows - row;
            float* totals = sums[job.slot][b - first];
            kAdd[left > 16][job.num_panels - 1](
                unit, x.bfloats + (b * w.num_tiles + job.tile) * kBlockTile, widened[j % 2],
                job.num_tiles, job.tile == 0, totals);
            if (job.tile + job.num_tiles == w.num_tiles)
                copy_sums(totals, job, w, row, left < kUnitRows ? left : kUnitRows, out);
            weights.widen(next, next.size() * (b - first) / (end - first),
                          next.size() * (b + 1 - first) / (end - first), widened[(j + 1) % 2]);
            if (jobs.pairs_at_once > 1) fetch_next(x, b, jobs, job);
        }
    }
}

template <class Simd, class Unit>
void multiply_by_unit(const Tiles& w, const Activations& x, std::size_t first, std::size_t end,
                      const Outputs& out) {
    const std::size_t num_parts = (x.num_blocks + kPartBlocks - 1) / kPartBlocks;
    for (std::size_t part = 0; part < num_parts; ++part) {
        const std::size_t from = x.num_blocks * part / num_parts;
        const std::size_t to = x.num_blocks * (part + 1) / num_parts;
        const bool is_near = (to - from) * w.num_tiles * kBlockTile * 2 <= kNearBytes;
        const Jobs jobs{first, end, w.num_tiles, is_near ? 1 : kPairsAtOnce};
        multiply_part<Simd, Unit>(w, x, from, to, jobs, out);
    }
}

template <class Vectors, class Unit>
struct ManyRows<WithUnit<Vectors, Unit>> {
    static constexpr bool kHasUnit = true;
    using FewRows = Vectors;
    static void multiply(const Tiles& w, const Activations& x, std::size_t first, std::size_t end,
                         const Outputs& out) {
        multiply_by_unit<Vectors, Unit>(w, x, first, end, out);
    }
};

// The kernels of Vectors, with a unit for many rows.
template <class Vectors, class Unit>
constexpr Kernels kernels_with_unit() {
    using Simd = WithUnit<Vectors, Unit>;
    Kernels found = kernels<Vectors>();
    found.has_unit = true;
    found.multiply_tiles = multiply_tiles<Simd>;
    found.decode = decode<Simd>;
    found.attend_rows = attend_rows<Simd>;
    return found;
}

}  // namespace
}  // namespace bobot
