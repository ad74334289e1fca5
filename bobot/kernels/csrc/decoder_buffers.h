// The memory that one step of a decoder works in: one allocation, cut into the pieces that all
// threads see and those that each has of its own.
//
// R rows, D hidden, F intermediate, E experts, A active experts of a row, P pairs of a row and one
// of its experts; the largest of all layers where they differ.
#pragma once

#include "decoder.h"

namespace bobot {
namespace {

// Of a task of many rows: the rows whose outputs it holds at a time, the most columns, and the
// bytes of their weights. All of them stay in the second-level cache.
constexpr std::size_t kChunkRows = 64, kMostColumns = 128, kCachedWeights = 1 << 18;
// So few rows wait for the memory: each thread reads one run of it.
constexpr std::size_t kFewRows = 4;
// Rows that pass the router together: they stay in the second-level cache while all experts pass.
constexpr std::size_t kRouterRows = kUnitRows;

// Which rows pass which experts. Pair p, for starts[e] <= p < starts[e + 1], is row rows[p], which
// chose expert e with the weight weights[p].
struct Routing {
    std::size_t num_used;
    std::size_t *used;         // experts that somebody chose, in order
    std::size_t *starts;       // (E + 1)
    std::size_t *rows;         // (P)
    float *weights;            // (P)
    std::size_t *x_at, *hidden_at;  // where the tiles of the inputs of used[i] lie, in bytes
    std::size_t *chosen;       // (R, A): the choice of each row, before it is sorted
    float *chosen_weights;     // (R, A)
};

struct SharedBuffers {
    TaskCounters* counters;
    float* x_RD;
    float* branch_RD;      // what a norm takes before it is added; else zeros
    float *cos, *sin;      // (R, head_dim / 2)
    float* normed_RD;
    float* qkv;            // (R, (num_heads + 2 * num_kv_heads) * head_dim)
    float* mixed;          // (R, num_heads * head_dim)
    std::uint8_t* tiled;   // normed_RD or `mixed` as tiles want them
    float* router_RE;
    Routing routing;
    // Inputs of the experts' inner and outer layers, one expert behind the other, in the form that
    // weights of rows want and in the one that tiles want.
    float *chosen_PD, *hidden_PF;
    std::uint8_t *tiled_PD, *tiled_PF;
};

struct ThreadBuffers {
    float* sums;        // outputs of a product: (rows of a chunk, outputs of a task), or a panel
    float* gated;       // (rows of a chunk, columns of a task)
    float* block;       // rows of a block, (.., D)
    float* row_scales;  // of one row of a weight
    float* choices;     // two for each expert of a row
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
    bool has_branch = false;
    std::size_t columns = 0, inner = 0, active = 0, experts = 0, scales = 0;
    // Columns of the pairs' inputs to the inner and to the outer layer, in either form.
    std::size_t rows_in_d = 0, tiles_in_d = 0, rows_in_f = 0, tiles_in_f = 0;
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
                                          &mlp.gate, &mlp.up, &mlp.down, &mlp.router.linear};
        for (const DecoderLinear* linear : linears)
            raise(largest.scales, linear->weight.rows.scales.per_row);
        largest.has_branch |= layer.attention_norm_after || layer.mlp_norm_after;
        raise(largest.inner, mlp.intermediate_size);
        raise(largest.active, mlp.num_active);
        raise(largest.experts, mlp.num_experts);
        const bool has_choice = mlp.num_experts > 1;
        if (has_choice && mlp.reads_tiles()) largest.tiles_in_d = plan.hidden_size;
        if (has_choice && mlp.reads_rows()) largest.rows_in_d = plan.hidden_size;
        raise(mlp.down.weight.tiles.data ? largest.tiles_in_f : largest.rows_in_f,
              mlp.intermediate_size);
    }
    return largest;
}

constexpr std::size_t kPartsBytes = 4 * 64;  // what the parts of a form take for beginning on cache lines

// Bytes of rows in any form that tiles take: floats are the longest, a matrix unit fills up most rows.
template <class Simd>
std::size_t tiled_bytes(std::size_t num_rows, std::size_t num_columns) {
    const std::size_t filled = num_rows + block_rows<Simd>(num_rows, ActivationType::bfloat16) - 1;
    Activations floats;
    return activations_layout(floats, filled, num_columns, 1, ActivationType::float32, nullptr) +
           kPartsBytes;
}

// Bytes of P pairs of at most `num_experts` experts, each a matrix in the form of tiles: the rows
// of the last block of each are filled up, and each part begins on a cache line.
inline std::size_t bytes_of_pairs(std::size_t pairs, std::size_t num_experts, std::size_t columns,
                                  std::size_t most_block_rows) {
    if (columns == 0) return 0;
    const std::size_t used = num_experts < pairs ? num_experts : pairs;
    Activations all;
    return activations_layout(all, pairs + used * (most_block_rows - 1), columns, 1,
                              ActivationType::float32, nullptr) +
           used * kPartsBytes;
}

// Cuts the arena into the pieces of one step; `threads` has one entry for each thread, or is null.
template <class Simd>
void cut(const DecoderPlan& plan, const DecoderStep& step, Arena& arena, SharedBuffers& shared,
         ThreadBuffers* threads) {
    const Largest largest = largest_of_all(plan);
    const std::size_t rows = step.num_rows, d = plan.hidden_size, h = plan.head_dim;
    const std::size_t pairs = rows * largest.active, e = largest.experts;
    shared.counters = reinterpret_cast<TaskCounters*>(arena.bytes(sizeof(TaskCounters)));
    shared.x_RD = arena.floats(rows * d);
    shared.branch_RD = largest.has_branch ? arena.floats(rows * d) : nullptr;
    shared.cos = arena.floats(rows * (h / 2));
    shared.sin = arena.floats(rows * (h / 2));
    shared.normed_RD = arena.floats(rows * d);
    shared.qkv = arena.floats(rows * h * (plan.num_heads + 2 * plan.num_kv_heads));
    shared.mixed = arena.floats(rows * h * plan.num_heads);
    shared.tiled = arena.bytes(tiled_bytes<Simd>(rows, largest.columns));
    shared.router_RE = arena.floats(rows * e);
    shared.routing.used = arena.numbers(e);
    shared.routing.starts = arena.numbers(e + 1);
    shared.routing.x_at = arena.numbers(e);
    shared.routing.hidden_at = arena.numbers(e);
    shared.routing.rows = arena.numbers(pairs);
    shared.routing.weights = arena.floats(pairs);
    shared.routing.chosen = arena.numbers(pairs);
    shared.routing.chosen_weights = arena.floats(pairs);
    const std::size_t most_block_rows = block_rows<Simd>(pairs, plan.activations);
    const auto tiled_pairs = [&](std::size_t columns) {
        return arena.bytes(bytes_of_pairs(pairs, e, columns, most_block_rows));
    };
    shared.chosen_PD = arena.floats(pairs * largest.rows_in_d);
    shared.hidden_PF = arena.floats(pairs * largest.rows_in_f);
    shared.tiled_PD = tiled_pairs(largest.tiles_in_d);
    shared.tiled_PF = tiled_pairs(largest.tiles_in_f);
    const std::size_t few = rows < kFewRows ? rows : kFewRows;
    const std::size_t chunk = rows < kChunkRows ? rows : kChunkRows;
    // Outputs of all columns, or of those of a task.
    std::size_t outputs = few * (2 * largest.inner > d ? 2 * largest.inner : d);
    raise(outputs, chunk * 2 * kMostColumns);
    raise(outputs, kPanel * d);
    for (int t = 0; t < step.num_threads; ++t) {
        ThreadBuffers own;
        own.sums = arena.floats(outputs);
        own.gated = arena.floats(outputs / 2);
        own.block = arena.floats(most_block_rows * d);
        own.row_scales = arena.floats(largest.scales);
        own.choices = arena.floats(2 * e);
        if (threads) threads[t] = own;
    }
}

}  // namespace
}  // namespace bobot
