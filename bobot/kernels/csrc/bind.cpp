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
#include "decoder.h"
#include "weight.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace bobot {

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

using Floats = nb::ndarray<float, nb::c_contig, nb::device::cpu>;
using Numbers = nb::ndarray<const std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// The layer stack of a model and its cache. Keeps the Python objects that own the memory alive.
class Decoder {
public:
    Decoder(std::size_t num_heads, std::size_t num_kv_heads, std::size_t head_dim, double eps,
            double scale, std::size_t window, const Floats& norm, int num_threads,
            const std::string& isa)
        : kernels_(kernels_of(isa)) {
        plan_.num_heads = num_heads;
        plan_.num_kv_heads = num_kv_heads;
        plan_.head_dim = head_dim;
        plan_.eps = static_cast<float>(eps);
        plan_.scale = static_cast<float>(scale);
        plan_.window = window;
        plan_.hidden_size = norm.size();
        plan_.intermediate_size = 0;
        plan_.norm = norm.data();
        plan_.num_threads = num_threads;
        require(num_kv_heads >= 1 && num_heads % num_kv_heads == 0 && head_dim % 2 == 0 &&
                    num_threads >= 1,
                "heads or threads do not fit together");
        norms_.push_back(norm);
    }

    // `weights` are (format, values, scales, rows_per_scale, values_per_scale) of q, k, v, o, gate,
    // up and down.
    void add_layer(const Floats& attention_norm, const Floats& mlp_norm, const nb::list& weights,
                   const Floats& keys, const Floats& values) {
        require(nb::len(weights) == 7, "a layer has seven matrices");
        DecoderLayer layer{};
        layer.attention_norm = attention_norm.data();
        layer.mlp_norm = mlp_norm.data();
        PackedRows* places[] = {&layer.q,    &layer.k,  &layer.v,   &layer.o,
                                &layer.gate, &layer.up, &layer.down};
        for (std::size_t i = 0; i < 7; ++i) *places[i] = matrix(nb::cast<nb::tuple>(weights[i]));
        const std::size_t d = plan_.hidden_size, q = plan_.num_heads * plan_.head_dim,
                          kv = plan_.num_kv_heads * plan_.head_dim, f = layer.gate.num_rows;
        require(has_shape(layer.q, q, d) && has_shape(layer.k, kv, d) &&
                    has_shape(layer.v, kv, d) && has_shape(layer.o, d, q) &&
                    has_shape(layer.gate, f, d) && has_shape(layer.up, f, d) &&
                    has_shape(layer.down, d, f) && attention_norm.size() == d &&
                    mlp_norm.size() == d,
                "the matrices of a layer do not fit together");
        require(plan_.layers.empty() || f == plan_.intermediate_size, "layers differ in width");
        require(keys.size() == values.size() && keys.size() % kv == 0,
                "the cache does not fit the heads");
        num_slots_ = keys.size() / kv;
        plan_.intermediate_size = f;
        layer.keys = keys.data();
        layer.values = values.data();
        plan_.layers.push_back(layer);
        for (const Floats& array : {attention_norm, mlp_norm, keys, values}) norms_.push_back(array);
        owners_.append(weights);
    }

    void step(const Matrix<float>& x, const Matrix<const float>& cos,
              const Matrix<const float>& sin, const Numbers& key_slots, const Numbers& first_keys,
              const Numbers& lengths) const {
        const std::size_t rows = x.shape(0), half = plan_.head_dim / 2;
        require(x.shape(1) == plan_.hidden_size && cos.shape(0) == rows && sin.shape(0) == rows &&
                    cos.shape(1) == half && sin.shape(1) == half && first_keys.size() == rows &&
                    lengths.size() == rows,
                "the arrays of a step do not fit together");
        for (std::size_t m = 0; m < rows; ++m)
            require(first_keys.data()[m] >= 0 && lengths.data()[m] >= 1 &&
                        static_cast<std::size_t>(first_keys.data()[m] + lengths.data()[m]) <=
                            key_slots.size(),
                    "a row's keys lie outside key_slots");
        for (std::size_t i = 0; i < key_slots.size(); ++i)
            require(key_slots.data()[i] >= 0 &&
                        static_cast<std::size_t>(key_slots.data()[i]) < num_slots_,
                    "a slot lies outside the cache");
        const DecoderStep step{rows,       x.data(), cos.data(), sin.data(), key_slots.data(),
                               first_keys.data(), lengths.data()};
        nb::gil_scoped_release unlocked;
        kernels_.decode(plan_, step);
    }

private:
    PackedRows matrix(const nb::tuple& parts) const {
        require(nb::len(parts) == 5, "a matrix has five parts");
        return weight_of(format_of(kernels_, nb::cast<std::string>(parts[0])),
                         nb::cast<Matrix<const std::uint8_t>>(parts[1]),
                         nb::cast<std::optional<AnyMatrix>>(parts[2]),
                         nb::cast<std::size_t>(parts[3]), nb::cast<std::size_t>(parts[4]));
    }
    static bool has_shape(const PackedRows& weight, std::size_t rows, std::size_t columns) {
        return weight.num_rows == rows && weight.num_columns == columns;
    }

    const Kernels& kernels_;
    DecoderPlan plan_;
    std::vector<Floats> norms_;
    nb::list owners_;
    std::size_t num_slots_ = 0;
};

nb::dict features() {
    const CpuFeatures& cpu = cpu_features();
    nb::dict found;
    found["avx512vnni"] = cpu.avx512vnni;
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
    nb::class_<bobot::Decoder>(m, "Decoder")
        .def(nb::init<std::size_t, std::size_t, std::size_t, double, double, std::size_t,
                      const bobot::Floats&, int, const std::string&>(),
             "num_heads"_a, "num_kv_heads"_a, "head_dim"_a, "eps"_a, "scale"_a, "window"_a,
             "norm"_a.noconvert(), "num_threads"_a, "isa"_a)
        .def("add_layer", &bobot::Decoder::add_layer, "attention_norm"_a.noconvert(),
             "mlp_norm"_a.noconvert(), "weights"_a, "keys"_a.noconvert(), "values"_a.noconvert())
        .def("step", &bobot::Decoder::step, "x"_a.noconvert(), "cos"_a.noconvert(),
             "sin"_a.noconvert(), "key_slots"_a.noconvert(), "first_keys"_a.noconvert(),
             "lengths"_a.noconvert());
    m.def("linear_columns", &bobot::linear_columns, "x"_a.noconvert(), "values"_a.noconvert(),
          "scales"_a.noconvert(), "out"_a.noconvert(), "num_threads"_a, "isa"_a);
    bobot::bind_attention(m);
}
