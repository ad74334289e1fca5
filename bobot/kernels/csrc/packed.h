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

struct Activations;
struct DecoderPlan;
struct DecoderStep;
struct AttentionPlan;
struct AttentionInput;
struct Barrier;
struct Tiles;

// Columns that one call of add_columns takes at most: their totals stay in the first-level cache.
constexpr std::size_t kMaxColumns = 1024;

struct LogitsScan {
    float largest;
    bool is_valid;   // no logit is infinite or not a number; -infinity rules a token out
    bool is_finite;  // no logit is -infinity either
};

// The kernels of one instruction set.
struct Kernels {
    const Format* formats;
    std::size_t num_formats;

    // For int8 stored input by input, as in Grok-1's checkpoint: totals[m * count + n] += sum over
    // k of x[m * x_stride + k] * values[k * stride + n], k below num_inputs and n below count.
    void (*add_columns)(const float* x, std::size_t num_rows, std::size_t x_stride,
                        const std::int8_t* values, std::size_t num_inputs, std::size_t stride,
                        std::size_t count, float* totals);

    // decoder.h; false if there is no memory to work in.
    bool (*decode)(const DecoderPlan& plan, const DecoderStep& step);

    LogitsScan (*scan_logits)(const float* logits, std::size_t count);
    // weights = exp((logits - largest) / temperature), at least e^-87; returns their sum.
    double (*weigh_logits)(const float* logits, std::size_t count, float largest, float temperature,
                           float* weights);

    // Tiles (tiles.h). A block of activations has 1, 2, 4 or `max_block_rows` rows, or kUnitRows
    // where there is a matrix unit and takes_unit() says so.
    std::size_t max_block_rows;
    bool has_dot_pairs;  // of bfloat16, where the processor has AVX512-BF16
    bool has_unit;
    // Blocks [first, end) of the activations from rows of floats.
    void (*fill_activations)(const float* from, const Activations& x, std::size_t first,
                             std::size_t end);
    // out[m * out_stride + i] = x[m] * w[n], for the outputs n of panels [first, end), where i
    // counts them from the first.
    void (*multiply_tiles)(const Tiles& w, const Activations& x, std::size_t first, std::size_t end,
                           float* out, std::size_t out_stride);
    // The 16 rows of a panel as floats, num_columns each.
    void (*unpack_tiles)(const Tiles& w, std::size_t panel, float* out);

    // attention.h; called by every thread of a parallel region.
    void (*attend_rows)(const AttentionPlan& plan, const AttentionInput& input, int thread,
                        int num_threads, Barrier& barrier);
};

extern const Kernels kPortable;
#if defined(__x86_64__)
extern const Kernels kAvx2;
extern const Kernels kAvx512;
#endif
#if defined(BOBOT_HAS_AMX)
extern const Kernels kAmx, kAmxEmulated;
#endif

}  // namespace bobot
