// The rows of a task: their queries in, their softmax over one tile of scores, their outputs out.
#pragma once

#include "attention_vectors.h"
#include "cpu_features.h"

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

// Asks for the slots of the next tile, line by line in the order of memory, while this one is
// computed: what is read are short pieces far apart, which the processor does not foresee.
class LinesAhead {
public:
    template <class Item>
    LinesAhead(const Item* data, std::ptrdiff_t stride, std::size_t row_items,
               const std::ptrdiff_t* slots)
        : data_(reinterpret_cast<const char*>(data)),
          stride_(stride * static_cast<std::ptrdiff_t>(sizeof(Item))),
          row_bytes_(row_items * sizeof(Item)), slots_(slots), row_(data_ + slots[0] * stride_) {}

    std::size_t lines_per_row() const { return (row_bytes_ + 63) / 64; }
    void fetch(std::size_t num_lines) {
        for (std::size_t i = 0; i < num_lines; ++i) {
            __builtin_prefetch(row_ + byte_, 0, 2);  // into the second-level cache
            byte_ += 64;
            if (byte_ < row_bytes_) continue;
            if (++slot_ == kTileKeys) slot_ = 0;
            byte_ = 0;
            row_ = data_ + slots_[slot_] * stride_;
        }
    }

private:
    const char* data_;
    std::ptrdiff_t stride_;
    std::size_t row_bytes_;
    const std::ptrdiff_t* slots_;
    const char* row_;
    std::size_t slot_ = 0, byte_ = 0;
};

// What every step over a tile needs to know of a task.
struct TaskRows {
    TaskRows(const AttentionPlan& plan, const AttentionInput& input, const AttentionTask& task)
        : shape(plan.shape), span(plan.spans[task.span]), in(input),
          block_size(plan.block_size), group(shape.num_heads / shape.num_kv_heads),
          first_row(task.first_row), first_head(task.first_head) {}

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
    // The first of the task's rows that sees a key from first_key on, and the end of those of
    // `num_rows` that see any before end_key.
    std::size_t first_row_from(std::size_t first_key) const {
        if (first_key <= span.first_position) return 0;
        const std::size_t row = (first_key - span.first_position) * group;
        return row > first_row ? row - first_row : 0;
    }
    std::size_t end_row_until(std::size_t end_key, std::size_t num_rows) const {
        const std::size_t last = position(num_rows - 1);
        if (!shape.window || last < shape.window) return num_rows;
        const std::size_t end = end_key + shape.window - 1;  // of positions
        if (end <= span.first_position) return 0;
        const std::size_t row = (end - span.first_position) * group;
        return row <= first_row ? 0 : row - first_row < num_rows ? row - first_row : num_rows;
    }
    // Where the i-th head of the task begins in keys or values.
    template <class Bytes>
    std::ptrdiff_t head(const HeadArray<Bytes>& array, std::size_t i) const {
        return static_cast<std::ptrdiff_t>(first_head + i) * array.head_stride;
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
    std::size_t block_size, group, first_row, first_head;
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

// Beside a cache of bfloat16 everything that is multiplied is bfloat16, queries and weights too,
// where the processor multiplies pairs of them in one instruction: a register holds twice as many,
// and keys and values stay as they are stored. Sums are float32, and the total is that of the
// rounded weights, so that a rounded weight differs from the exact one by 2^-8 of it at most.
template <class Simd>
bool has_pairs(const AttentionPlan& plan, const AttentionInput& in, const AttentionTask& task) {
    const std::size_t h = plan.shape.head_dim, v = plan.shape.v_head_dim;
    const std::size_t lanes = 2 * Simd::width;
    const bool fits = !task.is_streamed || (h % lanes == 0 && v % lanes == 0);
    return fits && cpu_features().avx512bf16 && in.keys.number == Number::bfloat16;
}

// c + a * b, of floats or of pairs.
template <class Simd, bool kPairs>
typename Simd::Vector add_product(typename Simd::Vector a, typename Simd::Vector b,
                                  typename Simd::Vector c) {
    if constexpr (kPairs) return Simd::dot_pairs(a, b, c);
    return Simd::fma(a, b, c);
}

// Lanes of a head's numbers: one of each float, or one of each pair as it lies.
template <bool kPairs>
constexpr std::size_t lanes_of(std::size_t size) {
    return kPairs ? (size + 1) / 2 : size;
}

// A register of them from lane `i` on. The second has zeros behind the last of `size` numbers.
template <class Simd, Number kNumber, bool kPairs>
typename Simd::Vector load_lanes(const typename Numbers<Simd, kNumber>::Item* from,
                                 std::size_t i) {
    if constexpr (kPairs) return Simd::load(reinterpret_cast<const float*>(from + 2 * i));
    return Numbers<Simd, kNumber>::load(from + i);
}
template <class Simd, Number kNumber, bool kPairs>
typename Simd::Vector load_last_lanes(const typename Numbers<Simd, kNumber>::Item* from,
                                      std::size_t i, std::size_t size) {
    if constexpr (kPairs) return load_words<Simd>(from + 2 * i, size - 2 * i);
    return load_some<Simd, kNumber>(from + i, size - i);
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
        float* row = to + r * stride;
        for (std::size_t i = h; i < stride; ++i) row[i] = 0;
        widen(q.data, rows.offset(q, kv_head, r), h, row);
        if constexpr (kPairs)
            for (std::size_t i = 0; i < stride; i += 2 * Simd::width) {
                const bool is_last = i + Simd::width == stride;
                const auto second = is_last ? Simd::zero() : Simd::load(row + i + Simd::width);
                store<Simd>(row + i / 2, Simd::to_pairs(Simd::load(row + i), second));
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

// A tile of keys. Columns behind its `count` keys are padding.
struct TileKeys {
    std::size_t first_key, count;
    const std::uint8_t* hidden;  // null: none
};

// Products of one row, at `position`, with the keys of a tile become scores as the softmax takes
// them: scaled, capped, hidden, and minus infinity where the row may not look. The largest of them
// and `largest` is the result.
template <class Simd>
float apply_rules(const TaskRows& rows, std::size_t position, const TileKeys& tile,
                  std::size_t columns, float largest, float* scores) {
    const float scale = rows.in.scale, cap = rows.in.softcap;
    for (std::size_t i = 0; i < columns; i += Simd::width) {
        const auto score = scale * Simd::load(scores + i);
        store<Simd>(scores + i, cap == 0 ? score : cap * tanh_of<Simd>(score / cap));
    }
    if (tile.hidden)
        for (std::size_t i = 0; i < tile.count; ++i)
            if (tile.hidden[i]) scores[i] = kHiddenScore;
    const std::size_t start = rows.first_seen(position);
    const std::size_t seen = position < tile.first_key ? 0 : position - tile.first_key + 1;
    for (std::size_t i = 0; i < tile.count && tile.first_key + i < start; ++i)
        scores[i] = -kInfinity;
    for (std::size_t i = seen < tile.count ? seen : tile.count; i < columns; ++i)
        scores[i] = -kInfinity;
    auto most = broadcast<Simd>(largest);
    for (std::size_t i = 0; i < columns; i += Simd::width)
        most = larger<Simd>(Simd::load(scores + i), most);
    return largest_of<Simd>(most);
}

// Scores of one row in place become weights relative to `largest`, floats or pairs; the sum of them
// is the result.
template <class Simd, bool kPairs>
float weigh_row(float largest, std::size_t columns, float* scores) {
    auto sum = Simd::zero();
    if constexpr (kPairs) {
        const auto ones = Simd::to_pairs(broadcast<Simd>(1), broadcast<Simd>(1));
        for (std::size_t i = 0; i < columns; i += 2 * Simd::width) {
            const auto some = rough_exp_of<Simd>(Simd::load(scores + i) - largest);
            const auto more = rough_exp_of<Simd>(Simd::load(scores + i + Simd::width) - largest);
            const auto pairs = Simd::to_pairs(some, more);
            sum = Simd::dot_pairs(pairs, ones, sum);
            store<Simd>(scores + i / 2, pairs);
        }
    } else {
        for (std::size_t i = 0; i < columns; i += Simd::width) {
            const auto weights = exp_of<Simd>(Simd::load(scores + i) - largest);
            sum += weights;
            store<Simd>(scores + i, weights);
        }
    }
    return Simd::sum(sum);
}

// Products of at most kMaxWeighedRows rows from `first_row` on with the keys of a tile, (rows,
// kTileKeys), become weights relative to the largest score so far, which with the total is brought
// up to date. `factors` are what the sums so far must be multiplied by. Weights are floats, or
// pairs of neighbours with zeros behind the last.
template <class Simd, bool kPairs>
void weigh(const TaskRows& rows, std::size_t first_row, std::size_t num_rows, const TileKeys& tile,
           float* scores, float* largest, float* totals, float* factors) {
    constexpr std::size_t kStep = kPairs ? 2 * Simd::width : Simd::width;
    const std::size_t columns = (tile.count + kStep - 1) / kStep * kStep;
    alignas(64) float now[padded(kMaxWeighedRows)];
    for (std::size_t r = 0; r < num_rows; ++r) {
        const std::size_t position = rows.position(first_row + r);
        now[r] = apply_rules<Simd>(rows, position, tile, columns, largest[r],
                                   scores + r * kTileKeys);
        factors[r] = largest[r] - now[r];
    }
    for (std::size_t r = 0; r < num_rows; r += Simd::width)
        store<Simd>(factors + r, exp_of<Simd>(Simd::load(factors + r)));
    for (std::size_t r = 0; r < num_rows; ++r) {
        const float sum = weigh_row<Simd, kPairs>(now[r], columns, scores + r * kTileKeys);
        totals[r] = totals[r] * factors[r] + sum;
        largest[r] = now[r];
    }
}

}  // namespace
}  // namespace bobot
