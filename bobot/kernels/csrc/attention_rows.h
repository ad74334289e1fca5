// The rows of a task: their queries in, their softmax over one tile of scores, their outputs out.
#pragma once

#include "attention_vectors.h"

namespace bobot {
namespace {

constexpr float kInfinity = __builtin_huge_valf(), kHiddenScore = -3.402823466e38f;

// For each row the sum of weighted values, and the largest score and total weight so far; weights
// are relative to e^largest.
struct RunningSums {
    float *values, *largest, *totals;
};

inline RunningSums sums_at(float* memory, std::size_t num_rows, std::size_t v_head_dim) {
    float* largest = memory + num_rows * padded(v_head_dim);
    return {memory, largest, largest + padded(num_rows)};
}

inline void clear(const RunningSums& sums, std::size_t num_rows, std::size_t v_head_dim) {
    std::memset(sums.values, 0, sizeof(float) * num_rows * padded(v_head_dim));
    for (std::size_t i = 0; i < num_rows; ++i) sums.largest[i] = kHiddenScore, sums.totals[i] = 0;
}

// Rows of one head of the cache that are needed soon. Those of a slot are short pieces far apart,
// which the processor does not foresee by itself.
struct RowsAhead {
    template <class Item>
    RowsAhead(const Item* base, const std::ptrdiff_t* slots_of, std::ptrdiff_t stride,
              std::size_t count)
        : data(reinterpret_cast<const char*>(base)), slots(slots_of),
          row_bytes(stride * static_cast<std::ptrdiff_t>(sizeof(Item))),
          num_bytes(count * sizeof(Item)) {}

    // The bytes [first, end) of row n.
    void fetch(std::size_t n, std::size_t first, std::size_t end) const {
        const char* row = data + slots[n] * row_bytes;
        for (std::size_t i = first; i < end; i += 64) __builtin_prefetch(row + i);
    }

    const char* data;
    const std::ptrdiff_t* slots;
    std::ptrdiff_t row_bytes;
    std::size_t num_bytes;
};

// What every step over a tile needs to know of a task.
struct TaskRows {
    TaskRows(const AttentionPlan& plan, const AttentionInput& input, const AttentionTask& task)
        : shape(plan.shape), span(plan.spans[task.span]), in(input),
          block_size(plan.block_size), group(shape.num_heads / shape.num_kv_heads),
          first_row(task.first_row) {}

    std::size_t position(std::size_t row) const {
        return span.first_position + (first_row + row) / group;
    }
    std::size_t first_seen(std::size_t position) const {
        return shape.window && position + 1 > shape.window ? position + 1 - shape.window : 0;
    }
    template <class Bytes>
    std::ptrdiff_t offset(const HeadArray<Bytes>& array, std::size_t kv_head,
                          std::size_t row) const {
        const std::size_t flat = first_row + row;
        const std::size_t query = span.first_query + flat / group;
        const std::size_t head = kv_head * group + flat % group;
        return static_cast<std::ptrdiff_t>(query) * array.row_stride +
               static_cast<std::ptrdiff_t>(head) * array.head_stride;
    }
    // The slots of `count` positions from `first` on, and the last of them again up to kTileKeys.
    void slots(std::size_t first, std::size_t count, std::ptrdiff_t* to) const {
        for (std::size_t done = 0; done < count;) {
            const std::size_t block = (first + done) / block_size;
            const std::size_t inside = (first + done) % block_size;
            const std::size_t left = block_size - inside;
            const std::size_t run = left < count - done ? left : count - done;
            const std::ptrdiff_t start =
                static_cast<std::ptrdiff_t>(span.block_starts[block]) +
                static_cast<std::ptrdiff_t>(inside);
            for (std::size_t i = 0; i < run; ++i)
                to[done + i] = start + static_cast<std::ptrdiff_t>(i);
            done += run;
        }
        for (std::size_t i = count; i < kTileKeys; ++i) to[i] = to[count - 1];
    }

    // Which keys nobody sees; false if there is none.
    bool hidden(const std::ptrdiff_t* slots, std::size_t count, std::uint8_t* to) const {
        if (!in.hidden) return false;
        bool any = false;
        for (std::size_t i = 0; i < count; ++i) any |= (to[i] = in.hidden[slots[i]]) != 0;
        return any;
    }

    const AttentionShape& shape;
    const AttentionSpan& span;
    const AttentionInput& in;
    std::size_t block_size, group, first_row;
};

template <class Simd, Number kNumber>
void widen_row(const void* data, std::ptrdiff_t offset, std::size_t count, float* to) {
    const auto* from = static_cast<const typename Numbers<Simd, kNumber>::Item*>(data) + offset;
    for (std::size_t i = 0; i < count; i += Simd::width)
        store<Simd>(to + i, load_some<Simd, kNumber>(from + i, count - i));
}

template <class Simd, Number kNumber>
void narrow_row(const float* from, std::size_t count, void* data, std::ptrdiff_t offset) {
    auto* to = static_cast<typename Numbers<Simd, kNumber>::Item*>(data) + offset;
    for (std::size_t i = 0; i < count; i += Simd::width)
        store_some<Simd, kNumber>(to + i, Simd::load(from + i), count - i);
}

// Pairs of bfloat16 multiply in one instruction, as they are stored, where queries and keys have
// them: a register then holds twice as many.
template <class Simd>
bool has_pairs(const AttentionPlan& plan, const AttentionInput& in) {
    return in.may_use_pairs && in.q.number == Number::bfloat16 &&
           in.keys.number == Number::bfloat16 && plan.shape.head_dim % (2 * Simd::width) == 0;
}

// c + a * b, of floats or of pairs.
template <class Simd, bool kPairs>
typename Simd::Vector add_product(typename Simd::Vector a, typename Simd::Vector b,
                                  typename Simd::Vector c) {
    if constexpr (kPairs) return Simd::dot_pairs(a, b, c);
    return Simd::fma(a, b, c);
}

// Registers of keys: floats, or pairs as they are. `i` counts lanes.
template <class Simd, Number kNumber, bool kPairs>
typename Simd::Vector load_lanes(const typename Numbers<Simd, kNumber>::Item* from, std::size_t i,
                                 std::size_t count) {
    if constexpr (kPairs) return Simd::load(reinterpret_cast<const float*>(from) + i);
    return load_some<Simd, kNumber>(from + i, count - i);
}

// Queries of one key head: (rows, padded head_dim) floats with zeros behind, or as many pairs.
template <class Simd, bool kPairs>
void load_queries(const TaskRows& rows, std::size_t kv_head, std::size_t num_rows, float* to) {
    const HeadArray<const void>& q = rows.in.q;
    const std::size_t h = rows.shape.head_dim, stride = padded(h);
    const auto widen = q.number == Number::float32    ? widen_row<Simd, Number::float32>
                       : q.number == Number::bfloat16 ? widen_row<Simd, Number::bfloat16>
                                                      : widen_row<Simd, Number::float16>;
    for (std::size_t r = 0; r < num_rows; ++r) {
        const std::ptrdiff_t offset = rows.offset(q, kv_head, r);
        float* row = to + r * stride;
        if (kPairs) {
            std::memcpy(row, static_cast<const std::uint16_t*>(q.data) + offset, 2 * h);
        } else {
            for (std::size_t i = h; i < stride; ++i) row[i] = 0;
            widen(q.data, offset, h, row);
        }
    }
}

// Writes one row of `out`: the i-th of tasks over different keys, whose sums lie in their partials.
// A sink is one more logit whose weight is dropped.
template <class Simd>
void write_row(const AttentionPlan& plan, const AttentionInput& in, const AttentionTask* parts,
               std::size_t num_parts, std::size_t i) {
    const std::size_t v = plan.shape.v_head_dim, stride = padded(v);
    const std::size_t num_rows = parts->num_rows * parts->num_heads;
    const TaskRows rows(plan, in, *parts);
    const std::size_t kv_head = parts->first_head + i / parts->num_rows;
    const std::size_t row = i % parts->num_rows;
    float most = kHiddenScore, total = 0;
    for (std::size_t p = 0; p < num_parts; ++p) {
        const float largest = sums_at(parts[p].partial, num_rows, v).largest[i];
        most = most > largest ? most : largest;
    }
    if (in.sinks) {
        const float sink = in.sinks[kv_head * rows.group + (rows.first_row + row) % rows.group];
        most = most > sink ? most : sink;
        total = exp_of<Simd>(broadcast<Simd>(sink - most))[0];
    }
    float* values = parts->partial + i * stride;
    for (std::size_t p = 0; p < num_parts; ++p) {
        const RunningSums sums = sums_at(parts[p].partial, num_rows, v);
        const float factor = exp_of<Simd>(broadcast<Simd>(sums.largest[i] - most))[0];
        total += factor * sums.totals[i];
        for (std::size_t j = 0; j < stride; j += Simd::width) {
            const auto part = factor * Simd::load(sums.values + i * stride + j);
            store<Simd>(values + j, p == 0 ? part : part + Simd::load(values + j));
        }
    }
    const float share = 1.0f / total;
    for (std::size_t j = 0; j < stride; j += Simd::width)
        store<Simd>(values + j, share * Simd::load(values + j));
    const auto narrow = in.out.number == Number::float32    ? narrow_row<Simd, Number::float32>
                        : in.out.number == Number::bfloat16 ? narrow_row<Simd, Number::bfloat16>
                                                            : narrow_row<Simd, Number::float16>;
    narrow(values, v, in.out.data, rows.offset(in.out, kv_head, row));
}

// Scores of one row in place become weights relative to the largest score so far, which with the
// total is brought up to date; the result is what the sums so far must be multiplied by.
template <class Simd>
float soften(float* scores, std::size_t columns, float& largest, float& total) {
    auto most = broadcast<Simd>(largest);
    for (std::size_t i = 0; i < columns; i += Simd::width)
        most = larger<Simd>(Simd::load(scores + i), most);
    const float now = largest_of<Simd>(most);
    auto sum = Simd::zero();
    for (std::size_t i = 0; i < columns; i += Simd::width) {
        const auto weights = exp_of<Simd>(Simd::load(scores + i) - now);
        sum += weights;
        store<Simd>(scores + i, weights);
    }
    const float factor = exp_of<Simd>(broadcast<Simd>(largest - now))[0];
    total = total * factor + Simd::sum(sum);
    largest = now;
    return factor;
}

// Products of one row, at `position`, with the keys from `first_key` on become scores as the
// softmax takes them: scaled, capped, hidden, and minus infinity where the row may not look.
// `columns` are `count` keys and padding.
template <class Simd>
void apply_rules(const TaskRows& rows, std::size_t position, std::size_t first_key,
                 std::size_t count, std::size_t columns, const std::uint8_t* hidden,
                 float* scores) {
    const float scale = rows.in.scale, cap = rows.in.softcap;
    for (std::size_t i = 0; i < columns; i += Simd::width) {
        const auto score = scale * Simd::load(scores + i);
        store<Simd>(scores + i, cap == 0 ? score : cap * tanh_of<Simd>(score / cap));
    }
    if (hidden)
        for (std::size_t i = 0; i < count; ++i)
            if (hidden[i]) scores[i] = kHiddenScore;
    const std::size_t start = rows.first_seen(position);
    const std::size_t seen = position < first_key ? 0 : position - first_key + 1;
    for (std::size_t i = 0; i < count && first_key + i < start; ++i) scores[i] = -kInfinity;
    for (std::size_t i = seen < count ? seen : count; i < columns; ++i) scores[i] = -kInfinity;
}

}  // namespace
}  // namespace bobot
