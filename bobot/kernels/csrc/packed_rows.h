// A matrix whose rows are packed, and how to read one row: plain data without any library, so that
// code of every instruction set may include it. Checked and filled in weight.h.
#pragma once

#include <cstring>

#include "packed.h"

namespace bobot {

// Scales that lie in an array of their own: row r / rows_per_scale holds those of row r of the
// weights.
struct ScaleRows {
    enum class Kind { none, e8m0, bfloat16, float32 };
    Kind kind = Kind::none;
    const std::uint8_t* data = nullptr;
    std::size_t per_row = 0, rows_per_scale = 1;
};

struct PackedRows {
    const Format* format;
    const std::uint8_t* values;
    std::size_t row_bytes, num_rows, num_columns, values_per_scale;
    ScaleRows scales;
};

namespace {

// The scales of a row as floats; E8M0 ones come halved, as the kernels want them.
inline void load_scales(const ScaleRows& scales, std::size_t row, float* out) {
    const std::size_t first = row / scales.rows_per_scale * scales.per_row;
    if (scales.kind == ScaleRows::Kind::float32) {
        std::memcpy(out, scales.data + 4 * first, 4 * scales.per_row);
        return;
    }
    for (std::size_t i = 0; i < scales.per_row; ++i) {
        std::uint32_t bits;
        if (scales.kind == ScaleRows::Kind::e8m0) {
            bits = half_of_e8m0(scales.data[first + i]);
        } else {
            std::uint16_t top;
            std::memcpy(&top, scales.data + 2 * (first + i), sizeof top);
            bits = std::uint32_t{top} << 16;
        }
        std::memcpy(out + i, &bits, sizeof bits);
    }
}

// `row_scales` has room for scales.per_row, `out` for num_columns.
inline void dequantize_row(const PackedRows& weight, std::size_t row, float* row_scales,
                           float* out) {
    if (weight.scales.kind != ScaleRows::Kind::none) load_scales(weight.scales, row, row_scales);
    weight.format->dequantize(weight.values + row * weight.row_bytes, weight.num_columns,
                              row_scales, weight.values_per_scale, out);
}

// out[m * out_stride] = x[m] * the row, for num_x rows of x; `row_scales` as above.
inline void dot_row(const PackedRows& weight, std::size_t row, float* row_scales, const float* x,
                    std::size_t num_x, float* out, std::size_t out_stride) {
    if (weight.scales.kind != ScaleRows::Kind::none) load_scales(weight.scales, row, row_scales);
    weight.format->dot(x, num_x, weight.values + row * weight.row_bytes, weight.num_columns,
                       row_scales, weight.values_per_scale, out, out_stride);
}

}  // namespace
}  // namespace bobot
