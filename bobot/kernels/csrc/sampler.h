// One token drawn from a row of logits, by the rules of bobot/ops/sampling.py.
#pragma once

#include <cstddef>
#include <cstdint>

#include "packed.h"

namespace bobot {

struct SamplingRules {
    float temperature;  // above 0
    std::size_t top_k;  // 0: all
    double top_p, min_p;
    std::uint64_t key;
};

constexpr std::int64_t kNotFinite = -1;

// The id, or kNotFinite if a logit is infinite or not a number, or all are -infinity.
std::int64_t sample(const Kernels& kernels, const float* logits, std::size_t count,
                    const SamplingRules& rules);

// The first id with the largest logit, or kNotFinite if not all are finite.
std::int64_t best(const Kernels& kernels, const float* logits, std::size_t count);

}  // namespace bobot
