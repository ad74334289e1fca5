// Attention of a decoder's layer over one latent vector for all heads (MLA, arXiv:2405.04434), in
// its absorbed form: models/deepseek_v3.py.
//
//     latents     the query's (Q) and that of keys and values (C), with one rotary key behind it
//     queries     of a head: its plain part (P) times the head's key matrix, then its rotary part
//     values      of a head: what was mixed from latents (C) times the head's value matrix (U)
#pragma once

#include "decoder_attention.h"

namespace bobot {
namespace {

// Neighbours turn against each other; the result has the first of each pair in its first half.
inline void rotate_pairs(const float* __restrict from, const float* __restrict cos,
                         const float* __restrict sin, std::size_t half, float* __restrict to) {
    for (std::size_t i = 0; i < half; ++i) {
        const float first = from[2 * i], second = from[2 * i + 1];
        to[i] = first * cos[i] - second * sin[i];
        to[i + half] = second * cos[i] + first * sin[i];
    }
}

// What queries are made of: their latent, or the normed rows themselves.
inline Readers readers_of_rows(const DecoderPlan& plan, const DecoderLatent& latent) {
    const DecoderLinear& of_query = latent.q_rank > 0 ? latent.q_a : latent.q;
    return Readers(plan.activations, {&of_query.weight, &latent.kv_a.weight});
}

// Both latents of all rows, not yet normed.
template <class Simd>
void project_latents(const DecoderPlan& plan, const DecoderLatent& latent, const DecoderStep& step,
                     const Inputs& normed, const SharedBuffers& shared, const ThreadBuffers& own,
                     Team& team) {
    const std::size_t q_units = (latent.q_rank + kPanel - 1) / kPanel;
    const std::size_t kv_units = (plan.head_dim + kPanel - 1) / kPanel, units = q_units + kv_units;
    const std::size_t parts = num_column_tasks(step, units * kPanel, kPanel,
                                               bytes_of_output(latent.kv_a.weight));
    lower<Simd>(step, {&latent.q_a, &latent.kv_a}, normed, shared, team);
    team.run(parts, [&](std::size_t task) {
        const Share mine = share_of(units, 1, task, parts);
        const auto part = [&](const DecoderLinear& linear, std::size_t first_unit,
                              std::size_t num_units, std::size_t size, float* out) {
            const Share some = inside(mine, first_unit, num_units);
            const std::size_t end = some.end * kPanel < size ? some.end * kPanel : size;
            if (some.size() == 0) return;
            const Share outputs{some.first * kPanel, end};
            for_chunks(step.num_rows, [&](std::size_t first, std::size_t count) {
                product<Simd>(step, linear, normed, first, count, outputs,
                              out + first * size + outputs.first, size, shared, own);
            });
        };
        part(latent.q_a, 0, q_units, latent.q_rank, shared.q_latent);
        part(latent.kv_a, q_units, kv_units, plan.head_dim, shared.kv_latent);
    });
}

// Norms, rotates and stores the latents; what queries are made of is the result.
template <class Simd, class Cell>
Inputs store_latents(const DecoderPlan& plan, const DecoderLayer& layer, const DecoderStep& step,
                     const Inputs& normed, const SharedBuffers& shared, const ThreadBuffers& own,
                     Team& team) {
    const DecoderLatent& latent = layer.latent;
    const std::size_t h = plan.head_dim, rotary = plan.rotary_dim, c = h - rotary;
    const std::size_t q = latent.q_rank, rows = step.num_rows;
    const Readers readers(plan.activations, {&latent.q.weight});
    const bool has_latent = q > 0, fills = has_latent && readers.has_tiles;
    const Inputs queries = has_latent
                               ? shared_inputs<Simd>(readers, shared, shared.q_latent, rows, q)
                               : normed;
    const std::size_t size = block_rows<Simd>(rows, readers.type);
    team.run((rows + size - 1) / size, [&](std::size_t b) {
        for (std::size_t m = b * size; m < (b + 1) * size && m < rows; ++m) {
            float *of_query = shared.q_latent + m * q, *key = shared.kv_latent + m * h;
            if (has_latent)
                rms_norm<Simd>(of_query, latent.q_norm, q, latent.eps, of_query);
            rms_norm<Simd>(key, latent.kv_norm, c, latent.eps, key);
            std::memcpy(own.head_rows, key + c, sizeof(float) * rotary);
            rotate_pairs(own.head_rows, shared.cos + m * (rotary / 2),
                         shared.sin + m * (rotary / 2), rotary / 2, key + c);
            write_cache<Cell>(plan, step, m, 1, {0, 1}, key, h, layer.keys);
        }
        if (fills) fill_activations<Simd>(shared.q_latent, queries.tiled, b, b + 1);
    });
    return queries;
}

// out[m] = matrix `head` of a stack times from[m], for `count` rows that lie `stride` apart, of at
// most a chunk.
template <class Simd>
void product_of_head(const DecoderPlan& plan, const Weight& stack, std::size_t head,
                     const float* from, std::size_t stride, std::size_t count, std::size_t columns,
                     std::size_t outputs, float* out, std::size_t out_stride,
                     const ThreadBuffers& own) {
    const Weight weight = matrix_of(stack, head);
    const Readers readers(plan.activations, {&weight});
    Inputs x{count, columns, own.head_rows, {}};
    for (std::size_t m = 0; m < count; ++m)
        std::memcpy(x.rows + m * columns, from + m * stride, sizeof(float) * columns);
    if (readers.has_tiles) {
        x.lay_out_tiles<Simd>(readers, own.head_tiles);
        fill_activations<Simd>(x.rows, x.tiled, 0, x.tiled.num_blocks);
    }
    product<Simd>(weight, x, 0, count, {0, outputs}, out, out_stride, own.row_scales);
}

// Queries of some heads, for all rows, into shared.qkv.
template <class Simd>
void absorb_queries(const DecoderPlan& plan, const DecoderLatent& latent, const DecoderStep& step,
                    const Inputs& queries, const SharedBuffers& shared, const ThreadBuffers& own,
                    const Share& heads) {
    const std::size_t h = plan.head_dim, rotary = plan.rotary_dim, c = h - rotary;
    const std::size_t size = latent.plain_size + rotary, width = heads.size() * size;
    const std::size_t stride = (plan.num_heads + 2 * plan.num_kv_heads) * h;
    const Share outputs{heads.first * size, heads.end * size};
    for_chunks(step.num_rows, [&](std::size_t first, std::size_t count) {
        product<Simd>(step, latent.q, queries, first, count, outputs, own.sums, width, shared,
                      own);
        for (std::size_t i = 0; i < heads.size(); ++i) {
            const float* from = own.sums + i * size;
            float* to = shared.qkv + first * stride + (heads.first + i) * h;
            for (std::size_t m = 0; m < count; ++m)
                rotate_pairs(from + m * width + latent.plain_size,
                             shared.cos + (first + m) * (rotary / 2),
                             shared.sin + (first + m) * (rotary / 2), rotary / 2,
                             to + m * stride + c);
            product_of_head<Simd>(plan, latent.key, heads.first + i, from, width, count,
                                  latent.plain_size, c, to, stride, own);
        }
    });
}

// The value matrices of some heads times what they mixed.
template <class Simd>
void expand_values(const DecoderPlan& plan, const DecoderLatent& latent, const DecoderStep& step,
                   const SharedBuffers& shared, const ThreadBuffers& own, const Share& heads) {
    const std::size_t h = plan.head_dim, u = latent.value_size, c = h - plan.rotary_dim;
    const std::size_t in_stride = plan.num_heads * h, out_stride = plan.num_heads * u;
    for (std::size_t head = heads.first; head < heads.end; ++head)
        for_chunks(step.num_rows, [&](std::size_t first, std::size_t count) {
            product_of_head<Simd>(plan, latent.value, head,
                                  shared.mixed + first * in_stride + head * h, in_stride, count, c,
                                  u, shared.values + first * out_stride + head * u, out_stride,
                                  own);
        });
}

// sum_RD += the attention of the rows.
template <class Simd, class Cell>
void latent_attention_of_rows(const DecoderPlan& plan, const DecoderLayer& layer,
                              const DecoderStep& step, float* sum_RD, const SharedBuffers& shared,
                              const ThreadBuffers& own, Team& team) {
    const DecoderLatent& latent = layer.latent;
    const std::size_t heads = plan.num_heads, size = latent.plain_size + plan.rotary_dim;
    const Inputs normed = normalize<Simd>(plan, step, layer.attention_norm,
                                          readers_of_rows(plan, latent), shared, team);
    project_latents<Simd>(plan, latent, step, normed, shared, own, team);
    const Inputs queries =
        store_latents<Simd, Cell>(plan, layer, step, normed, shared, own, team);
    lower<Simd>(step, {&latent.q}, queries, shared, team);
    const std::size_t unit = heads_per_share(size), units = (heads + unit - 1) / unit;
    const std::size_t parts =
        num_column_tasks(step, units, 1, unit * size * bytes_of_output(latent.q.weight));
    team.run(parts, [&](std::size_t task) {
        const Share mine = share_of(heads, unit, task, parts);
        for (std::size_t first = mine.first; first < mine.end; first += unit)
            absorb_queries<Simd>(plan, latent, step, queries, shared, own,
                                 {first, first + unit < heads ? first + unit : heads});
    });
    attend_rows<Simd>(*step.attentions[layer.attention], attention_of(plan, layer, shared),
                      team.thread, team.num_threads, team.counters->barrier);
    team.wait();
    const std::size_t value_parts = num_column_tasks(
        step, heads, 1, latent.value_size * bytes_of_output(latent.value));
    team.run(value_parts, [&](std::size_t task) {
        expand_values<Simd>(plan, latent, step, shared, own,
                            share_of(heads, 1, task, value_parts));
    });
    add_outputs<Simd>(plan, layer, step, shared.values, heads * latent.value_size, sum_RD, shared,
                      own, team);
}

}  // namespace
}  // namespace bobot
