// The kernels of packed.h, written once over a `Simd` type that wraps one instruction set:
//
//     Vector, width        a register of `width` floats
//     zero, load, fma, sum fma(a, b, c) = a * b + c; sum of the lanes
//     from_half            float16 bits to float
//     look_up<n>(t, q)     q[i] = t[q[i]] for n (a multiple of 16) numbers from 0 to 15
//     widen<has_minimum, n>(q, scale, minimum, out)
//                          out[i] = scale * q[i] - minimum for n signed bytes, or only scale * q[i]
//
// Each instruction set has its own source file, compiled with its own flags. Its Simd type lies in an unnamed
// namespace, and no other template of a library is used, so that the linker can never merge code of two
// instruction sets.
#pragma once

#include "packed.h"
#include "packed_formats.h"

namespace bobot {
namespace {

template <class Simd, class Block>
void dequantize_blocks(const std::uint8_t* row, std::size_t num_values, const float*, std::size_t,
                       float* out) {
    Unpacked block;
    for (std::size_t i = 0; i < num_values; i += Block::kValues, row += Block::kBytes) {
        Block::unpack(row, block);
        for (std::size_t g = 0; g < Block::kValues / Block::kGroup; ++g, out += Block::kGroup)
            Simd::template widen<Block::kHasMinimum, Block::kGroup>(
                block.q + g * Block::kGroup, block.scales[g],
                Block::kHasMinimum ? block.minima[g] : 0, out);
    }
}

template <class Simd, class Nibbles>
void dequantize_nibbles(const std::uint8_t* row, std::size_t num_values, const float* scales,
                        std::size_t values_per_scale, float* out) {
    std::int8_t q[32];
    for (std::size_t i = 0; i < num_values; i += 32, row += 16) {
        Nibbles::unpack(row, q);
        if (values_per_scale % 32 == 0)
            Simd::template widen<false, 32>(q, scales[i / values_per_scale], 0, out + i);
        else
            for (std::size_t j = 0; j < 32; ++j)
                out[i + j] = scales[(i + j) / values_per_scale] * q[j];
    }
}

template <class Simd, float (*from_byte)(std::uint8_t)>
void dequantize_bytes(const std::uint8_t* row, std::size_t num_values, const float* scales,
                      std::size_t values_per_scale, float* out) {
    for (std::size_t start = 0; start < num_values; start += values_per_scale, ++scales) {
        const std::size_t end =
            start + values_per_scale < num_values ? start + values_per_scale : num_values;
        const float scale = *scales;
        for (std::size_t i = start; i < end; ++i) out[i] = from_byte(row[i]) * scale;
    }
}

// kRows rows of x against one row of weights, in eight independent chains of additions.
template <class Simd, std::size_t kRows>
void dot_rows(const float* x, const float* weights, std::size_t num_values, float* out,
              std::size_t out_stride) {
    constexpr std::size_t kChains = 8 / kRows;
    typename Simd::Vector totals[kRows][kChains];
    for (auto& chains : totals)
        for (auto& total : chains) total = Simd::zero();
    std::size_t k = 0;
    for (; k + kChains * Simd::width <= num_values; k += kChains * Simd::width)
        for (std::size_t c = 0; c < kChains; ++c) {
            const auto w = Simd::load(weights + k + c * Simd::width);
            for (std::size_t m = 0; m < kRows; ++m)
                totals[m][c] = Simd::fma(w, Simd::load(x + m * num_values + k + c * Simd::width),
                                         totals[m][c]);
        }
    for (std::size_t m = 0; m < kRows; ++m) {
        float sum = 0;
        for (const auto& total : totals[m]) sum += Simd::sum(total);
        for (std::size_t rest = k; rest < num_values; ++rest)
            sum += weights[rest] * x[m * num_values + rest];
        out[m * out_stride] = sum;
    }
}

template <class Simd>
void dot(const float* x, std::size_t num_rows, const float* weights, std::size_t num_values,
         float* out, std::size_t out_stride) {
    std::size_t m = 0;
    for (; m + 4 <= num_rows; m += 4)
        dot_rows<Simd, 4>(x + m * num_values, weights, num_values, out + m * out_stride, out_stride);
    for (; m < num_rows; ++m)
        dot_rows<Simd, 1>(x + m * num_values, weights, num_values, out + m * out_stride, out_stride);
}

template <class Simd, template <class> class Block>
constexpr Format blocks(const char* name) {
    return {name, Block<Simd>::kValues, Block<Simd>::kBytes, false,
            dequantize_blocks<Simd, Block<Simd>>};
}

// GGUF's names in capitals: its blocks hold their scales.
template <class Simd>
constexpr Format kFormats[] = {
    blocks<Simd, Q4_0>("Q4_0"),
    blocks<Simd, Q4_1>("Q4_1"),
    blocks<Simd, Q5_0>("Q5_0"),
    blocks<Simd, Q5_1>("Q5_1"),
    blocks<Simd, Q8_0>("Q8_0"),
    blocks<Simd, Q2_K>("Q2_K"),
    blocks<Simd, Q3_K>("Q3_K"),
    blocks<Simd, Q4_K>("Q4_K"),
    blocks<Simd, Q5_K>("Q5_K"),
    blocks<Simd, Q6_K>("Q6_K"),
    blocks<Simd, IQ4_NL>("IQ4_NL"),
    blocks<Simd, IQ4_XS>("IQ4_XS"),
    blocks<Simd, TQ1_0>("TQ1_0"),
    blocks<Simd, TQ2_0>("TQ2_0"),
    blocks<Simd, Mxfp4InBlocks>("MXFP4"),
    {"mxfp4", 32, 16, true, dequantize_nibbles<Simd, Mxfp4<Simd>>},
    {"int4", 32, 16, true, dequantize_nibbles<Simd, Int4<Simd>>},
    {"int8", 1, 1, true, dequantize_bytes<Simd, from_int8>},
    {"float8_e4m3fn", 1, 1, true, dequantize_bytes<Simd, from_e4m3>},
};

template <class Simd>
constexpr Kernels kernels() {
    return {kFormats<Simd>, sizeof(kFormats<Simd>) / sizeof(Format), dot<Simd>};
}

}  // namespace
}  // namespace bobot
