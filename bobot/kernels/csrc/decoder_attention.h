// Attention of a decoder's layer whose heads have queries, keys and values of their own, or share the
// latter in groups.
#pragma once

#include "attention_loops.h"
#include "decoder_linear.h"

namespace bobot {
namespace {

// The share of [first, first + count) in a share of something longer that holds it.
inline Share inside(const Share& whole, std::size_t first, std::size_t count) {
    const std::size_t end = first + count;
    const std::size_t from = whole.first < first ? first : whole.first > end ? end : whole.first;
    const std::size_t to = whole.end < first ? first : whole.end > end ? end : whole.end;
    return {from - first, to - first};
}

inline void rotate_heads(const SharedBuffers& shared, std::size_t first, std::size_t count,
                         std::size_t num_heads, std::size_t h, float* heads, std::size_t stride) {
    for (std::size_t m = 0; m < count; ++m)
        for (std::size_t head = 0; head < num_heads; ++head)
            rotate(heads + m * stride + head * h, shared.cos + (first + m) * (h / 2),
                   shared.sin + (first + m) * (h / 2), h / 2);
}

template <class Cell>
void write_cache(const DecoderPlan& plan, const DecoderStep& step, std::size_t first,
                 std::size_t count, const Share& heads, const float* from, std::size_t stride,
                 void* cache) {
    const std::size_t h = plan.head_dim;
    for (std::size_t m = 0; m < count; ++m) {
        const std::size_t slot = slot_of(plan, step.tables[first + m],
                                         static_cast<std::size_t>(step.positions[first + m]));
        auto* to = static_cast<typename Cell::Stored*>(cache) +
                   (slot * plan.num_kv_heads + heads.first) * h;
        for (std::size_t i = 0; i < heads.size() * h; ++i)
            to[i] = Cell::narrow(from[m * stride + i]);
    }
}

// Queries of all rows into shared.qkv, keys and values into the cache too: a task is of whole
// heads, which it can therefore rotate and store at once.
template <class Simd, class Cell>
void project(const DecoderPlan& plan, const DecoderLayer& layer, const DecoderStep& step,
             const Inputs& normed, const SharedBuffers& shared, const ThreadBuffers& own,
             const Share& units) {
    const std::size_t h = plan.head_dim, unit = heads_per_share(h);
    const std::size_t num_q = plan.num_heads, num_kv = plan.num_kv_heads;
    const std::size_t stride = (num_q + 2 * num_kv) * h;
    const std::size_t q_units = (num_q + unit - 1) / unit, kv_units = (num_kv + unit - 1) / unit;
    // Calls then(first row, count, heads, their numbers) behind the product of each run of rows.
    const auto part = [&](const DecoderLinear& linear, std::size_t first_unit,
                          std::size_t num_units, std::size_t num_heads, std::size_t place,
                          const auto& then) {
        const Share mine = inside(units, first_unit, num_units);
        const std::size_t end = mine.end * unit < num_heads ? mine.end * unit : num_heads;
        const Share heads{mine.first * unit < end ? mine.first * unit : end, end};
        const Share outputs{heads.first * h, heads.end * h};
        if (heads.size() == 0) return;
        for_chunks(step.num_rows, [&](std::size_t first, std::size_t count) {
            float* out = shared.qkv + first * stride + (place + heads.first) * h;
            product<Simd>(step, linear, normed, first, count, outputs, out, stride, shared, own);
            then(first, count, heads, out);
        });
    };
    const auto rotated = [&](std::size_t first, std::size_t count, const Share& heads,
                             float* out) {
        rotate_heads(shared, first, count, heads.size(), h, out, stride);
    };
    part(layer.q, 0, q_units, num_q, 0, rotated);
    part(layer.k, q_units, kv_units, num_kv, num_q,
         [&](std::size_t first, std::size_t count, const Share& heads, float* out) {
             rotated(first, count, heads, out);
             write_cache<Cell>(plan, step, first, count, heads, out, stride, layer.keys);
         });
    part(layer.v, q_units + kv_units, kv_units, num_kv, num_q + num_kv,
         [&](std::size_t first, std::size_t count, const Share& heads, float* out) {
             write_cache<Cell>(plan, step, first, count, heads, out, stride, layer.values);
         });
}

inline AttentionInput attention_of(const DecoderPlan& plan, const DecoderLayer& layer,
                                   const SharedBuffers& shared) {
    const auto h = static_cast<std::ptrdiff_t>(plan.head_dim);
    const auto q = static_cast<std::ptrdiff_t>(plan.num_heads) * h;
    const auto kv = static_cast<std::ptrdiff_t>(plan.num_kv_heads) * h;
    AttentionInput in{};
    in.q = {shared.qkv, Number::float32, q + 2 * kv, h};
    in.keys = {layer.keys, plan.cache_number, kv, h};
    in.values = {layer.values, plan.cache_number, kv, h};
    in.out = {shared.mixed, Number::float32, q, h};
    in.scale = layer.scale;
    in.softcap = layer.softcap;
    in.sinks = layer.sinks;
    in.hidden = plan.hidden;
    return in;
}

// sum_RD += the last linear layer of an attention, of `mixed` (R, columns).
template <class Simd>
void add_outputs(const DecoderPlan& plan, const DecoderLayer& layer, const DecoderStep& step,
                 float* mixed, std::size_t columns, float* sum_RD, const SharedBuffers& shared,
                 const ThreadBuffers& own, Team& team) {
    const std::size_t d = plan.hidden_size;
    const Readers readers(plan.activations, {&layer.o.weight});
    const Inputs inputs = shared_inputs<Simd>(readers, shared, mixed, step.num_rows, columns);
    if (readers.has_tiles)
        team.run(inputs.tiled.num_blocks,
                 [&](std::size_t b) { fill_activations<Simd>(mixed, inputs.tiled, b, b + 1); });
    lower<Simd>(step, {&layer.o}, inputs, shared, team);
    const std::size_t outputs = num_column_tasks(step, d, kPanel, bytes_of_output(layer.o.weight));
    team.run(outputs, [&](std::size_t task) {
        add_linear<Simd>(plan, step, layer.o, 0, inputs, {nullptr, nullptr},
                         share_of(d, kPanel, task, outputs), sum_RD, shared, own);
    });
}

// sum_RD += the attention of the rows.
template <class Simd, class Cell>
void attention_of_rows(const DecoderPlan& plan, const DecoderLayer& layer, const DecoderStep& step,
                       float* sum_RD, const SharedBuffers& shared, const ThreadBuffers& own,
                       Team& team) {
    const Readers readers(plan.activations, {&layer.q.weight, &layer.k.weight, &layer.v.weight});
    const Inputs normed =
        normalize<Simd>(plan, step, layer.attention_norm, readers, shared, team);
    lower<Simd>(step, {&layer.q, &layer.k, &layer.v}, normed, shared, team);
    const std::size_t h = plan.head_dim, unit = heads_per_share(h);
    // Counted in whole units, so that each of queries, keys and values begins at one.
    const std::size_t units = (plan.num_heads + unit - 1) / unit +
                              2 * ((plan.num_kv_heads + unit - 1) / unit);
    const std::size_t parts =
        num_column_tasks(step, units, 1, unit * h * bytes_of_output(layer.q.weight));
    team.run(parts, [&](std::size_t task) {
        project<Simd, Cell>(plan, layer, step, normed, shared, own,
                            share_of(units, 1, task, parts));
    });
    attend_rows<Simd>(*step.attentions[layer.attention], attention_of(plan, layer, shared),
                      team.thread, team.num_threads, team.counters->barrier);
    team.wait();
    add_outputs<Simd>(plan, layer, step, shared.mixed, plan.num_heads * h, sum_RD, shared, own,
                      team);
}

}  // namespace
}  // namespace bobot
