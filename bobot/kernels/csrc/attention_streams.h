// Few rows against keys and values that are read where they lie, once: the time is that of reading
// memory. Some slots at a time are read with all their heads, nearly in the order of memory, and
// those of the next tile are asked for meanwhile: without the latter it takes three times as long.
#pragma once

#include "attention_rows.h"

namespace bobot {
namespace {

// Scores of kRows queries (stride head_dim) against `count` keys: as many sums at a time as a
// register has lanes, so that one register holds them in the end. (rows, kTileKeys)
template <class Simd, Number kNumber, bool kPairs, std::size_t kRows>
void score_rows(const float* q, std::size_t head_dim,
                const typename Numbers<Simd, kNumber>::Item* keys, const std::ptrdiff_t* slots,
                std::ptrdiff_t stride, std::size_t count, LinesAhead* ahead, float* scores) {
    constexpr std::size_t kKeys = Simd::width / kRows;
    const std::size_t depth = lanes_of<kPairs>(head_dim);
    const std::size_t num_lines = (head_dim * sizeof *keys + 63) / 64;
    for (std::size_t n = 0; n < count; n += kKeys) {
        const typename Numbers<Simd, kNumber>::Item* from[kKeys];
#pragma GCC unroll 16
        for (std::size_t j = 0; j < kKeys; ++j) from[j] = keys + slots[n + j] * stride;
        if (ahead) ahead->fetch(kKeys * num_lines);
        typename Simd::Vector sums[kRows * kKeys];
#pragma GCC unroll 16
        for (std::size_t i = 0; i < kRows * kKeys; ++i) sums[i] = Simd::zero();
        for (std::size_t h = 0; h < depth; h += Simd::width) {
            typename Simd::Vector x[kRows];
#pragma GCC unroll 8
            for (std::size_t r = 0; r < kRows; ++r) x[r] = Simd::load(q + r * head_dim + h);
#pragma GCC unroll 16
            for (std::size_t j = 0; j < kKeys; ++j) {
                const auto key = load_lanes<Simd, kNumber, kPairs>(from[j], h);
#pragma GCC unroll 8
                for (std::size_t r = 0; r < kRows; ++r)
                    sums[r * kKeys + j] =
                        add_product<Simd, kPairs>(x[r], key, sums[r * kKeys + j]);
            }
        }
        const auto result = sums_of<Simd>(sums);
        const char* lanes = reinterpret_cast<const char*>(&result);
        for (std::size_t r = 0; r < kRows; ++r)
            std::memcpy(scores + r * kTileKeys + n, lanes + r * kKeys * sizeof(float),
                        kKeys * sizeof(float));
    }
}

// sums (kRows, v_head_dim) = factors * sums + weights (kRows, kTileKeys) @ values; kVectors
// registers of columns. Pairs are of two positions, and weights behind the last are 0.
template <class Simd, Number kNumber, bool kPairs, std::size_t kRows, std::size_t kVectors>
void mix_columns(const float* weights, const float* factors,
                 const typename Numbers<Simd, kNumber>::Item* values, const std::ptrdiff_t* slots,
                 std::ptrdiff_t stride, std::size_t count, LinesAhead* ahead,
                 std::size_t v_head_dim, float* sums) {
    constexpr std::size_t kStep = kPairs ? 2 : 1;
    constexpr std::size_t kLines =
        (kVectors * Simd::width * sizeof(typename Numbers<Simd, kNumber>::Item) + 63) / 64;
    typename Simd::Vector totals[kRows][kVectors];
#pragma GCC unroll 8
    for (std::size_t r = 0; r < kRows; ++r)
#pragma GCC unroll 4
        for (std::size_t v = 0; v < kVectors; ++v)
            totals[r][v] = factors[r] * Simd::load(sums + r * v_head_dim + v * Simd::width);
    for (std::size_t n = 0; n < count; n += kStep) {
        const auto* from = values + slots[n] * stride;
        if (ahead) ahead->fetch(kStep * kLines);
        typename Simd::Vector value[kVectors];
        if constexpr (kPairs) {
            const auto* next = values + slots[n + 1] * stride;
#pragma GCC unroll 4
            for (std::size_t v = 0; v < kVectors; v += 2) {
                const auto a = Simd::load(reinterpret_cast<const float*>(from + v * Simd::width));
                const auto b = Simd::load(reinterpret_cast<const float*>(next + v * Simd::width));
                value[v] = Simd::low_words(a, b);
                value[v + 1] = Simd::high_words(a, b);
            }
        } else {
#pragma GCC unroll 4
            for (std::size_t v = 0; v < kVectors; ++v)
                value[v] = Numbers<Simd, kNumber>::load(from + v * Simd::width);
        }
#pragma GCC unroll 8
        for (std::size_t r = 0; r < kRows; ++r) {
            const auto weight = broadcast<Simd>(weights[r * kTileKeys + n / kStep]);
#pragma GCC unroll 4
            for (std::size_t v = 0; v < kVectors; ++v)
                totals[r][v] = add_product<Simd, kPairs>(weight, value[v], totals[r][v]);
        }
    }
#pragma GCC unroll 8
    for (std::size_t r = 0; r < kRows; ++r)
#pragma GCC unroll 4
        for (std::size_t v = 0; v < kVectors; ++v)
            store<Simd>(sums + r * v_head_dim + v * Simd::width, totals[r][v]);
}

template <class Simd, Number kNumber, bool kPairs, std::size_t kRows>
void mix_rows(const float* weights, const float* factors,
              const typename Numbers<Simd, kNumber>::Item* values, const std::ptrdiff_t* slots,
              std::ptrdiff_t stride, std::size_t count, LinesAhead* ahead,
              std::size_t v_head_dim, float* sums) {
    constexpr std::size_t kRegisters = Simd::width == 16 ? 16 : 8;
    constexpr std::size_t kVectors = kRows * 4 <= kRegisters ? 4 : kRegisters / kRows;
    std::size_t i = 0;
    for (; i + kVectors * Simd::width <= v_head_dim; i += kVectors * Simd::width)
        mix_columns<Simd, kNumber, kPairs, kRows, kVectors>(
            weights, factors, values + i, slots, stride, count, ahead, v_head_dim, sums + i);
    constexpr std::size_t kLeast = kPairs ? 2 : 1;
    for (; i < v_head_dim; i += kLeast * Simd::width)
        mix_columns<Simd, kNumber, kPairs, kRows, kLeast>(
            weights, factors, values + i, slots, stride, count, ahead, v_head_dim, sums + i);
}

// Both for any number of rows: 8, 4, 2 or 1 at a time.
template <class Simd, Number kNumber, bool kPairs>
void score_all(const float* q, std::size_t num_rows, std::size_t head_dim,
               const typename Numbers<Simd, kNumber>::Item* keys, const std::ptrdiff_t* slots,
               std::ptrdiff_t stride, std::size_t count, LinesAhead& ahead, float* scores) {
    constexpr std::size_t kMost = Simd::width < 8 ? 4 : 8;
    for (std::size_t r = 0; r < num_rows;) {
        const std::size_t left = num_rows - r;
        const auto run = left >= kMost ? score_rows<Simd, kNumber, kPairs, kMost>
                         : left >= 4   ? score_rows<Simd, kNumber, kPairs, 4>
                         : left >= 2   ? score_rows<Simd, kNumber, kPairs, 2>
                                       : score_rows<Simd, kNumber, kPairs, 1>;
        run(q + r * head_dim, head_dim, keys, slots, stride, count, r == 0 ? &ahead : nullptr,
            scores + r * kTileKeys);
        r += left >= kMost ? kMost : left >= 4 ? 4 : left >= 2 ? 2 : 1;
    }
}

template <class Simd, Number kNumber, bool kPairs>
void mix_all(const float* weights, const float* factors, std::size_t num_rows,
             const typename Numbers<Simd, kNumber>::Item* values, const std::ptrdiff_t* slots,
             std::ptrdiff_t stride, std::size_t count, LinesAhead& ahead,
             std::size_t v_head_dim, float* sums) {
    for (std::size_t r = 0; r < num_rows;) {
        const std::size_t left = num_rows - r;
        const auto run = left >= 8   ? mix_rows<Simd, kNumber, kPairs, 8>
                         : left >= 4 ? mix_rows<Simd, kNumber, kPairs, 4>
                         : left >= 2 ? mix_rows<Simd, kNumber, kPairs, 2>
                                     : mix_rows<Simd, kNumber, kPairs, 1>;
        run(weights + r * kTileKeys, factors + r, values, slots, stride, count,
            r == 0 ? &ahead : nullptr, v_head_dim, sums + r * v_head_dim);
        r += left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
    }
}

// Slots that are read with all their heads before the next ones.
constexpr std::size_t kBlockKeys = 16;
constexpr float kOnes[kMaxStreamedRows] = {1, 1, 1, 1, 1, 1, 1, 1};

// The task's sums into its partial. Both head sizes are multiples of kAttentionPad.
template <class Simd, Number kNumber, bool kPairs>
void attend_streams(const AttentionPlan& plan, const AttentionInput& in, const AttentionTask& task,
                    float* scratch) {
    using Item = typename Numbers<Simd, kNumber>::Item;
    const TaskRows rows(plan, in, task);
    const std::size_t h = plan.shape.head_dim, v = plan.shape.v_head_dim;
    const std::size_t num_rows = task.num_rows, all_rows = num_rows * task.num_heads;
    float *q = scratch, *scores = q + all_rows * h, *factors = scores + all_rows * kTileKeys;
    const RunningSums sums = sums_at(task.partial, all_rows, v);
    const auto* all_keys = static_cast<const Item*>(in.keys.data);
    const auto* all_values = static_cast<const Item*>(in.values.data);
    clear(sums, all_rows, v);
    for (std::size_t i = 0; i < task.num_heads; ++i)
        load_queries<Simd, kPairs>(rows, task.first_head + i, num_rows, q + i * num_rows * h);
    for (std::size_t key = task.first_key; key < task.end_key; key += kTileKeys) {
        const std::size_t left = task.end_key - key;
        const std::size_t count = left < kTileKeys ? left : kTileKeys;
        const std::size_t next_key = left > kTileKeys ? key + kTileKeys : key;
        const std::size_t next_left = task.end_key - next_key;
        std::ptrdiff_t slots[kTileKeys], next_slots[kTileKeys];
        std::uint8_t hidden[kTileKeys];
        rows.slots(key, count, slots);
        rows.slots(next_key, next_left < kTileKeys ? next_left : kTileKeys, next_slots);
        const TileKeys tile{key, count, rows.hidden(slots, count, hidden) ? hidden : nullptr};
        LinesAhead keys_ahead(all_keys, in.keys.row_stride, task.num_heads * h, next_slots);
        LinesAhead values_ahead(all_values, in.values.row_stride, task.num_heads * v, next_slots);
        for (std::size_t n = 0; n < count; n += kBlockKeys) {
            const std::size_t some = count - n < kBlockKeys ? count - n : kBlockKeys;
            for (std::size_t i = 0; i < task.num_heads; ++i)
                score_all<Simd, kNumber, kPairs>(
                    q + i * num_rows * h, num_rows, h, all_keys + rows.head(in.keys, i),
                    slots + n, in.keys.row_stride, some, keys_ahead,
                    scores + i * num_rows * kTileKeys + n);
        }
        for (std::size_t i = 0; i < all_rows; i += num_rows)
            weigh<Simd, kPairs>(rows, 0, num_rows, tile, scores + i * kTileKeys, sums.largest + i,
                                sums.totals + i, factors + i);
        for (std::size_t n = 0; n < count; n += kBlockKeys) {
            const std::size_t some = count - n < kBlockKeys ? count - n : kBlockKeys;
            for (std::size_t i = 0; i < task.num_heads; ++i)
                mix_all<Simd, kNumber, kPairs>(
                    scores + i * num_rows * kTileKeys + (kPairs ? n / 2 : n),
                    n == 0 ? factors + i * num_rows : kOnes, num_rows,
                    all_values + rows.head(in.values, i), slots + n, in.values.row_stride, some,
                    values_ahead, v, sums.values + i * num_rows * v);
        }
    }
}

}  // namespace
}  // namespace bobot
