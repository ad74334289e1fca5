// Which experts each row of a step passes, and the rows of each expert.
#pragma once

#include "decoder_buffers.h"
#include "float_loops.h"

namespace bobot {
namespace {

// The experts of a row: the highest logits, the first of equal ones, weighted by the softmax over
// those alone.
inline void choose_experts(const DecoderMlp& mlp, const float* logits_E, std::size_t* chosen,
                           float* weights) {
    for (std::size_t a = 0; a < mlp.num_active; ++a) {
        std::size_t best = mlp.num_experts;
        for (std::size_t e = 0; e < mlp.num_experts; ++e) {
            const bool is_better = best == mlp.num_experts || logits_E[e] > logits_E[best];
            if (!is_better) continue;
            bool is_taken = false;
            for (std::size_t b = 0; b < a; ++b) is_taken |= chosen[b] == e;
            if (!is_taken) best = e;
        }
        chosen[a] = best;
        weights[a] = logits_E[best];
    }
    const float total = exponentials(weights, mlp.num_active, weights[0]);
    for (std::size_t a = 0; a < mlp.num_active; ++a) weights[a] /= total;
}

// Pairs by expert, in the order of the rows: a counting sort.
inline void sort_by_expert(const DecoderMlp& mlp, std::size_t num_rows, Routing& routing) {
    const std::size_t num_pairs = num_rows * mlp.num_active, e = mlp.num_experts;
    std::size_t* starts = routing.starts;
    for (std::size_t i = 0; i <= e; ++i) starts[i] = 0;
    for (std::size_t i = 0; i < num_pairs; ++i) ++starts[routing.chosen[i] + 1];
    routing.num_used = 0;
    for (std::size_t i = 0; i < e; ++i) {
        if (starts[i + 1] > 0) routing.used[routing.num_used++] = i;
        starts[i + 1] += starts[i];
    }
    for (std::size_t i = num_pairs; i-- > 0;) {
        // From the last to the first: starts[e + 1] moves down to where expert e begins.
        const std::size_t p = --starts[routing.chosen[i] + 1];
        routing.rows[p] = i / mlp.num_active;
        routing.weights[p] = routing.chosen_weights[i];
    }
    for (std::size_t i = 0; i < e; ++i) starts[i] = starts[i + 1];
    starts[e] = num_pairs;
}

}  // namespace
}  // namespace bobot
