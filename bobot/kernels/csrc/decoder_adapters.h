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

// out[k] = x * row k of kCount, each summed in the same order whatever kCount is.
template <class Simd, std::size_t kCount>
void dots(const float* x, const float* rows, std::size_t size, float* out) {
    typename Simd::Vector sums[kCount];
    for (auto& each : sums) each = Simd::zero();
    std::size_t i = 0;
    for (; i + Simd::width <= size; i += Simd::width) {
        const auto part = Simd::load(x + i);
        for (std::size_t k = 0; k < kCount; ++k)
            sums[k] = Simd::fma(Simd::load(rows + k * size + i), part, sums[k]);
    }
    for (std::size_t k = 0; k < kCount; ++k) {
        out[k] = Simd::sum(sums[k]);
        for (std::size_t j = i; j < size; ++j) out[k] += rows[k * size + j] * x[j];
    }
}

// out[n] += the sum over r of weights[r] * rows[r * stride + n], for as many n as kVectors hold.
template <class Simd, std::size_t kVectors>
void add_weighted(const float* weights, std::size_t count, const float* rows, std::size_t stride,
                  float* out) {
    typename Simd::Vector sums[kVectors];
    for (std::size_t v = 0; v < kVectors; ++v) sums[v] = Simd::load(out + v * Simd::width);
    for (std::size_t r = 0; r < count; ++r) {
        const auto weight = Simd::splat(weights[r]);
        for (std::size_t v = 0; v < kVectors; ++v)
            sums[v] = Simd::fma(weight, Simd::load(rows + r * stride + v * Simd::width), sums[v]);
    }
    for (std::size_t v = 0; v < kVectors; ++v) Simd::store(out + v * Simd::width, sums[v]);
}

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
                    std::size_t r = ranks.first;
                    for (; r + 4 <= ranks.end; r += 4)
                        dots<Simd, 4>(x.rows + m * d, change.a + r * d, d, lowered + r);
                    for (; r < ranks.end; ++r)
                        dots<Simd, 1>(x.rows + m * d, change.a + r * d, d, lowered + r);
                });
    });
}

// out += B (A x), for `count` rows from `first` on and a share of the outputs, as `product` has
// written them.
template <class Simd>
void add_changes(const DecoderStep& step, const DecoderLinear& linear, const SharedBuffers& shared,
                 std::size_t first, std::size_t count, const Share& share, float* out,
                 std::size_t out_stride) {
    const auto add = [&](const LowRank& change, std::size_t m) {
        const std::size_t rank = change.rank, stride = change.num_outputs, size = share.size();
        const float *lowered = lowered_row(step, linear, shared, m), *b = change.b + share.first;
        float* to = out + (m - first) * out_stride;
        std::size_t n = 0;
        for (; n + 8 * Simd::width <= size; n += 8 * Simd::width)
            add_weighted<Simd, 8>(lowered, rank, b + n, stride, to + n);
        for (; n + Simd::width <= size; n += Simd::width)
            add_weighted<Simd, 1>(lowered, rank, b + n, stride, to + n);
        for (; n < size; ++n)
            for (std::size_t r = 0; r < rank; ++r) to[n] += lowered[r] * b[r * stride + n];
    };
    for_changed_rows(step, linear, first, first + count, add);
}

}  // namespace
}  // namespace bobot
