// One step of a model's whole decoder, from ids to logits: plain data, filled and
// checked in bind_decoder.cpp, computed in decoder_loops.h. What it computes is bobot/models:
// llama.py, mixtral.py, gpt_oss.py, grok1.py and deepseek_v3.py.
#pragma once

#include "attention.h"
#include "product.h"

namespace bobot {

struct DecoderLinear {
    Weight weight;
    const float* bias;  // or null
    // Where an adapter keeps its change of the layer; 0: it has none. And which one the layer is of
    // those that read the same inputs, kMostSlots at most.
    std::size_t place = 0, slot = 0;
};

constexpr std::size_t kMostSlots = 3;

// What an adapter adds to a linear layer: B (A x); nothing without a rank.
struct LowRank {
    std::size_t rank, num_outputs;
    const float *a, *b;  // (rank, inputs) and (rank, outputs)
};

// Rows [first, end) of a step, and what their adapter changes, by place.
struct AdaptedRows {
    std::size_t first, end;
    const LowRank* changes;
};

// What a router's logits become: the weights of the chosen experts are their softmax among
// themselves, their part of the softmax over all, their sigmoids, or those divided by their sum.
enum class RouterScores : std::uint8_t {
    softmax_of_chosen, softmax_of_all, sigmoid, normalized_sigmoid,
};

struct DecoderRouter {
    DecoderLinear linear;
    RouterScores scores;
    const float* choice_bias;  // on the scores that choose, not on the weights; or null
    // Experts stand in equal groups, and those outside the best are not chosen. A group is as good
    // as its best two. As many best groups as groups: no such choice.
    std::size_t num_groups, num_best_groups;
    float factor;  // of all weights
};

// A gated network, or a stack of them of which a router picks some for each token:
//     down(gate * sigmoid(alpha * (gate + cubic * gate^3)) * (up + up_offset)),
// gate and up clamped at `limit`.
struct DecoderMlp {
    std::size_t num_experts, num_active, intermediate_size;  // 1 and 1: no router
    DecoderRouter router;
    // One matrix for each expert. Interleaved: rows 2i of `gate` are the gate's, rows 2i + 1 those
    // of up, and `up` is not used.
    DecoderLinear gate, up, down;
    bool is_interleaved;
    float alpha, cubic, limit, up_offset;

    // The forms in which the inner matrices take their inputs.
    bool reads_tiles() const { return gate.weight.tiles.data || up.weight.tiles.data; }
    bool reads_rows() const { return gate.weight.rows.values || up.weight.rows.values; }
};

// Attention whose keys and values are linear in one latent vector of each token, the only thing that
// is cached, with one rotary key behind it. Queries are linear in a latent of their own, or, if
// q_rank is 0, in the hidden state.
struct DecoderLatent {
    std::size_t q_rank, plain_size, value_size;  // the latter two of each head
    DecoderLinear q_a, q, kv_a;
    const float *q_norm, *kv_norm;
    float eps;           // of both
    Weight key, value;   // of each head: (latent, plain_size) and (value_size, latent)
};

struct DecoderLayer {
    const float *attention_norm, *mlp_norm;
    const float *attention_norm_after, *mlp_norm_after;  // of a branch before it is added, or null
    bool is_latent;
    DecoderLinear q, k, v;  // of layers without a latent
    DecoderLatent latent;
    DecoderLinear o;
    const float* sinks;    // one for each head, or null
    std::size_t attention;  // which of a step's plans: layers with the same window share one
    float scale, softcap;  // softcap 0: none
    void *keys, *values;   // the cache: (slots, num_kv_heads, head_dim)
    DecoderMlp mlp;
    DecoderMlp shared;  // a network for every row beside the experts; num_experts 0: none
};

struct DecoderPlan {
    std::size_t hidden_size, num_heads, num_kv_heads, head_dim, vocab_size, block_size;
    std::size_t rotary_dim;  // head_dim, or the part of it behind a latent
    float eps, rope_factor, embedding_factor;
    const float *norm, *frequencies;  // one angle per position for each pair that rotates
    Weight embedding, lm_head;
    Number cache_number;
    const DecoderLayer* layers;
    std::size_t num_layers;
    ActivationType activations;  // what tiles are multiplied with
    std::uint8_t* hidden;        // (slots): whether a key is one of hidden_id, or null
    std::int64_t hidden_id;      // the token that nobody attends to
};

// Row m is the token ids[m] at positions[m] of a sequence whose position p lies in slot
// tables[m][p / block_size] * block_size + p % block_size. Its own key is written by the step.
struct DecoderStep {
    std::size_t num_rows;
    const std::int64_t *ids, *positions;
    const std::int64_t* const* tables;
    const AttentionPlan* const* attentions;
    std::size_t num_logits;
    const std::int64_t* logit_rows;
    float* logits;  // (num_logits, vocab_size)
    int num_threads;
    std::size_t num_adapted;  // runs of rows; all others have no adapter
    const AdaptedRows* adapted;
    std::size_t max_rank;  // of all their changes
};

namespace {

inline std::size_t slot_of(const DecoderPlan& plan, const std::int64_t* table,
                           std::size_t position) {
    return static_cast<std::size_t>(table[position / plan.block_size]) * plan.block_size +
           position % plan.block_size;
}

}  // namespace
}  // namespace bobot
