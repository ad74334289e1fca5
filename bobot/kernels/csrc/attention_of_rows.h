// Attention of a decoder's few rows over the paged cache: each row's query heads of one key head
// are a task of their own. Everything but the cache is float32.
#pragma once

#include "decoder.h"
#include "float_loops.h"

namespace bobot {
namespace {

constexpr std::size_t kHeadsAtOnce = 4;

// Keys that lie one behind the other in the cache.
struct Run {
    std::size_t slot, count;
};

// The run that begins at `position`, of at most `most` keys.
inline Run run_at(const DecoderPlan& plan, const std::int64_t* table, std::size_t position,
                  std::size_t most) {
    const std::size_t left = plan.block_size - position % plan.block_size;
    return {slot_of(plan, table, position), left < most ? left : most};
}

// scores[g * count + s] = q[g] * the s-th key, for kHeads heads that read each key once.
template <class Simd, class Cell, std::size_t kHeads>
void score(const DecoderPlan& plan, const typename Cell::Stored* keys, const std::int64_t* table,
           std::size_t start, std::size_t count, const float* q, float* scores) {
    const std::size_t h = plan.head_dim, stride = plan.num_kv_heads * h;
    Run run{};
    for (std::size_t first = 0; first < count; first += run.count) {
        run = run_at(plan, table, start + first, count - first);
        const typename Cell::Stored* key = keys + run.slot * stride;
        for (std::size_t s = first; s < first + run.count; ++s, key += stride) {
            typename Simd::Vector sums[kHeads];
            for (auto& sum : sums) sum = Simd::zero();
            std::size_t i = 0;
            for (; i + Simd::width <= h; i += Simd::width) {
                const auto part = Cell::load(key + i);
                for (std::size_t g = 0; g < kHeads; ++g)
                    sums[g] = Simd::fma(Simd::load(q + g * h + i), part, sums[g]);
            }
            for (std::size_t g = 0; g < kHeads; ++g) {
                float sum = Simd::sum(sums[g]);
                for (std::size_t j = i; j < h; ++j) sum += q[g * h + j] * Cell::widen(key[j]);
                scores[g * count + s] = sum;
            }
        }
    }
}

// out[g] = sum over s of weights[g * count + s] * the s-th value, for kHeads heads; so many numbers
// of a value at a time as two registers hold, at the end one by one.
template <class Simd, class Cell, std::size_t kHeads>
void mix(const DecoderPlan& plan, const typename Cell::Stored* values, const std::int64_t* table,
         std::size_t start, std::size_t count, const float* weights, float* out) {
    constexpr std::size_t kStep = 2 * Simd::width;
    const std::size_t h = plan.head_dim, stride = plan.num_kv_heads * h, whole = h / kStep * kStep;
    for (std::size_t i = 0; i < h; i += i < whole ? kStep : 1) {
        typename Simd::Vector sums[kHeads][2];
        float single[kHeads] = {};
        for (auto& pair : sums) pair[0] = pair[1] = Simd::zero();
        Run run{};
        for (std::size_t first = 0; first < count; first += run.count) {
            run = run_at(plan, table, start + first, count - first);
            const typename Cell::Stored* value = values + run.slot * stride + i;
            for (std::size_t s = first; s < first + run.count; ++s, value += stride) {
                if (i >= whole) {
                    for (std::size_t g = 0; g < kHeads; ++g)
                        single[g] += weights[g * count + s] * Cell::widen(*value);
                    continue;
                }
                const auto low = Cell::load(value), high = Cell::load(value + Simd::width);
                for (std::size_t g = 0; g < kHeads; ++g) {
                    sums[g][0] += weights[g * count + s] * low;
                    sums[g][1] += weights[g * count + s] * high;
                }
            }
        }
        for (std::size_t g = 0; g < kHeads; ++g)
            if (i < whole)
                std::memcpy(out + g * h + i, sums[g], sizeof sums[g]);
            else
                out[g * h + i] = single[g];
    }
}

// Scores become weights that sum to 1, or to less where a sink takes its share.
inline void weigh(const DecoderLayer& layer, std::size_t head, float* scores, std::size_t count) {
    for (std::size_t s = 0; s < count; ++s) scores[s] *= layer.scale;
    if (layer.softcap > 0)
        for (std::size_t s = 0; s < count; ++s)
            scores[s] = layer.softcap * tanhf(scores[s] / layer.softcap);
    float largest = largest_of(scores, count);
    if (layer.sinks && layer.sinks[head] > largest) largest = layer.sinks[head];
    float total = exponentials(scores, count, largest);
    if (layer.sinks) total += exponential(layer.sinks[head] - largest);
    for (std::size_t s = 0; s < count; ++s) scores[s] /= total;
}

// kHeads query heads, from `head` on, of row m. `scores` has room for one per head and key.
template <class Simd, class Cell, std::size_t kHeads>
void attend_heads(const DecoderPlan& plan, const DecoderLayer& layer, const DecoderStep& step,
                  std::size_t m, std::size_t head, const float* q, float* out, float* scores) {
    const std::size_t h = plan.head_dim, kv_head = head / (plan.num_heads / plan.num_kv_heads);
    const std::size_t length = static_cast<std::size_t>(step.positions[m]) + 1;
    const std::size_t start = layer.window && length > layer.window ? length - layer.window : 0;
    const std::size_t count = length - start;
    const auto* keys = static_cast<const typename Cell::Stored*>(layer.keys) + kv_head * h;
    const auto* values = static_cast<const typename Cell::Stored*>(layer.values) + kv_head * h;
    score<Simd, Cell, kHeads>(plan, keys, step.tables[m], start, count, q, scores);
    for (std::size_t g = 0; g < kHeads; ++g) weigh(layer, head + g, scores + g * count, count);
    mix<Simd, Cell, kHeads>(plan, values, step.tables[m], start, count, scores, out);
}

// One thread's share of all (row, key head). q_TNH has `q_stride` floats from row to row; out_TNH
// is (rows, num_heads, head_dim).
template <class Simd, class Cell>
void attend_rows(const DecoderPlan& plan, const DecoderLayer& layer, const DecoderStep& step,
                 const float* q_TNH, std::size_t q_stride, float* out_TNH, float* scores,
                 int thread, int num_threads) {
    constexpr decltype(&attend_heads<Simd, Cell, 1>) kAttends[] = {
        attend_heads<Simd, Cell, 1>, attend_heads<Simd, Cell, 2>, attend_heads<Simd, Cell, 3>,
        attend_heads<Simd, Cell, kHeadsAtOnce>};
    const std::size_t h = plan.head_dim, group = plan.num_heads / plan.num_kv_heads;
    const Share tasks = share_of(step.num_rows * plan.num_kv_heads, 1, thread, num_threads);
    for (std::size_t task = tasks.first; task < tasks.end; ++task) {
        const std::size_t m = task / plan.num_kv_heads;
        const std::size_t first = task % plan.num_kv_heads * group, end = first + group;
        for (std::size_t head = first; head < end; head += kHeadsAtOnce) {
            const std::size_t count = end - head < kHeadsAtOnce ? end - head : kHeadsAtOnce;
            kAttends[count - 1](plan, layer, step, m, head, q_TNH + m * q_stride + head * h,
                                out_TNH + (m * plan.num_heads + head) * h, scores);
        }
    }
}

}  // namespace
}  // namespace bobot
