// The loops of q8_0.h, written once over a `Simd` type that wraps one instruction set:
//
//     Vector, width      a register of `width` floats
//     zero load store    load_bytes: `width` signed bytes, widened to floats
//     broadcast mul fma  fma(a, b, c) = a * b + c
//     sum                of the lanes
//     from_half          float16 bits to float
//
// Each instruction set has its own source file, compiled with its own flags. Its Simd type lies in an
// unnamed namespace, so that the linker can never merge code of two instruction sets.
#pragma once

#include "q8_0.h"

namespace bobot {

template <class Simd>
struct Q8Loops {
    using Vector = typename Simd::Vector;
    static constexpr std::size_t kVectors = kQ8BlockWeights / Simd::width;

    static void dequantize(const Q8Block* blocks, std::size_t num_blocks, float* out) {
        for (std::size_t i = 0; i < num_blocks; ++i) {
            const Vector scale = Simd::broadcast(Simd::from_half(blocks[i].scale));
            for (std::size_t v = 0; v < kVectors; ++v) {
                const Vector values = Simd::load_bytes(blocks[i].values + v * Simd::width);
                Simd::store(out + v * Simd::width, Simd::mul(values, scale));
            }
            out += kQ8BlockWeights;
        }
    }

    // kRows rows of x against one weight row: the bytes are widened once and used kRows times.
    template <std::size_t kRows>
    static void dot(const float* x, const Q8Block* weight, std::size_t num_blocks,
                    std::size_t num_columns, float* out) {
        const std::size_t x_stride = num_blocks * kQ8BlockWeights;
        Vector totals[kRows];
        for (auto& total : totals) total = Simd::zero();
        for (std::size_t i = 0; i < num_blocks; ++i) {
            Vector partial[kRows];
            for (auto& p : partial) p = Simd::zero();
            for (std::size_t v = 0; v < kVectors; ++v) {
                const Vector values = Simd::load_bytes(weight[i].values + v * Simd::width);
                const float* x_block = x + i * kQ8BlockWeights + v * Simd::width;
                for (std::size_t m = 0; m < kRows; ++m)
                    partial[m] = Simd::fma(values, Simd::load(x_block + m * x_stride), partial[m]);
            }
            const Vector scale = Simd::broadcast(Simd::from_half(weight[i].scale));
            for (std::size_t m = 0; m < kRows; ++m)
                totals[m] = Simd::fma(partial[m], scale, totals[m]);
        }
        for (std::size_t m = 0; m < kRows; ++m) out[m * num_columns] = Simd::sum(totals[m]);
    }

    static void linear(const float* x, std::size_t num_rows, const Q8Block* weight,
                       std::size_t num_blocks, std::size_t first_column, std::size_t end_column,
                       std::size_t num_columns, float* out) {
        const std::size_t x_stride = num_blocks * kQ8BlockWeights;
        for (std::size_t n = first_column; n < end_column; ++n) {
            const Q8Block* row = weight + n * num_blocks;
            std::size_t m = 0;
            for (; m + 4 <= num_rows; m += 4)
                dot<4>(x + m * x_stride, row, num_blocks, num_columns, out + m * num_columns + n);
            for (; m < num_rows; ++m)
                dot<1>(x + m * x_stride, row, num_blocks, num_columns, out + m * num_columns + n);
        }
    }

    static constexpr Q8Kernels kernels() { return {dequantize, linear}; }
};

}  // namespace bobot
