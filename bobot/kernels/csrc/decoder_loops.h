// The step of decoder.h over a `Simd` type (packed_loops.h): phases whose tasks a team of threads
// shares (team.h). Everything but the cache is float32, and a product's inputs are what tiles take.
#pragma once

#include <stdlib.h>

#include "decoder_latent.h"
#include "decoder_mlp.h"

namespace bobot {
namespace {

template <class Simd, class Cell>
void decode_layer(const DecoderPlan& plan, const DecoderLayer& layer, const DecoderStep& step,
                  SharedBuffers& shared, const ThreadBuffers& own, Team& team) {
    const auto attend =
        layer.is_latent ? latent_attention_of_rows<Simd, Cell> : attention_of_rows<Simd, Cell>;
    attend(plan, layer, step, sum_of_branch(shared, layer.attention_norm_after), shared, own, team);
    add_branch<Simd>(plan, step, layer.attention_norm_after, shared, team);
    const DecoderMlp &mlp = layer.mlp, &beside = layer.shared;
    const Readers readers(plan.activations,
                          {&mlp.router.linear.weight, &mlp.gate.weight, &mlp.up.weight,
                           &beside.gate.weight, &beside.up.weight});
    const Inputs normed = normalize<Simd>(plan, step, layer.mlp_norm, readers, shared, team);
    float* sum_RD = sum_of_branch(shared, layer.mlp_norm_after);
    mlp_of_rows<Simd>(plan, step, mlp, normed, sum_RD, shared, own, team);
    if (beside.num_experts > 0)
        mlp_of_rows<Simd>(plan, step, beside, normed, sum_RD, shared, own, team);
    add_branch<Simd>(plan, step, layer.mlp_norm_after, shared, team);
}

template <class Simd>
void embed(const DecoderPlan& plan, const DecoderStep& step, const SharedBuffers& shared,
           const ThreadBuffers& own, Team& team) {
    const std::size_t d = plan.hidden_size, half = plan.rotary_dim / 2;
    team.run(step.num_rows, [&](std::size_t m) {
        float* x = shared.x_RD + m * d;
        row_of<Simd>(plan.embedding, static_cast<std::size_t>(step.ids[m]), own.sums,
                     own.row_scales, x);
        for (std::size_t i = 0; i < d; ++i) x[i] *= plan.embedding_factor;
        if (shared.branch_RD) std::memset(shared.branch_RD + m * d, 0, sizeof(float) * d);
        rotation(step.positions[m], plan.frequencies, half, plan.rope_factor,
                 shared.cos + m * half, shared.sin + m * half);
        if (plan.hidden) {
            const auto position = static_cast<std::size_t>(step.positions[m]);
            plan.hidden[slot_of(plan, step.tables[m], position)] = step.ids[m] == plan.hidden_id;
        }
    });
}

// The logits of the rows that were asked for.
template <class Simd>
void score(const DecoderPlan& plan, const DecoderStep& step, const SharedBuffers& shared,
           const ThreadBuffers& own, Team& team) {
    const std::size_t d = plan.hidden_size, rows = step.num_logits;
    const Readers readers(plan.activations, {&plan.lm_head});
    const Inputs last = shared_inputs<Simd>(readers, shared, shared.normed_RD, rows, d);
    const std::size_t size = block_rows<Simd>(rows, readers.type);
    team.run((rows + size - 1) / size, [&](std::size_t b) {
        for (std::size_t r = b * size; r < (b + 1) * size && r < rows; ++r)
            rms_norm<Simd>(shared.x_RD + static_cast<std::size_t>(step.logit_rows[r]) * d,
                           plan.norm, d, plan.eps, shared.normed_RD + r * d);
        if (readers.has_tiles) fill_activations<Simd>(shared.normed_RD, last.tiled, b, b + 1);
    });
    const std::size_t parts =
        num_column_tasks(step, plan.vocab_size, kPanel, bytes_of_output(plan.lm_head));
    team.run(parts, [&](std::size_t task) {
        const Share share = share_of(plan.vocab_size, kPanel, task, parts);
        for_chunks(rows, [&](std::size_t first, std::size_t count) {
            product<Simd>(plan.lm_head, last, first, count, share,
                          step.logits + first * plan.vocab_size + share.first, plan.vocab_size,
                          own.row_scales);
        });
    });
}

template <class Simd, class Cell>
void decode_all(const DecoderPlan& plan, const DecoderStep& step, SharedBuffers& shared,
                const ThreadBuffers& own, Team& team) {
    embed<Simd>(plan, step, shared, own, team);
    for (std::size_t i = 0; i < plan.num_layers; ++i)
        decode_layer<Simd, Cell>(plan, plan.layers[i], step, shared, own, team);
    if (step.num_logits > 0) score<Simd>(plan, step, shared, own, team);
}

// False if there is no memory to work in.
template <class Simd>
bool decode(const DecoderPlan& plan, const DecoderStep& step) {
    SharedBuffers shared;
    Arena counting{nullptr};
    cut<Simd>(plan, step, counting, shared, nullptr);
    const std::size_t thread_bytes = aligned(sizeof(ThreadBuffers) * step.num_threads);
    void* memory = aligned_alloc(64, thread_bytes + sizeof(float) * counting.used);
    if (!memory) return false;
    auto* threads = static_cast<ThreadBuffers*>(memory);
    Arena arena{reinterpret_cast<float*>(static_cast<char*>(memory) + thread_bytes)};
    cut<Simd>(plan, step, arena, shared, threads);
    *shared.counters = {};
    const auto run = plan.cache_number == Number::float32    ? decode_all<Simd, Float32Cell<Simd>>
                     : plan.cache_number == Number::bfloat16 ? decode_all<Simd, Bfloat16Cell<Simd>>
                                                             : decode_all<Simd, Float16Cell<Simd>>;
#pragma omp parallel num_threads(step.num_threads)
    {
        Team team{0, 1, shared.counters};
#ifdef _OPENMP
        team.thread = omp_get_thread_num(), team.num_threads = omp_get_num_threads();
#endif
        run(plan, step, shared, threads[team.thread], team);
    }
    free(memory);
    return true;
}

}  // namespace
}  // namespace bobot
