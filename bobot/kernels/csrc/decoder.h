// One step of a Llama's whole layer stack for a few tokens: plain data, filled and checked in
// bind.cpp, computed in decoder_loops.h. What it computes is bobot/models/llama.py.
#pragma once

#include <vector>

#include "packed_rows.h"

namespace bobot {

struct DecoderLayer {
    const float *attention_norm, *mlp_norm;
    PackedRows q, k, v, o, gate, up, down;
    float *keys, *values;  // the cache: (slots, num_kv_heads, head_dim)
};

struct DecoderPlan {
    std::size_t hidden_size, num_heads, num_kv_heads, head_dim, intermediate_size;
    std::size_t window;  // a query sees that many keys at most, itself included; 0: all
    float eps, scale;
    const float* norm;
    std::vector<DecoderLayer> layers;
    int num_threads;
};

// Row m is the token at position lengths[m] - 1 of a sequence whose keys lie in the slots
// key_slots[first_keys[m]], ..; its own, the last of them, is written by the step.
struct DecoderStep {
    std::size_t num_rows;
    float* x;                // (rows, hidden): embeddings in, final hidden states out
    const float *cos, *sin;  // (rows, head_dim / 2)
    const std::int64_t *key_slots, *first_keys, *lengths;
};

}  // namespace bobot
