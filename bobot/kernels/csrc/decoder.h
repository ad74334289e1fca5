// One step of a model's whole decoder, from ids to logits: plain data, filled and
// checked in bind_decoder.cpp, computed in decoder_loops.h. What it computes is bobot/models:
// llama.py, mixtral.py and gpt_oss.py.
#pragma once

#include "attention.h"
#include "product.h"

namespace bobot {

struct DecoderLinear {
    Weight weight;
    const float* bias;  // or null
};

// A gated network, or a stack of them of which a router picks some for each token:
//     down(gate * sigmoid(alpha * gate) * (up + up_offset)), gate and up clamped at `limit`.
struct DecoderMlp {
    std::size_t num_experts, num_active, intermediate_size;  // 1 and 1: no router
    DecoderLinear router;
    // One matrix for each expert. Interleaved: rows 2i of `gate` are the gate's, rows 2i + 1 those
    // of up, and `up` is not used.
    DecoderLinear gate, up, down;
    bool is_interleaved;
    float alpha, limit, up_offset;

    // The forms in which the inner matrices take their inputs.
    bool reads_tiles() const { return gate.weight.tiles.data || up.weight.tiles.data; }
    bool reads_rows() const { return gate.weight.rows.values || up.weight.rows.values; }
};

struct DecoderLayer {
    const float *attention_norm, *mlp_norm;
    DecoderLinear q, k, v, o;
    const float* sinks;    // one for each head, or null
    std::size_t attention;  // which of a step's plans: layers with the same window share one
    float scale, softcap;  // softcap 0: none
    void *keys, *values;   // the cache: (slots, num_kv_heads, head_dim)
    DecoderMlp mlp;
};

struct DecoderPlan {
    std::size_t hidden_size, num_heads, num_kv_heads, head_dim, vocab_size, block_size;
    float eps, rope_factor;
    const float *norm, *frequencies;  // one angle per position for each pair of a head
    Weight embedding, lm_head;
    Number cache_number;
    const DecoderLayer* layers;
    std::size_t num_layers;
    ActivationType activations;  // what tiles are multiplied with
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
};

namespace {

inline std::size_t slot_of(const DecoderPlan& plan, const std::int64_t* table,
                           std::size_t position) {
    return static_cast<std::size_t>(table[position / plan.block_size]) * plan.block_size +
           position % plan.block_size;
}

}  // namespace
}  // namespace bobot
