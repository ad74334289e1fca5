// The one product of the decoder: some outputs of a weight, in either form, times a few rows.
// Whoever shares outputs among threads starts each share at a multiple of kPanel.
#pragma once

#include "packed_rows.h"
#include "tile_loops.h"

namespace bobot {

// A matrix, or a stack of `count` equal ones, packed row by row or in tiles.
struct Weight {
    PackedRows rows;
    Tiles tiles;  // without data: the rows are used
    std::size_t count;
};

namespace {

// Matrix `index` of a stack.
inline Weight matrix_of(const Weight& stack, std::size_t index) {
    constexpr std::size_t kScaleBytes[] = {0, 1, 2, 4};  // in the order of ScaleRows::Kind
    Weight one = stack;
    one.count = 1;
    if (stack.tiles.data) {
        one.tiles.data += index * stack.tiles.num_bytes;
        return one;
    }
    ScaleRows& scales = one.rows.scales;
    one.rows.num_rows /= stack.count;
    const std::size_t first = index * one.rows.num_rows;
    one.rows.values += first * stack.rows.row_bytes;
    scales.data += first / scales.rows_per_scale * scales.per_row *
                   kScaleBytes[static_cast<int>(scales.kind)];
    return one;
}

// What a product multiplies: rows of floats, and the form that tiles want, made when first asked
// for. One thread's own.
struct Inputs {
    const float* rows;
    std::size_t num_rows, num_columns;
    std::uint8_t* memory;  // for the other form
    ActivationType type;   // of the other form, for weights that are integers
    bool is_ready = false;
    Activations tiled{};
};

template <class Simd>
constexpr bool kHasUnit = ManyRows<Simd>::kHasUnit;

// Room for floats, which weights that are no integers take anyway, more than integers need; and for
// the blocks of a matrix unit.
template <class Simd>
std::size_t tiled_bytes(std::size_t num_rows, std::size_t num_columns) {
    Activations tiled;
    const std::size_t floats = activations_layout(tiled, num_rows, num_columns,
                                                  rows_in_block(num_rows, Simd::kMaxRows),
                                                  ActivationType::float32, nullptr);
    if (!takes_unit(kHasUnit<Simd>, num_rows, Simd::kMaxRows, ActivationType::bfloat16))
        return floats;
    const std::size_t bfloats = activations_layout(tiled, num_rows, num_columns, kUnitRows,
                                                   ActivationType::bfloat16, nullptr);
    return floats > bfloats ? floats : bfloats;
}

template <class Simd>
const Activations& tiled_inputs(Inputs& x, const Tiles& weight) {
    const bool is_for_unit = takes_unit(kHasUnit<Simd>, x.num_rows, Simd::kMaxRows, x.type);
    const ActivationType type = is_for_unit                      ? ActivationType::bfloat16
                                : is_float(weight.format->codes) ? ActivationType::float32
                                                                 : x.type;
    if (!x.is_ready || x.tiled.type != type) {
        const std::size_t block_rows =
            is_for_unit ? kUnitRows : rows_in_block(x.num_rows, Simd::kMaxRows);
        activations_layout(x.tiled, x.num_rows, x.num_columns, block_rows, type, x.memory);
        fill_activations<Simd>(x.rows, x.tiled, 0, x.tiled.num_blocks);
        x.is_ready = true;
    }
    return x.tiled;
}

struct Share {
    std::size_t first, end;
    std::size_t size() const { return end - first; }
};

// The part of [0, count) that one of several threads takes, in whole units; the last unit may be
// shorter.
inline Share share_of(std::size_t count, std::size_t unit, int thread, int num_threads) {
    const std::size_t units = (count + unit - 1) / unit;
    const std::size_t first = units * thread / num_threads * unit;
    const std::size_t end = units * (thread + 1) / num_threads * unit;
    return {first < count ? first : count, end < count ? end : count};
}

// out[m * out_stride + n] = x[m] * the n-th row of the weight, for the outputs n of a share.
// `row_scales` has room for the scales of a row.
template <class Simd>
void product(const Weight& weight, Inputs& x, const Share& share, float* out,
             std::size_t out_stride, float* row_scales) {
    if (share.first == share.end || x.num_rows == 0) return;
    if (weight.tiles.data) {
        multiply_tiles<Simd>(weight.tiles, tiled_inputs<Simd>(x, weight.tiles),
                             share.first / kPanel, (share.end + kPanel - 1) / kPanel, out,
                             out_stride);
        return;
    }
    for (std::size_t n = share.first; n < share.end; ++n)
        dot_row(weight.rows, n, row_scales, x.rows, x.num_rows, out + n, out_stride);
}

// One row of the weight as floats; `panel` has room for kPanel of them.
template <class Simd>
void row_of(const Weight& weight, std::size_t row, float* panel, float* row_scales, float* out) {
    if (!weight.tiles.data) return dequantize_row(weight.rows, row, row_scales, out);
    const std::size_t k = weight.tiles.num_columns;
    unpack_tiles<Simd>(weight.tiles, row / kPanel, panel);
    std::memcpy(out, panel + row % kPanel * k, k * sizeof(float));
}

}  // namespace
}  // namespace bobot
