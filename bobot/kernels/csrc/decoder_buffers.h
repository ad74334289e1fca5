// The memory that one step of a decoder works in: one allocation, cut into the pieces that all
// threads see and those that each has of its own.
#pragma once

#include "decoder.h"

namespace bobot {
namespace {

// R rows, D hidden, F intermediate, E experts, A active ones of a row; the largest of all layers
// where they differ.
struct SharedBuffers {
    float* x_RD;
    float *cos, *sin;  // (R, head_dim / 2)
    float* qkv;        // (R, (num_heads + 2 * num_kv_heads) * head_dim)
    float* mixed;      // (R, num_heads * head_dim)
    float* router_RE;
    float* hidden;     // (R * A, F), ordered by expert
};

struct ThreadBuffers {
    float *normed_RD, *chosen_RD;
    float* sums;           // (R, D) or (R, 2F): outputs of a product, of which a share is used
    float* row_scales;     // of one row of a weight
    std::uint8_t* tiled;   // inputs of a product as tiles want them
    // The pairs of a row and one of its experts: see route().
    std::size_t *experts, *rows, *starts;
    float *expert_weights, *weights;
};

// Hands out pieces that begin on a cache line; without memory behind it, it counts.
struct Arena {
    float* memory;
    std::size_t used = 0;

    float* floats(std::size_t count) {
        float* piece = memory ? memory + used : nullptr;
        used += (count + 15) / 16 * 16;
        return piece;
    }
    std::uint8_t* bytes(std::size_t count) {
        return reinterpret_cast<std::uint8_t*>(floats((count + 3) / 4));
    }
    std::size_t* numbers(std::size_t count) {
        return reinterpret_cast<std::size_t*>(floats(2 * count));
    }
};

inline void raise(std::size_t& largest, std::size_t value) {
    if (value > largest) largest = value;
}

struct Largest {
    std::size_t inner = 0, active = 0, experts = 0, scales = 0, columns = 0;
};

inline Largest largest_of_all(const DecoderPlan& plan) {
    Largest largest;
    raise(largest.scales, plan.embedding.rows.scales.per_row);
    raise(largest.scales, plan.lm_head.rows.scales.per_row);
    raise(largest.columns, plan.hidden_size);
    raise(largest.columns, plan.num_heads * plan.head_dim);
    for (std::size_t i = 0; i < plan.num_layers; ++i) {
        const DecoderLayer& layer = plan.layers[i];
        const DecoderMlp& mlp = layer.mlp;
        const DecoderLinear* linears[] = {&layer.q,    &layer.k,  &layer.v,  &layer.o,
                                          &mlp.router, &mlp.gate, &mlp.up,   &mlp.down};
        for (const DecoderLinear* linear : linears)
            raise(largest.scales, linear->weight.rows.scales.per_row);
        raise(largest.inner, mlp.intermediate_size);
        raise(largest.columns, mlp.intermediate_size);
        raise(largest.active, mlp.num_active);
        raise(largest.experts, mlp.num_experts);
    }
    return largest;
}

// Cuts the arena into the pieces of one step; `threads` has one entry for each thread, or is null.
template <class Simd>
void cut(const DecoderPlan& plan, const DecoderStep& step, Arena& arena, SharedBuffers& shared,
         ThreadBuffers* threads) {
    const Largest largest = largest_of_all(plan);
    const std::size_t rows = step.num_rows, d = plan.hidden_size, h = plan.head_dim;
    const std::size_t pairs = rows * largest.active;
    const std::size_t outputs = 2 * largest.inner > d ? 2 * largest.inner : d;
    shared.x_RD = arena.floats(rows * d);
    shared.cos = arena.floats(rows * (h / 2));
    shared.sin = arena.floats(rows * (h / 2));
    shared.qkv = arena.floats(rows * h * (plan.num_heads + 2 * plan.num_kv_heads));
    shared.mixed = arena.floats(rows * h * plan.num_heads);
    shared.router_RE = arena.floats(rows * largest.experts);
    shared.hidden = arena.floats(pairs * largest.inner);
    for (int t = 0; t < plan.num_threads; ++t) {
        ThreadBuffers own;
        own.normed_RD = arena.floats(rows * d);
        own.chosen_RD = arena.floats(rows * d);
        own.sums = arena.floats((rows > kPanel ? rows : kPanel) * outputs);
        own.row_scales = arena.floats(largest.scales);
        own.tiled = arena.bytes(tiled_bytes<Simd>(rows, largest.columns));
        own.experts = arena.numbers(pairs);
        own.rows = arena.numbers(pairs);
        own.starts = arena.numbers(largest.experts + 1);
        own.expert_weights = arena.floats(pairs);
        own.weights = arena.floats(pairs);
        if (threads) threads[t] = own;
    }
}

}  // namespace
}  // namespace bobot
