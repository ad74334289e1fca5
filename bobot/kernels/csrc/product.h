// The one product of the decoder: some outputs of a weight, in either form, times some rows.
#pragma once

#include <initializer_list>

#include "packed_rows.h"
#include "team.h"
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

template <class Simd>
bool takes_unit(std::size_t num_rows, ActivationType type) {
    return takes_unit(ManyRows<Simd>::kHasUnit, num_rows, Simd::kMaxRows, type);
}

// Rows of a block of inputs.
template <class Simd>
std::size_t block_rows(std::size_t num_rows, ActivationType type) {
    return takes_unit<Simd>(num_rows, type) ? kUnitRows : rows_in_block(num_rows, Simd::kMaxRows);
}

// What the weights that read the same inputs take of them: if tiles, `type`; floats if there are
// codes that are no integers; bfloat16 if there is a matrix unit and rows enough for it.
struct Readers {
    Readers(ActivationType activations, std::initializer_list<const Weight*> weights)
        : type(activations) {
        for (const Weight* weight : weights) {
            const Tiles& tiles = weight->tiles;
            has_tiles |= tiles.data != nullptr;
            has_floats |= tiles.data && is_float(tiles.format->codes);
        }
    }

    template <class Simd>
    ActivationType form(std::size_t num_rows) const {
        if (takes_unit<Simd>(num_rows, type)) return ActivationType::bfloat16;
        return has_floats ? ActivationType::float32 : type;
    }

    ActivationType type;
    bool has_tiles = false, has_floats = false;
};

// What a product multiplies, in the forms that weights want. Of `tiled`, the memory is given first,
// and the contents block by block.
struct Inputs {
    std::size_t num_rows, num_columns;
    float* rows;        // (num_rows, num_columns); null where no weight reads them
    Activations tiled;  // without blocks where no weight is tiles

    // The form that tiles take; returns its bytes, all at `memory` where that is given.
    template <class Simd>
    std::size_t lay_out_tiles(const Readers& readers, std::uint8_t* memory) {
        return activations_layout(tiled, num_rows, num_columns,
                                  block_rows<Simd>(num_rows, readers.type),
                                  readers.form<Simd>(num_rows), memory);
    }
};

// out[m * out_stride + n - share.first] = x[m] * the n-th row of the weight, for the outputs n of a
// share and `count` rows m from `first` on, counted from there; `first` begins a block of rows, and
// the share begins at a multiple of kPanel. `row_scales` has room for the scales of a row.
template <class Simd>
void product(const Weight& weight, const Inputs& x, std::size_t first, std::size_t count,
             const Share& share, float* out, std::size_t out_stride, float* row_scales) {
    if (share.first == share.end || count == 0) return;
    if (weight.tiles.data) {
        const std::size_t rows = x.tiled.block_rows;
        const Activations part = blocks_of(x.tiled, first / rows, (count + rows - 1) / rows);
        multiply_tiles<Simd>(weight.tiles, part, share.first / kPanel,
                             (share.end + kPanel - 1) / kPanel, out, out_stride);
        return;
    }
    for (std::size_t n = share.first; n < share.end; ++n)
        dot_row(weight.rows, n, row_scales, x.rows + first * x.num_columns, count,
                out + (n - share.first), out_stride);
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
