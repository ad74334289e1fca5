// Many rows against tiles of keys and values that are packed once for all rows of a task, as
// float32 or as pairs of bfloat16. Some rows at a time go through both products, queries by keys
// and weights by values, so that their scores and what they are multiplied by stay in the
// first-level cache. Here are the products by vectors; attention_unit.h has those by a matrix unit.
#pragma once

#include "attention_rows.h"

namespace bobot {
namespace {

// Loops over registers are unrolled by pragma: only then does the compiler keep them in registers.

// c (kRows, kVectors registers) = a (kRows, depth) @ b (depth, ..), plus c times the row's factor
// where there are factors.
template <class Simd, bool kPairs, std::size_t kRows, std::size_t kVectors>
void multiply_block(const float* a, std::size_t a_stride, const float* b, std::size_t b_stride,
                    std::size_t depth, const float* factors, float* c, std::size_t c_stride) {
    typename Simd::Vector totals[kRows][kVectors];
#pragma GCC unroll 6
    for (std::size_t r = 0; r < kRows; ++r)
#pragma GCC unroll 4
        for (std::size_t v = 0; v < kVectors; ++v)
            totals[r][v] = factors
                               ? factors[r] * Simd::load(c + r * c_stride + v * Simd::width)
                               : Simd::zero();
    for (std::size_t k = 0; k < depth; ++k) {
        typename Simd::Vector columns[kVectors];
#pragma GCC unroll 4
        for (std::size_t v = 0; v < kVectors; ++v)
            columns[v] = Simd::load(b + k * b_stride + v * Simd::width);
#pragma GCC unroll 6
        for (std::size_t r = 0; r < kRows; ++r) {
            const auto x = broadcast<Simd>(a[r * a_stride + k]);
#pragma GCC unroll 4
            for (std::size_t v = 0; v < kVectors; ++v)
                totals[r][v] = add_product<Simd, kPairs>(x, columns[v], totals[r][v]);
        }
    }
#pragma GCC unroll 6
    for (std::size_t r = 0; r < kRows; ++r)
#pragma GCC unroll 4
        for (std::size_t v = 0; v < kVectors; ++v)
            store<Simd>(c + r * c_stride + v * Simd::width, totals[r][v]);
}

// The same for any number of rows, kVectors registers of columns.
template <class Simd, bool kPairs, std::size_t kVectors>
void multiply_rows(const float* a, std::size_t a_stride, std::size_t num_rows, const float* b,
                   std::size_t b_stride, std::size_t depth, const float* factors, float* c,
                   std::size_t c_stride) {
    constexpr std::size_t kRows = 6;  // 6 by 4 of 32 registers, 6 by 2 of 16
    constexpr decltype(&multiply_block<Simd, kPairs, 1, kVectors>) kBlocks[kRows] = {
        multiply_block<Simd, kPairs, 1, kVectors>, multiply_block<Simd, kPairs, 2, kVectors>,
        multiply_block<Simd, kPairs, 3, kVectors>, multiply_block<Simd, kPairs, 4, kVectors>,
        multiply_block<Simd, kPairs, 5, kVectors>, multiply_block<Simd, kPairs, 6, kVectors>};
    for (std::size_t r = 0; r < num_rows; r += kRows) {
        const std::size_t count = num_rows - r < kRows ? num_rows - r : kRows;
        kBlocks[count - 1](a + r * a_stride, a_stride, b, b_stride, depth,
                           factors ? factors + r : nullptr, c + r * c_stride, c_stride);
    }
}

// c (rows, columns) = a (rows, depth) @ b (depth, columns) [+ factors * c]; columns are a multiple
// of the width.
template <class Simd, bool kPairs>
void multiply(const float* a, std::size_t a_stride, std::size_t num_rows, const float* b,
              std::size_t b_stride, std::size_t depth, std::size_t columns, const float* factors,
              float* c, std::size_t c_stride) {
    constexpr std::size_t kMost = Simd::width == 16 ? 4 : 2;
    std::size_t n = 0;
    for (; n + kMost * Simd::width <= columns; n += kMost * Simd::width)
        multiply_rows<Simd, kPairs, kMost>(a, a_stride, num_rows, b + n, b_stride, depth, factors,
                                           c + n, c_stride);
    for (; n + 2 * Simd::width <= columns; n += 2 * Simd::width)
        multiply_rows<Simd, kPairs, 2>(a, a_stride, num_rows, b + n, b_stride, depth, factors,
                                       c + n, c_stride);
    for (; n < columns; n += Simd::width)
        multiply_rows<Simd, kPairs, 1>(a, a_stride, num_rows, b + n, b_stride, depth, factors,
                                       c + n, c_stride);
}

// The two products of a tile. A kind of products has
//
//     kPairs           whether its factors are pairs of bfloat16, else floats
//     kRows            rows that are multiplied at once, kMaxWeighedRows at most
//     kRowTile, kStep  it reads queries, and rows of packed keys and values, up to a multiple of so
//                      many, zeros behind the last of them
//     score            scores (rows, kTileKeys) = q (rows, depth) . keys (depth, kTileKeys)
//     mix              sums (rows, v) = factors * sums + weights (rows, kTileKeys) . values
template <class Simd, bool kPairsOf>
struct VectorProducts {
    static constexpr bool kPairs = kPairsOf;
    static constexpr std::size_t kRows = 24, kRowTile = 1, kStep = 1;

    void score(const float* q, std::size_t q_stride, std::size_t num_rows, const float* keys,
               std::size_t depth, std::size_t columns, float* scores) {
        multiply<Simd, kPairs>(q, q_stride, num_rows, keys, kTileKeys, depth, columns, nullptr,
                               scores, kTileKeys);
    }
    void mix(const float* weights, std::size_t num_rows, const float* values, std::size_t depth,
             std::size_t v, const float* factors, float* sums) {
        multiply<Simd, kPairs>(weights, kTileKeys, num_rows, values, v, depth, v, factors, sums,
                               v);
    }
};

// One head's keys in `slots`, `size` numbers each, in the columns of `to` (lanes, kTileKeys).
// Columns up to the next multiple of the width are those of the last key again.
template <class Simd, Number kNumber, bool kPairs>
void pack_keys(const typename Numbers<Simd, kNumber>::Item* keys, std::ptrdiff_t stride,
               const std::ptrdiff_t* slots, std::size_t count, std::size_t size, float* to) {
    constexpr std::size_t kNumbers = kPairs ? 2 : 1;  // of a lane
    const std::size_t depth = lanes_of<kPairs>(size);
    for (std::size_t n = 0; n < count; n += Simd::width)
        for (std::size_t h = 0; h < depth; h += Simd::width) {
            typename Simd::Vector block[Simd::width];
            if (size - kNumbers * h >= kNumbers * Simd::width) {
#pragma GCC unroll 16
                for (std::size_t i = 0; i < Simd::width; ++i)
                    block[i] =
                        load_lanes<Simd, kNumber, kPairs>(keys + slots[n + i] * stride, h);
                transpose<Simd>(block);
#pragma GCC unroll 16
                for (std::size_t i = 0; i < Simd::width; ++i)
                    store<Simd>(to + (h + i) * kTileKeys + n, block[i]);
                continue;
            }
            for (std::size_t i = 0; i < Simd::width; ++i)
                block[i] = load_last_lanes<Simd, kNumber, kPairs>(keys + slots[n + i] * stride, h,
                                                                  size);
            transpose<Simd>(block);
            for (std::size_t i = 0; i < depth - h; ++i)
                store<Simd>(to + (h + i) * kTileKeys + n, block[i]);
        }
}

// One head's values in `slots` as floats: (count, padded v_head_dim). Or as pairs of neighbouring
// positions, half as many rows, the last with a zero where the count is odd.
template <class Simd, Number kNumber, bool kPairs>
void pack_values(const typename Numbers<Simd, kNumber>::Item* values, std::ptrdiff_t stride,
                 const std::ptrdiff_t* slots, std::size_t count, std::size_t v_head_dim,
                 float* to) {
    constexpr std::size_t kStep = kPairs ? 2 : 1;
    for (std::size_t n = 0; n < count; n += kStep, to += padded(v_head_dim)) {
        const auto* from = values + slots[n] * stride;
        if constexpr (kPairs) {
            const auto* next = n + 1 < count ? values + slots[n + 1] * stride : nullptr;
            for (std::size_t i = 0; i < v_head_dim; i += 2 * Simd::width) {
                const std::size_t left = v_head_dim - i;
                const auto a = load_words<Simd>(from + i, left);
                const auto b = next ? load_words<Simd>(next + i, left) : Simd::zero();
                store<Simd>(to + i, Simd::low_words(a, b));
                if (left > Simd::width) store<Simd>(to + i + Simd::width, Simd::high_words(a, b));
            }
        } else {
            for (std::size_t i = 0; i < v_head_dim; i += Simd::width)
                store<Simd>(to + i, load_some<Simd, kNumber>(from + i, v_head_dim - i));
        }
    }
}

// One head of a task: its queries, where its sums go, and the tile of the cache it is at.
struct TileHead {
    const float *q, *keys, *values;  // keys and values packed
    RunningSums sums;
    LinesAhead keys_ahead, values_ahead;
};

// The rows [first, end) of one head and one tile into their sums. scores: (kMaxWeighedRows,
// kTileKeys).
template <class Simd, class Products>
void attend_tile(Products& products, const TaskRows& rows, std::size_t first, std::size_t end,
                 const TileKeys& tile, TileHead head, float* scores) {
    constexpr bool kPairs = Products::kPairs;
    constexpr std::size_t kRows = Products::kRows;
    static_assert(kRows <= kMaxWeighedRows, "");
    const std::size_t h = rows.shape.head_dim, hp = padded(h), vp = padded(rows.shape.v_head_dim);
    const std::size_t columns = (tile.count + Simd::width - 1) / Simd::width * Simd::width;
    // Lines of keys, and of values, to ask for at every step.
    const std::size_t steps = (end - first + kRows - 1) / kRows;
    const std::size_t key_lines = (kTileKeys * head.keys_ahead.lines_per_row() + steps - 1) / steps;
    const std::size_t value_lines =
        (kTileKeys * head.values_ahead.lines_per_row() + steps - 1) / steps;
    alignas(64) float factors[padded(kMaxWeighedRows)];
    for (std::size_t r = first; r < end; r += kRows) {
        const std::size_t count = end - r < kRows ? end - r : kRows;
        head.keys_ahead.fetch(key_lines);
        products.score(head.q + r * hp, hp, count, head.keys, lanes_of<kPairs>(h), columns,
                       scores);
        weigh<Simd, kPairs>(rows, r, count, tile, scores, head.sums.largest + r,
                            head.sums.totals + r, factors);
        head.values_ahead.fetch(value_lines);
        products.mix(scores, count, head.values, lanes_of<kPairs>(tile.count), vp, factors,
                     head.sums.values + r * vp);
    }
}

// Where a task works: (lanes of a key, kTileKeys), (lanes of kTileKeys values, padded v_head_dim),
// (kMaxWeighedRows, kTileKeys), and (rows, padded head_dim) for each head.
struct TileMemory {
    float *keys, *values, *scores, *q;

    TileMemory(const AttentionShape& shape, float* scratch)
        : keys(scratch), values(keys + padded(shape.head_dim) * kTileKeys),
          scores(values + kTileKeys * padded(shape.v_head_dim)),
          q(scores + kMaxWeighedRows * kTileKeys) {}
};

// Zeros behind the first `count` rows of a factor of `columns`, up to a multiple of kStep rows.
template <std::size_t kStep>
void fill_up(float* factor, std::size_t count, std::size_t columns) {
    const std::size_t all = (count + kStep - 1) / kStep * kStep;
    std::memset(factor + count * columns, 0, (all - count) * columns * sizeof *factor);
}

// The task's sums into its partial.
template <class Simd, Number kNumber, class Products>
void attend_tiles(const AttentionPlan& plan, const AttentionInput& in, const AttentionTask& task,
                  float* scratch) {
    using Item = typename Numbers<Simd, kNumber>::Item;
    constexpr bool kPairs = Products::kPairs;
    Products products;
    const TaskRows rows(plan, in, task);
    const TileMemory memory(plan.shape, scratch);
    const std::size_t h = plan.shape.head_dim, v = plan.shape.v_head_dim, hp = padded(h),
                      vp = padded(v), num_rows = task.num_rows;
    const std::size_t all_rows = num_rows * task.num_heads;
    const auto* all_keys = static_cast<const Item*>(in.keys.data);
    const auto* all_values = static_cast<const Item*>(in.values.data);
    const RunningSums sums = sums_at(task.partial, all_rows, v);
    clear(sums, all_rows, v);
    for (std::size_t i = 0; i < task.num_heads; ++i)
        load_queries<Simd, kPairs>(rows, task.first_head + i, num_rows,
                                   memory.q + i * num_rows * hp);
    std::memset(memory.q + all_rows * hp, 0, (Products::kRowTile - 1) * hp * sizeof(float));
    fill_up<Products::kStep>(memory.keys, lanes_of<kPairs>(h), kTileKeys);
    for (std::size_t key = task.first_key; key < task.end_key; key += kTileKeys) {
        const std::size_t left = task.end_key - key;
        const std::size_t count = left < kTileKeys ? left : kTileKeys;
        const std::size_t first = rows.first_row_from(key);
        const std::size_t end = rows.end_row_until(key + count, num_rows);
        if (first >= end) continue;
        const std::size_t next = left > kTileKeys ? key + kTileKeys : key;
        const std::size_t next_left = task.end_key - next;
        std::ptrdiff_t slots[kTileKeys], next_slots[kTileKeys];
        std::uint8_t hidden[kTileKeys];
        rows.slots(key, count, slots);
        rows.slots(next, next_left < kTileKeys ? next_left : kTileKeys, next_slots);
        const TileKeys tile{key, count, rows.hidden(slots, count, hidden) ? hidden : nullptr};
        for (std::size_t i = 0; i < task.num_heads; ++i) {
            pack_keys<Simd, kNumber, kPairs>(all_keys + rows.head(in.keys, i), in.keys.row_stride,
                                             slots, count, h, memory.keys);
            pack_values<Simd, kNumber, kPairs>(all_values + rows.head(in.values, i),
                                               in.values.row_stride, slots, count, v,
                                               memory.values);
            fill_up<Products::kStep>(memory.values, lanes_of<kPairs>(count), vp);
            const bool is_last = i + 1 == task.num_heads;
            const std::ptrdiff_t* soon = is_last ? next_slots : slots;
            const std::size_t next_head = is_last ? 0 : i + 1, row = i * num_rows;
            attend_tile<Simd>(products, rows, first, end, tile,
                              {memory.q + row * hp, memory.keys, memory.values,
                               {sums.values + row * vp, sums.largest + row, sums.totals + row},
                               LinesAhead(all_keys + rows.head(in.keys, next_head),
                                          in.keys.row_stride, h, soon),
                               LinesAhead(all_values + rows.head(in.values, next_head),
                                          in.values.row_stride, v, soon)},
                              memory.scores);
        }
    }
}

}  // namespace
}  // namespace bobot
