// The step of decoder.h over a `Simd` type (packed_loops.h). Threads share the outputs of every
// matrix and the heads of attention, and wait for each other where one needs what all have written:
// five times a layer, six with a router. What is small, such as norms and the choice of experts,
// each computes for itself. Everything but the cache is float32.
#pragma once

#include <stdlib.h>

#include "attention_loops.h"
#include "decoder_mlp.h"

#ifdef _OPENMP
#include <omp.h>
#endif

namespace bobot {
namespace {

// Heads that threads share start at a multiple of so many, that their outputs do so as they should.
inline std::size_t heads_per_share(std::size_t head_dim) {
    std::size_t heads = 1;
    while (heads * head_dim % kPanel) heads *= 2;
    return heads;
}

// The share of [first, first + count) in a share of something longer that holds it.
inline Share inside(const Share& whole, std::size_t first, std::size_t count) {
    const std::size_t end = first + count;
    const std::size_t from = whole.first < first ? first : whole.first > end ? end : whole.first;
    const std::size_t to = whole.end < first ? first : whole.end > end ? end : whole.end;
    return {from - first, to - first};
}

inline void rotate_heads(const SharedBuffers& shared, std::size_t rows, std::size_t num_heads,
                         std::size_t h, std::size_t stride, float* heads) {
    for (std::size_t m = 0; m < rows; ++m)
        for (std::size_t head = 0; head < num_heads; ++head)
            rotate(heads + m * stride + head * h, shared.cos + m * (h / 2),
                   shared.sin + m * (h / 2), h / 2);
}

template <class Cell>
void write_cache(const DecoderPlan& plan, const DecoderStep& step, const Share& heads,
                 const float* from, std::size_t stride, void* cache) {
    const std::size_t h = plan.head_dim;
    for (std::size_t m = 0; m < step.num_rows; ++m) {
        const std::size_t slot =
            slot_of(plan, step.tables[m], static_cast<std::size_t>(step.positions[m]));
        auto* to = static_cast<typename Cell::Stored*>(cache) +
                   (slot * plan.num_kv_heads + heads.first) * h;
        for (std::size_t i = 0; i < heads.size() * h; ++i)
            to[i] = Cell::narrow(from[m * stride + i]);
    }
}

// Queries of all rows into shared.qkv, keys and values into the cache too: a thread's share is of
// whole heads, which it can therefore rotate and store at once.
template <class Simd, class Cell>
void project(const DecoderPlan& plan, const DecoderLayer& layer, const DecoderStep& step,
             Inputs& normed, SharedBuffers& shared, ThreadBuffers& own, int thread,
             int num_threads) {
    const std::size_t h = plan.head_dim, unit = heads_per_share(h), rows = step.num_rows;
    const std::size_t num_q = plan.num_heads, num_kv = plan.num_kv_heads;
    const std::size_t stride = (num_q + 2 * num_kv) * h;
    // Counted in whole units, so that each of the three begins at one.
    const std::size_t q_units = (num_q + unit - 1) / unit, kv_units = (num_kv + unit - 1) / unit;
    const Share units = share_of(q_units + 2 * kv_units, 1, thread, num_threads);
    const auto part = [&](const DecoderLinear& linear, std::size_t first_unit,
                          std::size_t num_units, std::size_t num_heads, float* out) {
        const Share mine = inside(units, first_unit, num_units);
        const std::size_t end = mine.end * unit < num_heads ? mine.end * unit : num_heads;
        const Share heads{mine.first * unit < end ? mine.first * unit : end, end};
        const Share outputs{heads.first * h, heads.end * h};
        product<Simd>(linear.weight, normed, outputs, out, stride, own.row_scales);
        add_bias(linear.bias, rows, outputs, stride, out);
        return heads;
    };
    float *q = shared.qkv, *k = q + num_q * h, *v = k + num_kv * h;
    const Share q_heads = part(layer.q, 0, q_units, num_q, q);
    rotate_heads(shared, rows, q_heads.size(), h, stride, q + q_heads.first * h);
    const Share k_heads = part(layer.k, q_units, kv_units, num_kv, k);
    rotate_heads(shared, rows, k_heads.size(), h, stride, k + k_heads.first * h);
    write_cache<Cell>(plan, step, k_heads, k + k_heads.first * h, stride, layer.keys);
    const Share v_heads = part(layer.v, q_units + kv_units, kv_units, num_kv, v);
    write_cache<Cell>(plan, step, v_heads, v + v_heads.first * h, stride, layer.values);
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
    return in;
}

template <class Simd, class Cell>
void decode_layer(const DecoderPlan& plan, const DecoderLayer& layer, const DecoderStep& step,
                  SharedBuffers& shared, ThreadBuffers& own, int thread, int num_threads) {
    const std::size_t rows = step.num_rows, d = plan.hidden_size, h = plan.head_dim;
    for (std::size_t m = 0; m < rows; ++m)
        rms_norm<Simd>(shared.x_RD + m * d, layer.attention_norm, d, plan.eps,
                       own.normed_RD + m * d);
    Inputs normed{own.normed_RD, rows, d, own.tiled, plan.activations};
    project<Simd, Cell>(plan, layer, step, normed, shared, own, thread, num_threads);
#pragma omp barrier
    attend_rows<Simd>(*step.attentions[layer.attention], attention_of(plan, layer, shared), thread,
                      num_threads);
#pragma omp barrier
    const Share outputs = share_of(d, kPanel, thread, num_threads);
    Inputs mixed{shared.mixed, rows, plan.num_heads * h, own.tiled, plan.activations};
    product<Simd>(layer.o.weight, mixed, outputs, own.sums, d, own.row_scales);
    add_bias(layer.o.bias, rows, outputs, d, own.sums);
    for (std::size_t m = 0; m < rows; ++m)
        for (std::size_t n = outputs.first; n < outputs.end; ++n)
            shared.x_RD[m * d + n] += own.sums[m * d + n];
#pragma omp barrier
    for (std::size_t m = 0; m < rows; ++m)
        rms_norm<Simd>(shared.x_RD + m * d, layer.mlp_norm, d, plan.eps, own.normed_RD + m * d);
    normed.is_ready = false;
    mlp_of_rows<Simd>(plan, layer.mlp, normed, shared, own, thread, num_threads);
#pragma omp barrier
}

// What one of several threads does of a step.
template <class Simd, class Cell>
void decode_share(const DecoderPlan& plan, const DecoderStep& step, SharedBuffers& shared,
                  ThreadBuffers& own, int thread, int num_threads) {
    const std::size_t d = plan.hidden_size, half = plan.head_dim / 2;
    const Share rows = share_of(step.num_rows, 1, thread, num_threads);
    for (std::size_t m = rows.first; m < rows.end; ++m) {
        row_of<Simd>(plan.embedding, static_cast<std::size_t>(step.ids[m]), own.sums,
                     own.row_scales, shared.x_RD + m * d);
        rotation(step.positions[m], plan.frequencies, half, plan.rope_factor,
                 shared.cos + m * half, shared.sin + m * half);
    }
#pragma omp barrier
    for (std::size_t i = 0; i < plan.num_layers; ++i)
        decode_layer<Simd, Cell>(plan, plan.layers[i], step, shared, own, thread, num_threads);
    for (std::size_t r = 0; r < step.num_logits; ++r)
        rms_norm<Simd>(shared.x_RD + static_cast<std::size_t>(step.logit_rows[r]) * d, plan.norm, d,
                       plan.eps, own.normed_RD + r * d);
    Inputs last{own.normed_RD, step.num_logits, d, own.tiled, plan.activations};
    product<Simd>(plan.lm_head, last, share_of(plan.vocab_size, kPanel, thread, num_threads),
                  step.logits, plan.vocab_size, own.row_scales);
}

// False if there is no memory to work in.
template <class Simd>
bool decode(const DecoderPlan& plan, const DecoderStep& step) {
    SharedBuffers shared;
    Arena counting{nullptr};
    cut<Simd>(plan, step, counting, shared, nullptr);
    const std::size_t thread_bytes = (sizeof(ThreadBuffers) * plan.num_threads + 63) / 64 * 64;
    void* memory = aligned_alloc(64, thread_bytes + sizeof(float) * counting.used);
    if (!memory) return false;
    auto* threads = static_cast<ThreadBuffers*>(memory);
    Arena arena{reinterpret_cast<float*>(static_cast<char*>(memory) + thread_bytes)};
    cut<Simd>(plan, step, arena, shared, threads);
#pragma omp parallel num_threads(plan.num_threads)
    {
        int thread = 0, num_threads = 1;
#ifdef _OPENMP
        thread = omp_get_thread_num(), num_threads = omp_get_num_threads();
#endif
        ThreadBuffers& own = threads[thread];
        if (plan.cache_number == Number::float32)
            decode_share<Simd, Float32Cell<Simd>>(plan, step, shared, own, thread, num_threads);
        else if (plan.cache_number == Number::bfloat16)
            decode_share<Simd, Bfloat16Cell<Simd>>(plan, step, shared, own, thread, num_threads);
        else
            decode_share<Simd, Float16Cell<Simd>>(plan, step, shared, own, thread, num_threads);
    }
    free(memory);
    return true;
}

}  // namespace
}  // namespace bobot
