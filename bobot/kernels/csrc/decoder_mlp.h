// The gated networks of a decoder's layer: one for every row, or the experts that each row chose.
#pragma once

#include "decoder_linear.h"
#include "decoder_routing.h"

namespace bobot {
namespace {

// The product in the middle of a gated network, of `count` numbers that lie kStep apart.
template <std::size_t kStep>
void gated(const DecoderMlp& mlp, const float* gates, const float* ups, std::size_t count,
           float* __restrict out) {
    const float limit = mlp.limit, alpha = mlp.alpha, cubic = mlp.cubic, offset = mlp.up_offset;
    for (std::size_t i = 0; i < count; ++i) {
        float gate = gates[i * kStep], up = ups[i * kStep];
        gate = gate > limit ? limit : gate;
        up = up > limit ? limit : up < -limit ? -limit : up;
        const float power = -alpha * gate * (1.0f + cubic * gate * gate);
        out[i] = gate * (up + offset) / (1.0f + exponential(power));
    }
}

// What one expert computes: its inputs and its hidden values in the form that its weights take.
struct Expert {
    std::size_t index;
    Inputs x, hidden;
    Rows rows;
};

// The i-th of the experts that somebody chose; the one network of a layer without a choice.
template <class Simd>
Expert expert_of(const DecoderPlan& plan, const DecoderStep& step, const DecoderMlp& mlp,
                 const Inputs& normed, const SharedBuffers& shared, std::size_t i) {
    const Routing& routing = shared.routing;
    const std::size_t d = plan.hidden_size, f = mlp.intermediate_size;
    Expert expert{0, normed, {normed.num_rows, f, nullptr, {}}, {nullptr, nullptr}};
    std::size_t first = 0, x_at = 0, hidden_at = 0;
    if (mlp.num_experts > 1) {
        expert.index = routing.used[i];
        first = routing.starts[expert.index];
        expert.rows = {routing.rows + first, routing.weights + first};
        expert.hidden.num_rows = routing.starts[expert.index + 1] - first;
        x_at = routing.x_at[i];
        hidden_at = routing.hidden_at[i];
    }
    const Readers of_hidden(plan.activations, {&mlp.down.weight});
    if (of_hidden.has_tiles)
        expert.hidden.lay_out_tiles<Simd>(of_hidden, shared.tiled_PF + hidden_at);
    if (!of_hidden.has_tiles || is_changed(step, mlp.down))
        expert.hidden.rows = shared.hidden_PF + first * f;
    if (expert.hidden.num_rows == normed.num_rows) return expert;
    expert.x = {expert.hidden.num_rows, d, nullptr, {}};
    const Readers of_x(plan.activations, {&mlp.gate.weight, &mlp.up.weight});
    if (of_x.has_tiles) expert.x.lay_out_tiles<Simd>(of_x, shared.tiled_PD + x_at);
    if (mlp.reads_rows()) expert.x.rows = shared.chosen_PD + first * d;
    return expert;
}

// Sorts the pairs and finds a place for each expert's inputs: one thread's work.
template <class Simd>
void place_experts(const DecoderPlan& plan, const DecoderMlp& mlp, std::size_t num_rows,
                   Routing& routing) {
    sort_by_expert(mlp, num_rows, routing);
    const Readers of_x(plan.activations, {&mlp.gate.weight, &mlp.up.weight});
    const Readers of_hidden(plan.activations, {&mlp.down.weight});
    std::size_t x_at = 0, hidden_at = 0;
    for (std::size_t i = 0; i < routing.num_used; ++i) {
        const std::size_t e = routing.used[i];
        const std::size_t count = routing.starts[e + 1] - routing.starts[e];
        Inputs x{count, plan.hidden_size, nullptr, {}};
        Inputs hidden{count, mlp.intermediate_size, nullptr, {}};
        routing.x_at[i] = x_at;
        routing.hidden_at[i] = hidden_at;
        if (of_x.has_tiles && count < num_rows)
            x_at += x.lay_out_tiles<Simd>(of_x, nullptr);
        if (of_hidden.has_tiles) hidden_at += hidden.lay_out_tiles<Simd>(of_hidden, nullptr);
    }
}

// The rows that chose an expert, side by side; nothing where all did.
template <class Simd>
void gather(const Inputs& normed, const Expert& expert, const ThreadBuffers& own) {
    const std::size_t d = normed.num_columns, count = expert.x.num_rows;
    if (count == normed.num_rows) return;
    const auto row_of = [&](std::size_t i, float* to) {
        std::memcpy(to, normed.rows + expert.rows.numbers[i] * d, sizeof(float) * d);
    };
    if (expert.x.rows)
        for (std::size_t i = 0; i < count; ++i) row_of(i, expert.x.rows + i * d);
    const Activations& tiled = expert.x.tiled;
    for (std::size_t b = 0; b < tiled.num_blocks; ++b) {
        const Activations block = blocks_of(tiled, b, 1);
        for (std::size_t i = 0; i < block.num_rows; ++i)
            row_of(b * tiled.block_rows + i, own.block + i * d);
        fill_activations<Simd>(own.block, block, 0, 1);
    }
}

// Some columns of an expert's hidden values, for whole blocks of rows from `first_row` on.
template <class Simd>
void store_hidden(const Inputs& hidden, const Share& columns, std::size_t first_row,
                  std::size_t count, const float* from) {
    const std::size_t width = columns.size(), f = hidden.num_columns;
    if (hidden.rows) {
        float* to = hidden.rows + first_row * f + columns.first;
        for (std::size_t m = 0; m < count; ++m)
            std::memcpy(to + m * f, from + m * width, sizeof(float) * width);
    }
    if (hidden.tiled.num_blocks == 0) return;
    const std::size_t size = hidden.tiled.block_rows;
    for (std::size_t m = 0; m < count; m += size)
        fill_activations<Simd>(from + m * width,
                               blocks_of(hidden.tiled, (first_row + m) / size, 1,
                                         columns.first / kTile, width / kTile),
                               0, 1);
}

// Some columns of an expert's hidden values, for all of its rows.
template <class Simd>
void inner_of_expert(const DecoderStep& step, const DecoderMlp& mlp, const Expert& expert,
                     const Share& columns, const SharedBuffers& shared, const ThreadBuffers& own) {
    const std::size_t f = mlp.intermediate_size, each = mlp.is_interleaved ? 2 : 1;
    const std::size_t width = columns.size();
    const Share outputs{each * columns.first, each * columns.end};
    const auto part = [&](const DecoderLinear& linear, std::size_t first, std::size_t count,
                          float* sums) {
        product<Simd>(matrix_of(linear.weight, expert.index), expert.x, first, count, outputs,
                      sums, 2 * width, own.row_scales);
        add_bias(linear.bias ? linear.bias + each * expert.index * f : nullptr, count, outputs,
                 sums, 2 * width);
        add_changes<Simd>(step, linear, shared, first, count, outputs, sums, 2 * width);
    };
    for_chunks(expert.x.num_rows, [&](std::size_t first, std::size_t count) {
        part(mlp.gate, first, count, own.sums);
        if (!mlp.is_interleaved) part(mlp.up, first, count, own.sums + width);
        for (std::size_t m = 0; m < count; ++m) {
            const float* sums = own.sums + m * 2 * width;
            if (mlp.is_interleaved)
                gated<2>(mlp, sums, sums + 1, width, own.gated + m * width);
            else
                gated<1>(mlp, sums, sums + width, width, own.gated + m * width);
        }
        store_hidden<Simd>(expert.hidden, columns, first, count, own.gated);
    });
}

// The experts of all rows. The router's matrix passes a few rows at a time, or the other way round.
template <class Simd>
void route(const DecoderPlan& plan, const DecoderStep& step, const DecoderMlp& mlp,
           const Inputs& normed, const SharedBuffers& shared, Routing& routing,
           const ThreadBuffers& own, Team& team) {
    const std::size_t num_experts = mlp.num_experts, rows = step.num_rows;
    const std::size_t parts = num_column_tasks(step, num_experts, kPanel, kCachedWeights);
    const std::size_t runs = (rows + kRouterRows - 1) / kRouterRows;
    lower<Simd>(step, {&mlp.router.linear}, normed, shared, team);
    team.run(runs * parts, [&](std::size_t task) {
        const Share share = share_of(num_experts, kPanel, task % parts, parts);
        const std::size_t first = task / parts * kRouterRows;
        const std::size_t count = rows - first < kRouterRows ? rows - first : kRouterRows;
        float* logits = shared.router_RE + first * num_experts + share.first;
        product<Simd>(step, mlp.router.linear, normed, first, count, share, logits, num_experts,
                      shared, own);
    });
    team.run(runs, [&](std::size_t run) {
        for (std::size_t m = run * kRouterRows; m < (run + 1) * kRouterRows && m < rows; ++m)
            choose_experts(mlp, shared.router_RE + m * num_experts,
                           routing.chosen + m * mlp.num_active,
                           routing.chosen_weights + m * mlp.num_active, own.choices);
    });
    team.run(1, [&](std::size_t) { place_experts<Simd>(plan, mlp, rows, routing); });
}

// sum_RD += the network of the normed rows. A column of the outputs is one thread's, which adds the
// experts in order: sums do not depend on who comes first.
template <class Simd>
void mlp_of_rows(const DecoderPlan& plan, const DecoderStep& step, const DecoderMlp& mlp,
                 const Inputs& normed, float* sum_RD, SharedBuffers& shared,
                 const ThreadBuffers& own, Team& team) {
    const std::size_t f = mlp.intermediate_size, d = plan.hidden_size;
    const bool has_choice = mlp.num_experts > 1;
    if (has_choice) route<Simd>(plan, step, mlp, normed, shared, shared.routing, own, team);
    const std::size_t num_used = has_choice ? shared.routing.num_used : 1;
    const auto expert = [&](std::size_t i) {
        return expert_of<Simd>(plan, step, mlp, normed, shared, i);
    };
    if (has_choice)
        team.run(num_used, [&](std::size_t i) { gather<Simd>(normed, expert(i), own); });
    const std::size_t gate_bytes = bytes_of_output(mlp.gate.weight);
    const std::size_t inner_bytes =
        gate_bytes + (mlp.is_interleaved ? gate_bytes : bytes_of_output(mlp.up.weight));
    const std::size_t inner = num_column_tasks(step, f, kTile, inner_bytes);
    lower<Simd>(step, {&mlp.gate, &mlp.up}, normed, shared, team);
    team.run(num_used * inner, [&](std::size_t task) {
        inner_of_expert<Simd>(step, mlp, expert(task / inner),
                              share_of(f, kTile, task % inner, inner), shared, own);
    });
    const std::size_t outer =
        num_column_tasks(step, d, kPanel, bytes_of_output(mlp.down.weight));
    lower<Simd>(step, {&mlp.down}, expert(0).hidden, shared, team);
    team.run(outer, [&](std::size_t task) {
        for (std::size_t i = 0; i < num_used; ++i) {
            const Expert one = expert(i);
            add_linear<Simd>(plan, step, mlp.down, one.index, one.hidden, one.rows,
                             share_of(d, kPanel, task, outer), sum_RD, shared, own);
        }
    });
}

}  // namespace
}  // namespace bobot
