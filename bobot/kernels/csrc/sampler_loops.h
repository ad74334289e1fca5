// Passes over one row of logits, which may be 200000 long: plain loops that compilers vectorize.
#pragma once

#include "float_loops.h"
#include "packed.h"

namespace bobot {
namespace {

inline LogitsScan scan_logits(const float* logits, std::size_t count) {
    constexpr float kInfinity = __builtin_inff();
    float largest = -kInfinity;
    std::uint32_t invalid = 0, ruled_out = 0;
    for (std::size_t i = 0; i < count; ++i) {
        const float x = logits[i];
        largest = x > largest ? x : largest;
        invalid |= x < kInfinity ? 0u : 1u;
        ruled_out |= x > -kInfinity ? 0u : 1u;
    }
    return {largest, invalid == 0, (invalid | ruled_out) == 0};
}

inline double weigh_logits(const float* logits, std::size_t count, float largest,
                           float temperature, float* __restrict weights) {
    constexpr std::size_t kRun = 256;
    double total = 0;
    for (std::size_t start = 0; start < count; start += kRun) {
        const std::size_t size = count - start < kRun ? count - start : kRun;
        float sums[16] = {};
        for (std::size_t i = 0; i < size; ++i) {
            const float z = (logits[start + i] - largest) / temperature;
            weights[start + i] = exponential(z > -87.0f ? z : -87.0f);
        }
        for (std::size_t i = 0; i + 16 <= size; i += 16)
            for (std::size_t j = 0; j < 16; ++j) sums[j] += weights[start + i + j];
        for (std::size_t i = size / 16 * 16; i < size; ++i) total += weights[start + i];
        for (const float sum : sums) total += sum;
    }
    return total;
}

}  // namespace
}  // namespace bobot
