// The memory that one step of a decoder works in: one allocation, cut into the pieces that all
// threads see and those that each has of its own.
//
// R rows, D hidden, F intermediate, E experts, A active experts of a row, P pairs of a row and one
// of its experts; the largest of all layers where they differ.
#pragma once

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

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
    float *cos, *sin;      // (R, rotary_dim / 2)
    float* normed_RD;
    float* qkv;            // (R, (num_heads + 2 * num_kv_heads) * head_dim)
    float* mixed;          // (R, num_heads * head_dim)
    // Of layers with latents: (R, q_rank), (R, head_dim) and (R, num_heads * value_size).
    float *q_latent, *kv_latent, *values;
    float* lowered;        // A x of adapters: (kMostSlots, R, max_rank)
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
    // Inputs of one head: (rows of a chunk, columns of its matrix), and as tiles want them.
    float* head_rows;
    std::uint8_t* head_tiles;
};

// Hands out pieces that begin on a cache line; without memory behind it, it counts.
struct Arena {
    float* memory;
    std::size_t used = 0;

    float* floats(std::size_t count) {
        float* piece = memory ? memory + used : nullptr;
        used += (count + 15) / 16 * 16;
#if defined(__SANITIZE_ADDRESS__)  // a line behind each piece that nobody may touch
        used += 16;
        if (memory) ASAN_POISON_MEMORY_REGION(piece + count, 4 * (memory + used - piece - count));
#endif
        return piece;
    }
    std::uint8_t* bytes(std::size_t count) {
        return reinterpret_cast<std::uint8_t*>(floats((count + 3) / 4));
    }
    std::size_t* numbers(std::size_t count) {
        return reinterpret_cast<std::size_t*>(floats(2 * count));
    }
};

// Heads that threads share start at a multiple of so many, that their outputs do so as they should.
inline std::size_t heads_per_share(std::size_t head_dim) {
    std::size_t heads = 1;
    while (heads * head_dim % kPanel) heads *= 2;
    return heads;
}

inline void raise(std::size_t& largest, std::size_t value) {
    if (value > largest) largest = value;
}

struct Largest {
    bool has_branch = false;
    std::size_t columns = 0, inner = 0, active = 0, experts = 0, scales = 0;
    // Columns of the pairs' inputs to the inner layer, in either form.
    std::size_t rows_in_d = 0, tiles_in_d = 0;
    // Of layers with latents: what they have for each row, the inputs of a matrix of one head, and
    // the outputs of the heads that are computed together.
    std::size_t q_rank = 0, latent = 0, values = 0, head_columns = 0, head_outputs = 0;
};

// Raised by what the network of a layer needs.
inline void raise_by_mlp(Largest& largest, const DecoderPlan& plan, const DecoderMlp& mlp) {
    const DecoderLinear* linears[] = {&mlp.gate, &mlp.up, &mlp.down, &mlp.router.linear};
    for (const DecoderLinear* linear : linears)
        raise(largest.scales, linear->weight.rows.scales.per_row);
    raise(largest.inner, mlp.intermediate_size);
    raise(largest.active, mlp.num_active);
    raise(largest.experts, mlp.num_experts);
    const bool has_choice = mlp.num_experts > 1;
    if (has_choice && mlp.reads_tiles()) largest.tiles_in_d = plan.hidden_size;
    if (has_choice && mlp.reads_rows()) largest.rows_in_d = plan.hidden_size;
}

inline void raise_by_latent(Largest& largest, const DecoderPlan& plan, const DecoderLatent& latent) {
    const Weight* weights[] = {&latent.q_a.weight, &latent.q.weight, &latent.kv_a.weight,
                               &latent.key, &latent.value};
    for (const Weight* weight : weights) raise(largest.scales, weight->rows.scales.per_row);
    const std::size_t size = latent.plain_size + plan.rotary_dim;
    raise(largest.q_rank, latent.q_rank);
    raise(largest.columns, latent.q_rank);
    raise(largest.columns, plan.num_heads * latent.value_size);
    raise(largest.latent, plan.head_dim);
    raise(largest.values, plan.num_heads * latent.value_size);
    raise(largest.head_columns, plan.head_dim);
    raise(largest.head_columns, latent.plain_size);
    raise(largest.head_outputs, heads_per_share(size) * size);
}

inline Largest largest_of_all(const DecoderPlan& plan) {
    Largest largest;
    raise(largest.scales, plan.embedding.rows.scales.per_row);
    raise(largest.scales, plan.lm_head.rows.scales.per_row);
    raise(largest.columns, plan.hidden_size);
    raise(largest.columns, plan.num_heads * plan.head_dim);
    for (std::size_t i = 0; i < plan.num_layers; ++i) {
        const DecoderLayer& layer = plan.layers[i];
        for (const DecoderLinear* linear : {&layer.q, &layer.k, &layer.v, &layer.o})
            raise(largest.scales, linear->weight.rows.scales.per_row);
        largest.has_branch |= layer.attention_norm_after || layer.mlp_norm_after;
        raise_by_mlp(largest, plan, layer.mlp);
        raise_by_mlp(largest, plan, layer.shared);
        if (layer.is_latent) raise_by_latent(largest, plan, layer.latent);
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

// What the hidden values of all pairs take, as rows of floats and as tiles: that of the layer with
// the most. A layer whose every row passes one wide network may be beside one of many narrow ones.
// Adapters read floats, whatever the weights do.
struct HiddenSizes {
    std::size_t floats = 0, tile_bytes = 0;
};

inline HiddenSizes hidden_sizes(const DecoderPlan& plan, const DecoderStep& step,
                                std::size_t most_block_rows) {
    HiddenSizes sizes;
    for (std::size_t i = 0; i < plan.num_layers; ++i)
        for (const DecoderMlp* mlp : {&plan.layers[i].mlp, &plan.layers[i].shared}) {
            const std::size_t pairs = step.num_rows * mlp->num_active;
            const std::size_t f = mlp->intermediate_size;
            const bool has_tiles = mlp->down.weight.tiles.data != nullptr;
            if (has_tiles)
                raise(sizes.tile_bytes,
                      bytes_of_pairs(pairs, mlp->num_experts, f, most_block_rows));
            if (!has_tiles || (mlp->down.place > 0 && step.num_adapted > 0))
                raise(sizes.floats, pairs * f);
        }
    return sizes;
}

// Cuts the arena into the pieces of one step; `threads` has one entry for each thread, or is null.
template <class Simd>
void cut(const DecoderPlan& plan, const DecoderStep& step, Arena& arena, SharedBuffers& shared,
         ThreadBuffers* threads) {
    const Largest largest = largest_of_all(plan);
    const std::size_t rows = step.num_rows, d = plan.hidden_size, h = plan.head_dim;
    const std::size_t pairs_of_angles = plan.rotary_dim / 2;
    const std::size_t pairs = rows * largest.active, e = largest.experts;
    shared.counters = reinterpret_cast<TaskCounters*>(arena.bytes(sizeof(TaskCounters)));
    shared.x_RD = arena.floats(rows * d);
    shared.branch_RD = largest.has_branch ? arena.floats(rows * d) : nullptr;
    shared.cos = arena.floats(rows * pairs_of_angles);
    shared.sin = arena.floats(rows * pairs_of_angles);
    shared.normed_RD = arena.floats(rows * d);
    shared.qkv = arena.floats(rows * h * (plan.num_heads + 2 * plan.num_kv_heads));
    shared.mixed = arena.floats(rows * h * plan.num_heads);
    shared.q_latent = arena.floats(rows * largest.q_rank);
    shared.kv_latent = arena.floats(rows * largest.latent);
    shared.values = arena.floats(rows * largest.values);
    shared.lowered = arena.floats(kMostSlots * rows * step.max_rank);
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
    shared.chosen_PD = arena.floats(pairs * largest.rows_in_d);
    shared.tiled_PD =
        arena.bytes(bytes_of_pairs(pairs, e, largest.tiles_in_d, most_block_rows));
    const HiddenSizes hidden = hidden_sizes(plan, step, most_block_rows);
    shared.hidden_PF = arena.floats(hidden.floats);
    shared.tiled_PF = arena.bytes(hidden.tile_bytes);
    const std::size_t few = rows < kFewRows ? rows : kFewRows;
    const std::size_t chunk = rows < kChunkRows ? rows : kChunkRows;
    // Outputs of all columns, or of those of a task.
    std::size_t outputs = few * (2 * largest.inner > d ? 2 * largest.inner : d);
    raise(outputs, chunk * 2 * kMostColumns);
    raise(outputs, kPanel * d);
    raise(outputs, chunk * largest.head_outputs);
    for (int t = 0; t < step.num_threads; ++t) {
        ThreadBuffers own;
        own.sums = arena.floats(outputs);
        own.gated = arena.floats(outputs / 2);
        own.block = arena.floats(most_block_rows * d);
        own.row_scales = arena.floats(largest.scales);
        own.choices = arena.floats(2 * e);
        own.head_rows = arena.floats(chunk * largest.head_columns);
        own.head_tiles = arena.bytes(tiled_bytes<Simd>(chunk, largest.head_columns));
        if (threads) threads[t] = own;
    }
}

}  // namespace
}  // namespace bobot
