// Weights packed into few bits, row by row. Each format is one entry in a table that every instruction set
// has its own version of; what the formats are is in packed_formats.h.
//
// Not here: how an instruction set is chosen (cpu_features.h), threads and shapes (bind.cpp).
#pragma once

#include <cstddef>
#include <cstdint>

namespace bobot {

struct Format {
    const char* name;
    std::size_t block_values, block_bytes;  // a row is a whole number of blocks
    bool has_scales;  // whether scales come in an array of their own, else they are in the blocks

    // One row's values as float32. `scales` has one number for every `values_per_scale` values.
    void (*dequantize)(const std::uint8_t* row, std::size_t num_values, const float* scales,
                       std::size_t values_per_scale, float* out);
};

// The kernels of one instruction set.
struct Kernels {
    const Format* formats;
    std::size_t num_formats;

    // out[m * out_stride] = sum over k of x[m * num_values + k] * weights[k], in float32.
    void (*dot)(const float* x, std::size_t num_rows, const float* weights, std::size_t num_values,
                float* out, std::size_t out_stride);
};

extern const Kernels kPortable;
#if defined(__x86_64__)
extern const Kernels kAvx2;
extern const Kernels kAvx512;
#endif

}  // namespace bobot
