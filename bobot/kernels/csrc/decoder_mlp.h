// The gated networks of a decoder's layer: one for every row, or the experts that each row chose.
#pragma once

#include "decoder_buffers.h"
#include "float_loops.h"

namespace bobot {
namespace {

// out[m] += bias, for the outputs of a share.
inline void add_bias(const float* bias, std::size_t rows, const Share& share, std::size_t stride,
                     float* out) {
    if (!bias) return;
    for (std::size_t m = 0; m < rows; ++m)
        for (std::size_t n = share.first; n < share.end; ++n) out[m * stride + n] += bias[n];
}

// The experts of each row: the highest logits, the first of equal ones, weighted by the softmax
// over those alone. Pair p, for starts[e] <= p < starts[e + 1], is a row that chose expert e;
// its number is in rows[p], its weight in weights[p]. Without a router every row passes the one
// network.
inline void route(const DecoderMlp& mlp, std::size_t num_rows, const float* logits_RE,
                  ThreadBuffers& own) {
    const std::size_t num_experts = mlp.num_experts, num_active = mlp.num_active;
    for (std::size_t e = 0; e <= num_experts; ++e) own.starts[e] = 0;
    for (std::size_t m = 0; m < num_rows; ++m) {
        std::size_t* chosen = own.experts + m * num_active;
        float* weights = own.expert_weights + m * num_active;
        const float* logits = logits_RE + m * num_experts;
        for (std::size_t a = 0; a < num_active; ++a) {
            std::size_t best = num_experts;
            for (std::size_t e = 0; e < num_experts; ++e) {
                bool is_taken = false;
                for (std::size_t b = 0; b < a; ++b) is_taken |= chosen[b] == e;
                if (!is_taken && (best == num_experts || logits[e] > logits[best])) best = e;
            }
            chosen[a] = best;
            weights[a] = num_experts == 1 ? 1.0f : logits[best];
            ++own.starts[best + 1];
        }
        if (num_experts == 1) continue;
        const float total = exponentials(weights, num_active, weights[0]);
        for (std::size_t a = 0; a < num_active; ++a) weights[a] /= total;
    }
    for (std::size_t e = 0; e < num_experts; ++e) own.starts[e + 1] += own.starts[e];
    for (std::size_t i = num_rows * num_active; i-- > 0;) {
        // From the last to the first: starts[e + 1] moves down to where expert e begins.
        const std::size_t p = --own.starts[own.experts[i] + 1];
        own.rows[p] = i / num_active;
        own.weights[p] = own.expert_weights[i];
    }
    for (std::size_t e = 0; e < num_experts; ++e) own.starts[e] = own.starts[e + 1];
    own.starts[num_experts] = num_rows * num_active;
}

// out = gate * sigmoid(alpha * gate) * (up + up_offset), of `count` numbers that lie kStep apart.
template <std::size_t kStep>
void gated(const DecoderMlp& mlp, const float* gates, const float* ups, std::size_t count,
           float* __restrict out) {
    const float limit = mlp.limit, alpha = mlp.alpha, offset = mlp.up_offset;
    for (std::size_t i = 0; i < count; ++i) {
        float gate = gates[i * kStep], up = ups[i * kStep];
        gate = gate > limit ? limit : gate;
        up = up > limit ? limit : up < -limit ? -limit : up;
        out[i] = gate * (up + offset) / (1.0f + exponential(-alpha * gate));
    }
}

// One expert's inner layer for its rows: one thread's share of the outputs.
template <class Simd>
void inner_of_expert(const DecoderMlp& mlp, std::size_t expert, Inputs& x, const Share& share,
                     float* hidden_RF, ThreadBuffers& own) {
    const std::size_t f = mlp.intermediate_size, each = mlp.is_interleaved ? 2 : 1;
    const Share outputs{each * share.first, each * share.end};
    const auto part = [&](const DecoderLinear& linear, float* sums) {
        product<Simd>(matrix_of(linear.weight, expert), x, outputs, sums, 2 * f, own.row_scales);
        add_bias(linear.bias ? linear.bias + each * expert * f : nullptr, x.num_rows, outputs,
                 2 * f, sums);
    };
    part(mlp.gate, own.sums);
    if (!mlp.is_interleaved) part(mlp.up, own.sums + f);
    for (std::size_t m = 0; m < x.num_rows; ++m) {
        const float* sums = own.sums + m * 2 * f + outputs.first;
        float* out = hidden_RF + m * f + share.first;
        if (mlp.is_interleaved)
            gated<2>(mlp, sums, sums + 1, share.size(), out);
        else
            gated<1>(mlp, sums, sums + f, share.size(), out);
    }
}

// The rows of x that chose an expert: x itself where all did.
inline Inputs rows_of_expert(const Inputs& x, const std::size_t* rows, std::size_t count,
                             float* chosen) {
    for (std::size_t i = 0; i < count; ++i)
        std::memcpy(chosen + i * x.num_columns, x.rows + rows[i] * x.num_columns,
                    sizeof(float) * x.num_columns);
    return {chosen, count, x.num_columns, x.memory, x.type};
}

// x_RD += the layer's network of the normed rows. All threads call it; it ends without a barrier.
template <class Simd>
void mlp_of_rows(const DecoderPlan& plan, const DecoderMlp& mlp, Inputs& normed,
                 SharedBuffers& shared, ThreadBuffers& own, int thread, int num_threads) {
    const std::size_t d = plan.hidden_size, f = mlp.intermediate_size;
    if (mlp.num_experts > 1) {
        const Share share = share_of(mlp.num_experts, kPanel, thread, num_threads);
        product<Simd>(mlp.router.weight, normed, share, shared.router_RE, mlp.num_experts,
                      own.row_scales);
        add_bias(mlp.router.bias, normed.num_rows, share, mlp.num_experts, shared.router_RE);
#pragma omp barrier
    }
    route(mlp, normed.num_rows, shared.router_RE, own);
    const Share inner = share_of(f, kPanel, thread, num_threads);
    for (std::size_t e = 0; e < mlp.num_experts; ++e) {
        const std::size_t first = own.starts[e], count = own.starts[e + 1] - first;
        float* hidden_RF = shared.hidden + first * f;
        if (count == normed.num_rows) {
            inner_of_expert<Simd>(mlp, e, normed, inner, hidden_RF, own);
        } else if (count > 0) {
            Inputs x = rows_of_expert(normed, own.rows + first, count, own.chosen_RD);
            inner_of_expert<Simd>(mlp, e, x, inner, hidden_RF, own);
            normed.is_ready = false;  // they share the memory of the other form
        }
    }
#pragma omp barrier
    const Share outer = share_of(d, kPanel, thread, num_threads);
    for (std::size_t e = 0; e < mlp.num_experts; ++e) {
        const std::size_t first = own.starts[e], count = own.starts[e + 1] - first;
        Inputs hidden{shared.hidden + first * f, count, f, own.tiled, plan.activations};
        product<Simd>(matrix_of(mlp.down.weight, e), hidden, outer, own.sums, d, own.row_scales);
        add_bias(mlp.down.bias ? mlp.down.bias + e * d : nullptr, count, outer, d, own.sums);
        for (std::size_t i = 0; i < count; ++i) {
            float* x = shared.x_RD + own.rows[first + i] * d;
            const float weight = own.weights[first + i], *sums = own.sums + i * d;
            for (std::size_t n = outer.first; n < outer.end; ++n) x[n] += weight * sums[n];
        }
    }
}

}  // namespace
}  // namespace bobot
