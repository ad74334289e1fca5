// Many rows against tiles of keys and values that are widened to float32 and packed once for all
// rows of a task. Both products, queries by keys and weights by values, are one small matrix
// product whose totals stay in registers.
#pragma once

#include "attention_rows.h"

namespace bobot {
namespace {

// c (kRows, kVectors registers) = a (kRows, depth) @ b (depth, ..), plus c times the row's factor
// where there are factors.
template <class Simd, bool kPairs, std::size_t kRows, std::size_t kVectors>
void multiply_block(const float* a, std::size_t a_stride, const float* b, std::size_t b_stride,
                    std::size_t depth, const float* factors, float* c, std::size_t c_stride) {
    typename Simd::Vector totals[kRows][kVectors];
    for (std::size_t r = 0; r < kRows; ++r)
        for (std::size_t v = 0; v < kVectors; ++v)
            totals[r][v] = factors
                               ? factors[r] * Simd::load(c + r * c_stride + v * Simd::width)
                               : Simd::zero();
    for (std::size_t k = 0; k < depth; ++k) {
        typename Simd::Vector columns[kVectors];
        for (std::size_t v = 0; v < kVectors; ++v)
            columns[v] = Simd::load(b + k * b_stride + v * Simd::width);
        for (std::size_t r = 0; r < kRows; ++r) {
            const auto x = broadcast<Simd>(a[r * a_stride + k]);
            for (std::size_t v = 0; v < kVectors; ++v)
                totals[r][v] = add_product<Simd, kPairs>(x, columns[v], totals[r][v]);
        }
    }
    for (std::size_t r = 0; r < kRows; ++r)
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

// One head's keys in `slots`, `depth` floats or pairs each, in the columns of `to` (depth,
// kTileKeys).
// Columns up to the next multiple of the width are 0.
template <class Simd, Number kNumber, bool kPairs>
void pack_keys(const typename Numbers<Simd, kNumber>::Item* keys, std::ptrdiff_t stride,
               const std::ptrdiff_t* slots, std::size_t count, std::size_t depth, float* to) {
    for (std::size_t n = 0; n < count; n += Simd::width)
        for (std::size_t h = 0; h < depth; h += Simd::width) {
            typename Simd::Vector block[Simd::width];
            for (std::size_t i = 0; i < Simd::width; ++i)
                block[i] = n + i < count ? load_lanes<Simd, kNumber, kPairs>(
                                               keys + slots[n + i] * stride, h, depth)
                                         : Simd::zero();
            transpose<Simd>(block);
            for (std::size_t i = 0; i < Simd::width && i < depth - h; ++i)
                store<Simd>(to + (h + i) * kTileKeys + n, block[i]);
        }
}

// One head's values in `slots` as floats: (count, padded v_head_dim).
template <class Simd, Number kNumber>
void pack_values(const typename Numbers<Simd, kNumber>::Item* values, std::ptrdiff_t stride,
                 const std::ptrdiff_t* slots, std::size_t count, std::size_t v_head_dim,
                 float* to) {
    for (std::size_t n = 0; n < count; ++n) {
        const auto* from = values + slots[n] * stride;
        float* row = to + n * padded(v_head_dim);
        for (std::size_t i = 0; i < v_head_dim; i += Simd::width)
            store<Simd>(row + i, load_some<Simd, kNumber>(from + i, v_head_dim - i));
    }
}

// The first and the end of a task's rows that see any of the keys [first_key, end_key).
inline std::size_t first_row_from(const TaskRows& rows, std::size_t num_rows,
                                  std::size_t first_key) {
    std::size_t row = 0;
    while (row < num_rows && rows.position(row) < first_key) ++row;
    return row;
}

inline std::size_t end_row_until(const TaskRows& rows, std::size_t num_rows, std::size_t end_key) {
    while (num_rows > 0 && rows.first_seen(rows.position(num_rows - 1)) >= end_key) --num_rows;
    return num_rows;
}

// The task's sums into its partial.
template <class Simd, Number kNumber, bool kPairs>
void attend_tiles(const AttentionPlan& plan, const AttentionInput& in, const AttentionTask& task,
                  float* scratch) {
    const TaskRows rows(plan, in, task);
    const std::size_t h = plan.shape.head_dim, v = plan.shape.v_head_dim, hp = padded(h),
                      vp = padded(v), head = task.first_head, depth = kPairs ? h / 2 : h;
    float* keys = scratch;
    float* values = keys + h * kTileKeys;
    float* q = values + kTileKeys * vp;
    float* scores = q + task.num_rows * hp;
    const RunningSums sums = sums_at(task.partial, task.num_rows, v);
    using Item = typename Numbers<Simd, kNumber>::Item;
    const Item* all_keys = static_cast<const Item*>(in.keys.data) +
                           static_cast<std::ptrdiff_t>(head) * in.keys.head_stride;
    const Item* all_values = static_cast<const Item*>(in.values.data) +
                             static_cast<std::ptrdiff_t>(head) * in.values.head_stride;
    clear(sums, task.num_rows, v);
    load_queries<Simd, kPairs>(rows, head, task.num_rows, q);
    for (std::size_t key = task.first_key; key < task.end_key; key += kTileKeys) {
        const std::size_t left = task.end_key - key;
        const std::size_t count = left < kTileKeys ? left : kTileKeys;
        const std::size_t columns = (count + Simd::width - 1) / Simd::width * Simd::width;
        const std::size_t first = first_row_from(rows, task.num_rows, key);
        const std::size_t end = end_row_until(rows, task.num_rows, key + count);
        if (first >= end) continue;
        std::ptrdiff_t slots[kTileKeys], next_slots[kTileKeys];
        std::uint8_t hidden[kTileKeys];
        float factors[kMaxTaskRows];
        rows.slots(key, count, slots);
        const std::size_t next_key = left > kTileKeys ? key + kTileKeys : key;
        const std::size_t next_left = task.end_key - next_key;
        rows.slots(next_key, next_left < kTileKeys ? next_left : kTileKeys, next_slots);
        const bool has_hidden = rows.hidden(slots, count, hidden);
        pack_keys<Simd, kNumber, kPairs>(all_keys, in.keys.row_stride, slots, count, depth, keys);
        multiply<Simd, kPairs>(q + first * hp, hp, end - first, keys, kTileKeys, depth, columns,
                               nullptr,
                       scores, kTileKeys);
        const RowsAhead next_keys(all_keys, next_slots, in.keys.row_stride, h);
        const RowsAhead next_values(all_values, next_slots, in.values.row_stride, v);
        for (std::size_t r = first, n = 0; r < end; ++r) {
            for (; n * (end - first) < (r + 1 - first) * kTileKeys; ++n)
                next_keys.fetch(n, 0, h * sizeof(Item)), next_values.fetch(n, 0, v * sizeof(Item));
            float* row = scores + (r - first) * kTileKeys;
            apply_rules<Simd>(rows, rows.position(r), key, count, columns,
                              has_hidden ? hidden : nullptr, row);
            factors[r - first] = soften<Simd>(row, columns, sums.largest[r], sums.totals[r]);
        }
        pack_values<Simd, kNumber>(all_values, in.values.row_stride, slots, count, v,
                                   values);
        multiply<Simd, false>(scores, kTileKeys, end - first, values, vp, count, vp, factors,
                       sums.values + first * vp, vp);
    }
}

}  // namespace
}  // namespace bobot
