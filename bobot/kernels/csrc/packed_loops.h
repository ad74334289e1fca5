// The kernels of packed.h, written once over a `Simd` type that wraps one instruction set:
//
//     Vector, width        a register of `width` floats
//     zero, load, fma, sum fma(a, b, c) = a * b + c; sum of the lanes
//     from_half            float16 bits to float
//     load_bfloat16, load_half, store_half
//                          a register of numbers of 16 bits in memory, rounded to the nearest even
//     has_dot_pairs, dot_pairs(a, b, c)
//                          c + the products of the two bfloat16 numbers in each lane; with them:
//     to_pairs(a, b)       neighbours of a, then of b, rounded to bfloat16 side by side in a lane
//     low_words, high_words(a, b)
//                          as low and high, of numbers of 16 bits
//     low, high(a, b)      a and b lane by lane in turn: their first halves, their second halves
//     e4m3, splat, store, bfloats, halves
//                          as in tile_floats.h and tile_loops.h
//     look_up<n>(t, q)     q[i] = t[q[i]] for n (a multiple of 16) numbers from 0 to 15
//     widen<has_minimum, n>(q, scale, minimum, out)
//                          out[i] = scale * q[i] - minimum for n signed bytes, or only scale * q[i]
//
// Each instruction set has its own source file, compiled with its own flags. Its Simd type lies in
// an unnamed namespace, and no other template of a library is used, so that the linker can never
// merge code of two instruction sets.
#pragma once

#include "attention_loops.h"
#include "decoder_loops.h"
#include "packed.h"
#include "packed_formats.h"
#include "sampler_loops.h"
#include "tile_floats.h"
#include "tile_loops.h"

namespace bobot {
namespace {

// A reader goes through a row of weights: `next` steps to the next kValues values, `widen(i, out)`
// gives kStep of them from the i-th on as floats. `tail` gives the last `count` values of a row
// that is no multiple of kValues.

template <class Simd, class Block>
struct BlockReader {
    static constexpr std::size_t kValues = Block::kValues;
    static constexpr std::size_t kStep = Block::kGroup < 32 ? Block::kGroup : 32;
    static constexpr bool kHasTail = false;

    BlockReader(const std::uint8_t* row, const float*, std::size_t) : row_(row) {}

    void next() {
        Block::unpack(row_, block_);
        row_ += Block::kBytes;
    }
    void widen(std::size_t i, float* out) const {
        const std::size_t g = i / Block::kGroup;
        Simd::template widen<Block::kHasMinimum, kStep>(
            block_.q + i, block_.scales[g], Block::kHasMinimum ? block_.minima[g] : 0, out);
    }

private:
    const std::uint8_t* row_;
    Unpacked block_;
};

// 32 values at a time of a format whose scales lie apart.
template <class Simd, class Values>
struct ScaledReader {
    static constexpr std::size_t kValues = 32, kStep = 32;
    static constexpr bool kHasTail = Values::kBytes == 32;

    ScaledReader(const std::uint8_t* row, const float* scales, std::size_t values_per_scale)
        : next_row_(row), scales_(scales), values_per_scale_(values_per_scale) {}

    void next() {
        row_ = next_row_;
        next_row_ += Values::kBytes;
        first_ = next_first_;
        next_first_ += kValues;
    }
    void widen(std::size_t, float* out) const {
        if (values_per_scale_ % kValues == 0)
            Values::widen(row_, scales_[first_ / values_per_scale_], out);
        else
            widen_each(row_, kValues, first_, out);
    }
    void tail(std::size_t count, float* out) const {
        std::uint8_t padded[32] = {};
        std::memcpy(padded, next_row_, count);
        widen_each(padded, count, next_first_, out);
    }

private:
    void widen_each(const std::uint8_t* bytes, std::size_t count, std::size_t first,
                    float* out) const {
        Values::widen(bytes, 1, out);
        for (std::size_t i = 0; i < count; ++i) out[i] *= scales_[(first + i) / values_per_scale_];
    }

    const std::uint8_t *row_ = nullptr, *next_row_;
    const float* scales_;
    std::size_t values_per_scale_, first_ = 0, next_first_ = 0;
};

// 32 values at a time of weights that are not packed.
template <class Simd, class Values>
struct DenseReader {
    static constexpr std::size_t kValues = 32, kStep = 32;
    static constexpr bool kHasTail = true;

    DenseReader(const std::uint8_t* row, const float*, std::size_t) : next_row_(row) {}

    void next() {
        row_ = next_row_;
        next_row_ += kBytes;
        Simd::template prefetch<kBytes>(row_ + kAhead);
    }
    void widen(std::size_t, float* out) const { Values::widen(row_, out); }
    void tail(std::size_t count, float* out) const {
        std::uint8_t padded[kBytes] = {};
        std::memcpy(padded, next_row_, count * Values::kBytes);
        Values::widen(padded, out);
    }

private:
    static constexpr std::size_t kBytes = kValues * Values::kBytes, kAhead = 4096;

    const std::uint8_t *row_ = nullptr, *next_row_;
};

template <class Simd, class Reader>
void dequantize(const std::uint8_t* row, std::size_t num_values, const float* scales,
                std::size_t values_per_scale, float* out) {
    Reader reader(row, scales, values_per_scale);
    std::size_t k = 0;
    for (; k + Reader::kValues <= num_values; k += Reader::kValues) {
        reader.next();
        for (std::size_t i = 0; i < Reader::kValues; i += Reader::kStep)
            reader.widen(i, out + k + i);
    }
    if constexpr (Reader::kHasTail) {
        float rest[Reader::kValues];
        reader.tail(num_values - k, rest);
        std::memcpy(out + k, rest, sizeof(float) * (num_values - k));
    }
}

// kRows rows of x against one row of weights, whose values need not leave the registers. Few rows
// sum in several chains of additions, since one would wait for itself.
template <class Simd, class Reader, std::size_t kRows>
void dot_rows(const float* x, const std::uint8_t* row, std::size_t num_values, const float* scales,
              std::size_t values_per_scale, float* out, std::size_t out_stride) {
    constexpr std::size_t kVectors = Reader::kStep / Simd::width;
    constexpr std::size_t kChains = kVectors * kRows <= 8 ? kVectors : kRows == 1 ? 4 : 1;
    typename Simd::Vector totals[kRows][kChains];
    for (auto& chains : totals)
        for (auto& total : chains) total = Simd::zero();
    Reader reader(row, scales, values_per_scale);
    std::size_t k = 0;
    for (; k + Reader::kValues <= num_values; k += Reader::kValues) {
        reader.next();
        for (std::size_t i = 0; i < Reader::kValues; i += Reader::kStep) {
            float weights[Reader::kStep];
            reader.widen(i, weights);
            for (std::size_t v = 0; v < kVectors; ++v) {
                const auto w = Simd::load(weights + v * Simd::width);
                const float* x_step = x + k + i + v * Simd::width;
                for (std::size_t m = 0; m < kRows; ++m)
                    totals[m][v % kChains] = Simd::fma(w, Simd::load(x_step + m * num_values),
                                                       totals[m][v % kChains]);
            }
        }
    }
    for (std::size_t m = 0; m < kRows; ++m) {
        auto total = totals[m][0];
        for (std::size_t c = 1; c < kChains; ++c) total += totals[m][c];
        out[m * out_stride] = Simd::sum(total);
    }
    if constexpr (Reader::kHasTail) {
        float rest[Reader::kValues];
        reader.tail(num_values - k, rest);
        for (std::size_t m = 0; m < kRows; ++m)
            for (std::size_t i = k; i < num_values; ++i)
                out[m * out_stride] += rest[i - k] * x[m * num_values + i];
    }
}

template <class Simd, class Reader>
void dot(const float* x, std::size_t num_rows, const std::uint8_t* row, std::size_t num_values,
         const float* scales, std::size_t values_per_scale, float* out, std::size_t out_stride) {
    constexpr decltype(&dot_rows<Simd, Reader, 1>) kDots[] = {
        dot_rows<Simd, Reader, 1>, dot_rows<Simd, Reader, 2>, dot_rows<Simd, Reader, 3>,
        dot_rows<Simd, Reader, 4>};
    for (std::size_t m = 0; m < num_rows; m += 4) {
        const std::size_t count = num_rows - m < 4 ? num_rows - m : 4;
        kDots[count - 1](x + m * num_values, row, num_values, scales, values_per_scale,
                         out + m * out_stride, out_stride);
    }
}

// Four inputs at a time, so that the totals are read and written a quarter as often.
template <class Simd>
void add_columns(const float* x, std::size_t num_rows, std::size_t x_stride,
                 const std::int8_t* values, std::size_t num_inputs, std::size_t stride,
                 std::size_t count, float* __restrict totals) {
    static const std::int8_t kZeros[kMaxColumns] = {};
    for (std::size_t k = 0; k < num_inputs; k += 4) {
        const std::int8_t* rows[4];
        for (std::size_t i = 0; i < 4; ++i)
            rows[i] = k + i < num_inputs ? values + (k + i) * stride : kZeros;
        for (std::size_t m = 0; m < num_rows; ++m) {
            float factors[4];
            for (std::size_t i = 0; i < 4; ++i)
                factors[i] = k + i < num_inputs ? x[m * x_stride + k + i] : 0;
            float* __restrict to = totals + m * count;
            for (std::size_t n = 0; n < count; ++n)
                to[n] += (factors[0] * rows[0][n] + factors[1] * rows[1][n]) +
                         (factors[2] * rows[2][n] + factors[3] * rows[3][n]);
        }
    }
}

template <class Simd, template <class> class Block>
constexpr Format blocks(const char* name) {
    using Reader = BlockReader<Simd, Block<Simd>>;
    return {name,  Block<Simd>::kValues,      Block<Simd>::kBytes,
            false, dequantize<Simd, Reader>, dot<Simd, Reader>};
}

template <class Simd, template <class> class Values>
constexpr Format scaled(const char* name) {
    using Reader = ScaledReader<Simd, Values<Simd>>;
    constexpr bool is_bytes = Reader::kHasTail;
    return {name, is_bytes ? 1 : 32u,        is_bytes ? 1 : Values<Simd>::kBytes,
            true, dequantize<Simd, Reader>, dot<Simd, Reader>};
}

template <class Simd, template <class> class Values>
constexpr Format dense(const char* name) {
    using Reader = DenseReader<Simd, Values<Simd>>;
    return {name, 1, Values<Simd>::kBytes, false, dequantize<Simd, Reader>, dot<Simd, Reader>};
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
    scaled<Simd, Mxfp4>("mxfp4"),
    scaled<Simd, Int4>("int4"),
    scaled<Simd, Int8>("int8"),
    scaled<Simd, Nf4>("nf4"),
    scaled<Simd, Fp4>("fp4"),
    scaled<Simd, Fp8>("float8_e4m3fn"),
    dense<Simd, Float32>("float32"),
    dense<Simd, Bfloat16>("bfloat16"),
    dense<Simd, Float16>("float16"),
};

template <class Simd>
constexpr Kernels kernels() {
    return {kFormats<Simd>,       sizeof(kFormats<Simd>) / sizeof(Format),
            add_columns<Simd>,    decode<Simd>,
            scan_logits,          weigh_logits,
            Simd::kMaxRows,       Simd::has_dot_pairs,
            false,                fill_activations<Simd>,
            multiply_tiles<Simd>, unpack_tiles<Simd>,
            attend_rows<Simd>};
}

}  // namespace
}  // namespace bobot
