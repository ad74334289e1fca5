// What adapters (LoRA, arXiv:2106.09685) add to the linear layers of a step: B (A x), for their own
// rows. All in floats and each row by itself, so that a row is the same alone and beside others.
#pragma once

#include <initializer_list>

#include "decoder_buffers.h"
#include "float_loops.h"

namespace bobot {
namespace {

// Rows whose inputs stay in the second-level cache while the rows of A pass.
constexpr std::size_t kLoweredRows = 16;

inline bool is_changed(const DecoderStep& step, const DecoderLinear& linear) {
    for (std::size_t i = 0; i < step.num_adapted; ++i)
        if (step.adapted[i].changes[linear.place].rank > 0) return true;
    return false;
}

inline float* lowered_row(const DecoderStep& step, const DecoderLinear& linear,
                          const SharedBuffers& shared, std::size_t row) {
    return shared.lowered + (linear.slot * step.num_rows + row) * step.max_rank;
}

// Calls each(change, row) for the rows in [first, end) whose adapter changes the layer.
template <class Each>
void for_changed_rows(const DecoderStep& step, const DecoderLinear& linear, std::size_t first,
                      std::size_t end, const Each& each) {
    for (std::size_t i = 0; i < step.num_adapted; ++i) {
        const AdaptedRows& own = step.adapted[i];
        const LowRank& change = own.changes[linear.place];
        if (change.rank == 0) continue;
        for (std::size_t m = own.first < first ? first : own.first; m < own.end && m < end; ++m)
            each(change, m);
    }
}

// A x of the rows whose adapters change these layers, which read the same inputs.
template <class Simd>
void lower(const DecoderStep& step, std::initializer_list<const DecoderLinear*> linears,
           const Inputs& x, const SharedBuffers& shared, Team& team) {
    bool changes = false;
    for (const DecoderLinear* linear : linears) changes |= is_changed(step, *linear);
    if (!changes) return;
    const std::size_t d = x.num_columns, blocks = (step.num_rows + kLoweredRows - 1) / kLoweredRows;
    const auto parts = static_cast<std::size_t>(step.num_threads);
    team.run(blocks * parts, [&](std::size_t task) {
        const std::size_t first = task / parts * kLoweredRows;
        for (const DecoderLinear* linear : linears)
            for_changed_rows(
                step, *linear, first, first + kLoweredRows,
                [&](const LowRank& change, std::size_t m) {
                    float* lowered = lowered_row(step, *linear, shared, m);
                    const Share ranks = share_of(change.rank, 1, task % parts, parts);
                    for (std::size_t r = ranks.first; r < ranks.end; ++r)
                        lowered[r] = dot_floats<Simd>(change.a + r * d, x.rows + m * d, d);
                });
    });
}

// out += B (A x), for `count` rows from `first` on and a share of the outputs, as `product` has
// written them.
inline void add_changes(const DecoderStep& step, const DecoderLinear& linear,
                        const SharedBuffers& shared, std::size_t first, std::size_t count,
                        const Share& share, float* out, std::size_t out_stride) {
    for_changed_rows(step, linear, first, first + count,
                     [&](const LowRank& change, std::size_t m) {
                         const float* lowered = lowered_row(step, linear, shared, m);
                         float* __restrict to = out + (m - first) * out_stride;
                         for (std::size_t r = 0; r < change.rank; ++r) {
                             const float* b = change.b + r * change.num_outputs + share.first;
                             for (std::size_t n = 0; n < share.size(); ++n) to[n] += lowered[r] * b[n];
                         }
                     });
}

}  // namespace
}  // namespace bobot
