// Q8_0, the 8-bit weight format of GGUF: a row is cut into blocks of 32 weights, each block holds one
// float16 scale d and 32 signed bytes q, and weight i is d * q[i]. 34 bytes for 32 weights.
//
// Not here: how a kernel is chosen (cpu_features.h), threads and shapes (bind.cpp).
#pragma once

#include <cstddef>
#include <cstdint>

namespace bobot {

constexpr std::size_t kQ8BlockWeights = 32;

struct Q8Block {
    std::uint16_t scale;  // float16 bits
    std::int8_t values[kQ8BlockWeights];
};
static_assert(sizeof(Q8Block) == 34, "Q8_0 blocks are packed");

// The kernels of one instruction set. All of them accumulate in float32.
struct Q8Kernels {
    // out[32 * i + j] = scale_i * values_i[j]
    void (*dequantize)(const Q8Block* blocks, std::size_t num_blocks, float* out);

    // out[m, n] = sum over k of x[m, k] * weight[n, k], for m in [0, num_rows) and n in
    // [first_column, end_column). x has 32 * num_blocks columns, out has num_columns.
    void (*linear)(const float* x, std::size_t num_rows, const Q8Block* weight,
                   std::size_t num_blocks, std::size_t first_column, std::size_t end_column,
                   std::size_t num_columns, float* out);
};

extern const Q8Kernels kQ8Portable;
#if defined(__x86_64__)
extern const Q8Kernels kQ8Avx2;
extern const Q8Kernels kQ8Avx512;
#endif

}  // namespace bobot
