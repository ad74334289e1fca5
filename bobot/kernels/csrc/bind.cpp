// The Python face of the kernels: checks shapes, picks the format and the instruction set that were
// asked for, shares the rows of weights among threads. Arrays come from NumPy or torch through
// DLPack, without a copy.
//
// Threads are OpenMP's, the runtime torch uses too: called from one thread, both draw on one pool.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu_features.h"
#include "packed.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace bobot {
namespace {

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

void dequantize(const std::string& format, const Matrix<const std::uint8_t>& values,
                const std::optional<AnyMatrix>& scales, std::size_t rows_per_scale,
                std::size_t values_per_scale, const Matrix<float>& out, int num_threads,
                const std::string& isa) {
    const Weight weight(format_of(kernels_of(isa), format), values, scales, rows_per_scale,
                        values_per_scale);
    require(out.shape(0) == weight.num_rows() && out.shape(1) == weight.num_columns(),
            "out does not have one float for each weight");
    require(num_threads >= 1, "num_threads is below 1");
    float* out_data = out.data();
    nb::gil_scoped_release unlocked;
    in_parallel(weight.num_rows(), num_threads, [&](std::size_t first, std::size_t end) {
        std::vector<float> row_scales(weight.num_scales());
        for (std::size_t n = first; n < end; ++n)
            weight.dequantize(n, row_scales.data(), out_data + n * weight.num_columns());
    });
}

void linear(const std::string& format, const Matrix<const float>& x,
            const Matrix<const std::uint8_t>& values, const std::optional<AnyMatrix>& scales,
            std::size_t rows_per_scale, std::size_t values_per_scale, const Matrix<float>& out,
            int num_threads, const std::string& isa) {
    const Weight weight(format_of(kernels_of(isa), format), values, scales, rows_per_scale,
                        values_per_scale);
    const std::size_t num_rows = x.shape(0), num_columns = weight.num_rows();
    require(x.shape(1) == weight.num_columns(), "x and weight differ in their last axis");
    require(out.shape(0) == num_rows && out.shape(1) == num_columns,
            "out is not (rows of x, rows of weight)");
    require(num_threads >= 1, "num_threads is below 1");
    const float* x_data = x.data();
    float* out_data = out.data();
    nb::gil_scoped_release unlocked;
    in_parallel(num_columns, num_threads, [&](std::size_t first, std::size_t end) {
        std::vector<float> row_scales(weight.num_scales());
        for (std::size_t n = first; n < end; ++n)
            weight.dot(n, row_scales.data(), x_data, num_rows, out_data + n, num_columns);
    });
}

// x @ (values * scales) for int8 values (inputs, outputs): one scale per output and equal run of inputs.
void linear_columns(const Matrix<const float>& x, const Matrix<const std::int8_t>& values,
                    const AnyMatrix& scales, const Matrix<float>& out, int num_threads,
                    const std::string& isa) {
    const Kernels& kernels = kernels_of(isa);
    const std::size_t num_rows = x.shape(0), num_inputs = x.shape(1), num_outputs = out.shape(1);
    require(values.shape(0) == num_inputs && values.shape(1) == num_outputs &&
                out.shape(0) == num_rows,
            "x, values and out do not fit together");
    const std::size_t num_runs = scales.shape(0);
    require(num_runs >= 1 && num_inputs % num_runs == 0 && scales.shape(1) == num_outputs,
            "scales do not have one number for each output and run of inputs");
    require(num_threads >= 1, "num_threads is below 1");
    const Scales each(scales, 1);
    require(!each.are_e8m0(), "scales are bfloat16 or float32");
    const std::size_t run = num_inputs / num_runs;
    const float* x_data = x.data();
    const std::int8_t* data = values.data();
    float* out_data = out.data();
    nb::gil_scoped_release unlocked;
    in_parallel((num_outputs + kMaxColumns - 1) / kMaxColumns, num_threads,
                [&](std::size_t first, std::size_t end) {
        std::vector<float> totals(num_rows * kMaxColumns), row_scales(num_outputs);
        for (std::size_t n = first * kMaxColumns; n < std::min(end * kMaxColumns, num_outputs);
             n += kMaxColumns) {
            const std::size_t count = std::min(kMaxColumns, num_outputs - n);
            for (std::size_t m = 0; m < num_rows; ++m)
                std::fill_n(out_data + m * num_outputs + n, count, 0.0f);
            for (std::size_t r = 0; r < num_runs; ++r) {
                std::fill(totals.begin(), totals.end(), 0.0f);
                kernels.add_columns(x_data + r * run, num_rows, num_inputs,
                                    data + r * run * num_outputs + n, run, num_outputs, count,
                                    totals.data());
                each.load(r, row_scales.data());
                for (std::size_t m = 0; m < num_rows; ++m)
                    for (std::size_t i = 0; i < count; ++i)
                        out_data[m * num_outputs + n + i] +=
                            totals[m * count + i] * row_scales[n + i];
            }
        }
    });
}

nb::dict features() {
    const CpuFeatures& cpu = cpu_features();
    nb::dict found;
    found["avx512"] = cpu.avx512;
    found["avx2"] = cpu.avx2;
    found["portable"] = true;
    return found;
}

nb::dict formats() {
    nb::dict found;
    for (std::size_t i = 0; i < kPortable.num_formats; ++i) {
        const Format& format = kPortable.formats[i];
        found[format.name] = nb::make_tuple(format.block_values, format.block_bytes);
    }
    return found;
}

}  // namespace
}  // namespace bobot

NB_MODULE(_native, m) {
    m.def("features", &bobot::features);
    m.def("formats", &bobot::formats);
    m.def("dequantize", &bobot::dequantize, "format"_a, "values"_a.noconvert(),
          "scales"_a.noconvert().none(), "rows_per_scale"_a, "values_per_scale"_a,
          "out"_a.noconvert(), "num_threads"_a, "isa"_a);
    m.def("linear", &bobot::linear, "format"_a, "x"_a.noconvert(), "values"_a.noconvert(),
          "scales"_a.noconvert().none(), "rows_per_scale"_a, "values_per_scale"_a,
          "out"_a.noconvert(), "num_threads"_a, "isa"_a);
    m.def("linear_columns", &bobot::linear_columns, "x"_a.noconvert(), "values"_a.noconvert(),
          "scales"_a.noconvert(), "out"_a.noconvert(), "num_threads"_a, "isa"_a);
}
