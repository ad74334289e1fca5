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

#include "bind_attention.h"
#include "weight.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace bobot {

void bind_decoder(nb::module_& m);
void bind_sampler(nb::module_& m);
void bind_tiles(nb::module_& m);
void bind_limits(nb::module_& m);

namespace {

void dequantize(const std::string& format, const Matrix<const std::uint8_t>& values,
                const std::optional<AnyMatrix>& scales, std::size_t rows_per_scale,
                std::size_t values_per_scale, const Matrix<float>& out, int num_threads,
                const std::string& isa) {
    const PackedRows weight = weight_of(format_of(kernels_of(isa), format), values, scales,
                                        rows_per_scale, values_per_scale);
    require(out.shape(0) == weight.num_rows && out.shape(1) == weight.num_columns,
            "out does not have one float for each weight");
    require(num_threads >= 1, "num_threads is below 1");
    float* out_data = out.data();
    nb::gil_scoped_release unlocked;
    in_parallel(weight.num_rows, num_threads, [&](std::size_t first, std::size_t end) {
        std::vector<float> row_scales(weight.scales.per_row);
        for (std::size_t n = first; n < end; ++n)
            dequantize_row(weight, n, row_scales.data(), out_data + n * weight.num_columns);
    });
}

void linear(const std::string& format, const Matrix<const float>& x,
            const Matrix<const std::uint8_t>& values, const std::optional<AnyMatrix>& scales,
            std::size_t rows_per_scale, std::size_t values_per_scale, const Matrix<float>& out,
            int num_threads, const std::string& isa) {
    const PackedRows weight = weight_of(format_of(kernels_of(isa), format), values, scales,
                                        rows_per_scale, values_per_scale);
    const std::size_t num_rows = x.shape(0), num_columns = weight.num_rows;
    require(x.shape(1) == weight.num_columns, "x and weight differ in their last axis");
    require(out.shape(0) == num_rows && out.shape(1) == num_columns,
            "out is not (rows of x, rows of weight)");
    require(num_threads >= 1, "num_threads is below 1");
    const float* x_data = x.data();
    float* out_data = out.data();
    nb::gil_scoped_release unlocked;
    in_parallel(num_columns, num_threads, [&](std::size_t first, std::size_t end) {
        std::vector<float> row_scales(weight.scales.per_row);
        for (std::size_t n = first; n < end; ++n)
            dot_row(weight, n, row_scales.data(), x_data, num_rows, out_data + n, num_columns);
    });
}

// x @ (values * scales) for int8 values (inputs, outputs): one scale per output and equal run of
// inputs.
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
    const ScaleRows each = scales_of(scales, 1);
    require(each.kind != ScaleRows::Kind::e8m0, "scales are bfloat16 or float32");
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
                load_scales(each, r, row_scales.data());
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
#if defined(BOBOT_HAS_AMX)
    found["amx"] = cpu.amx;
#endif
    found["avx512vnni"] = cpu.avx512vnni;
    found["avx2"] = cpu.avx2;
    found["portable"] = true;
#if defined(BOBOT_HAS_AMX)
    found["amx-emulated"] = cpu.avx512bf16;
#endif
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
    bobot::bind_tiles(m);
    bobot::bind_limits(m);
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
    bobot::bind_attention(m);
    bobot::bind_decoder(m);
    bobot::bind_sampler(m);
}
