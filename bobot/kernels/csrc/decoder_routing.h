// Which experts each row of a step passes, and the rows of each expert.
#pragma once

#include "decoder_buffers.h"
#include "float_loops.h"

namespace bobot {
namespace {

// The `count` highest of some scores, the first of equal ones.
inline void choose_highest(const float* scores, std::size_t size, std::size_t count,
                           std::size_t* chosen) {
    for (std::size_t a = 0; a < count; ++a) {
        std::size_t best = size;
        for (std::size_t e = 0; e < size; ++e) {
            const bool is_better = best == size || scores[e] > scores[best];
            if (!is_better) continue;
            bool is_taken = false;
            for (std::size_t b = 0; b < a; ++b) is_taken |= chosen[b] == e;
            if (!is_taken) best = e;
        }
        chosen[a] = best;
    }
}

// Minus infinity for experts outside the best groups; a group is as good as its best two experts.
// `strengths` has room for one number of each group.
inline void hide_worse_groups(const DecoderRouter& router, std::size_t group_size, float* choices,
                              float* strengths) {
    constexpr float kNone = -__builtin_huge_valf();
    for (std::size_t g = 0; g < router.num_groups; ++g) {
        float first = kNone, second = kNone;
        for (std::size_t e = g * group_size; e < (g + 1) * group_size; ++e) {
            const float score = choices[e];
            second = score > first ? first : score > second ? score : second;
            first = score > first ? score : first;
        }
        strengths[g] = first + second;
    }
    for (std::size_t i = router.num_best_groups; i < router.num_groups; ++i) {
        std::size_t worst = 0;
        for (std::size_t g = 1; g < router.num_groups; ++g)
            if (strengths[g] <= strengths[worst]) worst = g;
        strengths[worst] = -kNone;
        for (std::size_t e = 0; e < group_size; ++e) choices[worst * group_size + e] = kNone;
    }
}

// The experts of a row and their weights, by the rules of its router. `scores` are the router's
// logits and overwritten; `choices` has room for twice as many.
inline void choose_experts(const DecoderMlp& mlp, float* scores, std::size_t* chosen,
                           float* weights, float* choices) {
    const DecoderRouter& router = mlp.router;
    const std::size_t num_experts = mlp.num_experts, num_active = mlp.num_active;
    const bool has_sigmoid = router.scores == RouterScores::sigmoid ||
                             router.scores == RouterScores::normalized_sigmoid;
    if (has_sigmoid)
        for (std::size_t e = 0; e < num_experts; ++e)
            scores[e] = 1.0f / (1.0f + exponential(-scores[e]));
    for (std::size_t e = 0; e < num_experts; ++e)
        choices[e] = scores[e] + (router.choice_bias ? router.choice_bias[e] : 0.0f);
    if (router.num_best_groups < router.num_groups)
        hide_worse_groups(router, num_experts / router.num_groups, choices, choices + num_experts);
    choose_highest(choices, num_experts, num_active, chosen);
    float total = 1;
    if (router.scores == RouterScores::softmax_of_all)
        total = exponentials(scores, num_experts, largest_of(scores, num_experts));
    for (std::size_t a = 0; a < num_active; ++a) weights[a] = scores[chosen[a]];
    if (router.scores == RouterScores::softmax_of_chosen)
        total = exponentials(weights, num_active, weights[0]);
    if (router.scores == RouterScores::normalized_sigmoid) {
        total = 1e-20f;
        for (std::size_t a = 0; a < num_active; ++a) total += weights[a];
    }
    for (std::size_t a = 0; a < num_active; ++a) weights[a] = weights[a] / total * router.factor;
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
