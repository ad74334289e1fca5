// A weight as Python hands it over: arrays whose shapes are checked here once, read row by row by the
// kernels of one instruction set. Also the ways in which rows are shared among threads.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstring>
#include <optional>
#include <stdexcept>
#include <string>

#include "cpu_features.h"
#include "packed.h"

namespace bobot {
namespace {

namespace nb = nanobind;

template <class T>
using Matrix = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using AnyMatrix = nb::ndarray<nb::ro, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

const Kernels& kernels_of(const std::string& isa) {
#if defined(__x86_64__)
    const CpuFeatures& cpu = cpu_features();
    if (isa == "avx512" && cpu.avx512) return kAvx512;
    if (isa == "avx2" && cpu.avx2) return kAvx2;
#endif
    if (isa == "portable") return kPortable;
    throw std::invalid_argument("this machine has no kernels for " + isa);
}

void require(bool condition, const std::string& what) {
    if (!condition) throw std::invalid_argument(what);
}

const Format& format_of(const Kernels& kernels, const std::string& name) {
    for (std::size_t i = 0; i < kernels.num_formats; ++i)
        if (name == kernels.formats[i].name) return kernels.formats[i];
    throw std::invalid_argument("there is no kernel for the format " + name);
}

// Scales that lie in an array of their own: row r / rows_per_scale holds those of row r of the
// weights.
class Scales {
public:
    Scales(const AnyMatrix& array, std::size_t rows_per_scale)
        : data_(static_cast<const std::uint8_t*>(array.data())),
          per_row_(array.shape(1)),
          rows_per_scale_(rows_per_scale) {
        const nb::dlpack::dtype type = array.dtype();
        const auto code = static_cast<nb::dlpack::dtype_code>(type.code);
        if (type == nb::dtype<std::uint8_t>())
            kind_ = Kind::e8m0;
        else if (type == nb::dtype<float>())
            kind_ = Kind::float32;
        else if (code == nb::dlpack::dtype_code::Bfloat && type.bits == 16)
            kind_ = Kind::bfloat16;
        else
            throw std::invalid_argument("scales are uint8 (E8M0), bfloat16 or float32");
    }

    bool are_e8m0() const { return kind_ == Kind::e8m0; }

    // E8M0 scales come halved, as the kernels want them.
    void load(std::size_t row, float* out) const {
        const std::size_t first = row / rows_per_scale_ * per_row_;
        if (kind_ == Kind::float32) {
            std::memcpy(out, data_ + 4 * first, 4 * per_row_);
            return;
        }
        for (std::size_t i = 0; i < per_row_; ++i) {
            std::uint32_t bits;
            if (kind_ == Kind::e8m0) {
                bits = half_of_e8m0(data_[first + i]);
            } else {
                std::uint16_t top;
                std::memcpy(&top, data_ + 2 * (first + i), sizeof top);
                bits = std::uint32_t{top} << 16;
            }
            std::memcpy(out + i, &bits, sizeof bits);
        }
    }

private:
    enum class Kind { e8m0, bfloat16, float32 };
    Kind kind_;
    const std::uint8_t* data_;
    std::size_t per_row_, rows_per_scale_;
};

// A packed matrix whose parts fit together.
class Weight {
public:
    Weight(const Format& format, const Matrix<const std::uint8_t>& values,
           const std::optional<AnyMatrix>& scales, std::size_t rows_per_scale,
           std::size_t values_per_scale)
        : format_(format),
          values_(values.data()),
          row_bytes_(values.shape(1)),
          num_rows_(values.shape(0)),
          values_per_scale_(values_per_scale) {
        const std::string name = format.name;
        require(row_bytes_ % format.block_bytes == 0,
                "a row of " + name + " has a multiple of " + std::to_string(format.block_bytes) +
                    " bytes, not " + std::to_string(row_bytes_));
        num_columns_ = row_bytes_ / format.block_bytes * format.block_values;
        require(scales.has_value() == format.has_scales,
                name + (format.has_scales ? " needs scales" : " has its scales in its blocks"));
        if (!scales) return;
        require(rows_per_scale >= 1 && values_per_scale >= 1,
                "a scale is for at least one row and one value");
        num_scales_ = (num_columns_ + values_per_scale - 1) / values_per_scale;
        require(scales->shape(0) == (num_rows_ + rows_per_scale - 1) / rows_per_scale &&
                    scales->shape(1) == num_scales_,
                "scales do not have one number for each block of the weight");
        scales_.emplace(*scales, rows_per_scale);
        require(scales_->are_e8m0() == (name == "mxfp4"),
                "scales of mxfp4 are uint8, those of other formats are floating");
    }

    std::size_t num_rows() const { return num_rows_; }
    std::size_t num_columns() const { return num_columns_; }
    std::size_t num_scales() const { return num_scales_; }

    // `scales` has room for num_scales(), `out` for num_columns().
    void dequantize(std::size_t row, float* scales, float* out) const {
        if (scales_) scales_->load(row, scales);
        format_.dequantize(values_ + row * row_bytes_, num_columns_, scales, values_per_scale_,
                           out);
    }

    // out[m * out_stride] = x[m] * the row; `scales` as above.
    void dot(std::size_t row, float* scales, const float* x, std::size_t num_rows, float* out,
             std::size_t out_stride) const {
        if (scales_) scales_->load(row, scales);
        format_.dot(x, num_rows, values_ + row * row_bytes_, num_columns_, scales,
                    values_per_scale_, out, out_stride);
    }

private:
    const Format& format_;
    const std::uint8_t* values_;
    std::size_t row_bytes_, num_rows_, num_columns_, num_scales_ = 0, values_per_scale_;
    std::optional<Scales> scales_;
};

// Calls share(first, end) for equal shares of [0, num_rows), one for each thread.
template <class Share>
void in_parallel(std::size_t num_rows, int num_threads, Share share) {
    if (num_rows < static_cast<std::size_t>(num_threads)) num_threads = static_cast<int>(num_rows);
    if (num_threads == 0) return;
#pragma omp parallel for num_threads(num_threads) schedule(static)
    for (int part = 0; part < num_threads; ++part)
        share(num_rows * part / num_threads, num_rows * (part + 1) / num_threads);
}

}  // namespace
}  // namespace bobot
