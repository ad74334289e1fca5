// Weights packed into few bits, row by row. Each format is one entry in a table that every
// instruction set has its own version of; what the formats are is in packed_formats.h.
//
// Not here: how an instruction set is chosen (cpu_features.h), threads and shapes (bind.cpp).
#pragma once

#include <cstddef>
#include <cstdint>

namespace bobot {

// The bits of the float 2**(exponent - 128), half of what an E8M0 scale says: the E2M1 values it
// multiplies are stored doubled, as integers. Static, since every instruction set needs its own.
static inline std::uint32_t half_of_e8m0(std::uint8_t exponent) {
    return exponent < 2 ? 0x00200000u << exponent : (exponent - 1u) << 23;
}

struct Format {
    const char* name;
    std::size_t block_values, block_bytes;  // a row is a whole number of blocks
    bool has_scales;  // whether scales come in an array of their own, else they are in the blocks

    // One row's values as float32. `scales` has one number for every `values_per_scale` values.
    void (*dequantize)(const std::uint8_t* row, std::size_t num_values, const float* scales,
                       std::size_t values_per_scale, float* out);

    // out[m * out_stride] = sum over k of x[m * num_values + k] * the row's k-th value, in float32.
    // The row is unpacked once for four rows of x.
    void (*dot)(const float* x, std::size_t num_rows, const std::uint8_t* row,
                std::size_t num_values, const float* scales, std::size_t values_per_scale,
                float* out, std::size_t out_stride);
};

// The kernels of one instruction set.
struct Kernels {
    const Format* formats;
    std::size_t num_formats;
};

extern const Kernels kPortable;
#if defined(__x86_64__)
extern const Kernels kAvx2;
extern const Kernels kAvx512;
#endif

}  // namespace bobot
