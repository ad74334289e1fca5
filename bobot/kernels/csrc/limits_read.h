// The loop that reads memory, for vectors of any width. Included by the code of each instruction
// set.
#pragma once

#include "limits.h"

namespace bobot {
namespace {

// Reads num_bytes in order, at kStreams places in turn, asking at each for what lies `ahead` bytes
// further on. Vector: of uint64_t.
template <class Vector, int kStreams>
std::uint64_t read_all(const std::uint8_t* from, std::size_t num_bytes, std::size_t ahead) {
    constexpr std::size_t kStep = 256, kLine = 64;
    constexpr int kVectors = kStep / sizeof(Vector), kSums = 4;
    const std::size_t per_stream = num_bytes / kStreams / kStep * kStep;
    Vector sums[kSums] = {};
    for (std::size_t place = 0; place < per_stream; place += kStep)
        for (int stream = 0; stream < kStreams; ++stream) {
            const std::uint8_t* at = from + stream * per_stream + place;
            if (ahead != 0)
                for (std::size_t i = 0; i < kStep; i += kLine) __builtin_prefetch(at + ahead + i);
            for (int i = 0; i < kVectors; ++i)
                sums[i % kSums] += reinterpret_cast<const Vector*>(at)[i];
        }
    const Vector sum = sums[0] + sums[1] + sums[2] + sums[3];
    std::uint64_t total = 0;
    for (std::size_t i = 0; i < sizeof sum / sizeof total; ++i) total += sum[i];
    return total;
}

template <class Vector>
constexpr ReadLoops kReadLoops = {read_all<Vector, 1>, read_all<Vector, 4>};

}  // namespace
}  // namespace bobot
