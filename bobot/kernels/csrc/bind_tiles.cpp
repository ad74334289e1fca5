// The Python face of tiles.h: packing rows into tiles, and multiplying by them.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <cstdlib>
#include <cstring>
#include <new>
#include <string>

#include "tiles.h"
#include "weight.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace bobot {
namespace {

using Bytes = nb::ndarray<std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using ConstBytes = nb::ndarray<const std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Numbers = nb::ndarray<const std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

std::size_t tiles_bytes(const std::string& format, const std::string& scales, std::size_t num_rows,
                        std::size_t num_columns, std::size_t group) {
    return tiles_of(format, scales, num_rows, num_columns, group).num_bytes;
}

void pack(const std::string& format, const std::string& scale_kind, std::size_t num_rows,
          std::size_t num_columns, std::size_t group, const Matrix<const std::uint8_t>& values,
          const std::optional<AnyMatrix>& scales, const Bytes& out, int num_threads) {
    const Tiles w = tiles_of(format, scale_kind, num_rows, num_columns, group);
    const Format& rows = format_of(kPortable, format);
    require(values.shape(0) == num_rows, "values do not have one row for each of the weight");
    require(values.shape(1) * rows.block_values == num_columns * rows.block_bytes,
            "values do not have the bytes of " + std::to_string(num_columns) + " inputs a row");
    require(rows.has_scales == scales.has_value(),
            format + (rows.has_scales ? " needs scales" : " has no scales of its own"));
    std::size_t scales_row_bytes = 0;
    if (scales) {
        scales_row_bytes = scales->shape(1) * scales->itemsize();
        require(scales->shape(0) == w.num_rows && scales->shape(1) == w.scales_per_panel &&
                    scales->itemsize() == scale_bytes(w.scale_kind),
                "scales do not have one number for each group of a row");
    }
    require(out.size() == w.num_bytes, "out has " + std::to_string(out.size()) + " bytes, not " +
                                           std::to_string(w.num_bytes));
    require(num_threads >= 1, "num_threads is below 1");
    const auto* scale_data = scales ? static_cast<const std::uint8_t*>(scales->data()) : nullptr;
    std::uint8_t* data = out.data();
    nb::gil_scoped_release unlocked;
    std::memset(data, 0, w.num_bytes);
    in_parallel(w.num_panels, num_threads, [&](std::size_t first, std::size_t end) {
        pack_tiles(w, values.data(), values.shape(1), scale_data, scales_row_bytes, first, end,
                   data);
    });
}

// Memory at a multiple of 64 bytes, given back at the end.
struct Scratch {
    explicit Scratch(std::size_t bytes)
        : data(static_cast<std::uint8_t*>(std::aligned_alloc(64, aligned(bytes + 1)))) {
        if (!data) throw std::bad_alloc();
    }
    ~Scratch() { std::free(data); }
    Scratch(const Scratch&) = delete;
    std::uint8_t* data;
};

// Whether all these floats are bfloat16 numbers.
bool are_bfloats(const float* from, std::size_t count) {
    std::uint32_t lower = 0;
    for (std::size_t i = 0; i < count; ++i) {
        std::uint32_t bits;
        std::memcpy(&bits, from + i, sizeof bits);
        lower |= bits;
    }
    return (lower & 0xffff) == 0;
}

// What codes that are no integers are multiplied with: nothing is lost.
ActivationType float_type(Codes codes, const Kernels& kernels, const float* x, std::size_t count) {
    const bool has_pairs = kernels.has_dot_pairs && cpu_features().avx512bf16;
    const bool are_pairs = codes == Codes::e4m3 || codes == Codes::bfloats;
    return has_pairs && are_pairs && are_bfloats(x, count) ? ActivationType::bfloat16
                                                           : ActivationType::float32;
}

void linear(const std::string& format, const std::string& scales, std::size_t num_rows_of_weight,
            std::size_t num_columns, std::size_t group, const ConstBytes& data,
            const Matrix<const float>& x, const Matrix<float>& out, const std::string& activations,
            int num_threads, const std::string& isa) {
    const Kernels& kernels = kernels_of(isa);
    ActivationType type = activation_type(activations);
    Tiles w = tiles_of(format, scales, num_rows_of_weight, num_columns, group);
    require(data.size() == w.num_bytes, "the tiles have " + std::to_string(data.size()) +
                                            " bytes, not " + std::to_string(w.num_bytes));
    require(x.shape(1) == w.num_columns && out.shape(1) == w.num_rows,
            "x or out does not fit the weight");
    require(out.shape(0) == x.shape(0), "x and out differ in their rows");
    require(num_threads >= 1, "num_threads is below 1");
    w.data = data.data();
    const float* from = x.data();
    float* to = out.data();
    const std::size_t num_rows = x.shape(0);
    if (num_rows == 0) return;
    nb::gil_scoped_release unlocked;
    std::size_t block_rows = rows_in_block(num_rows, kernels.max_block_rows);
    if (takes_unit(kernels.has_unit, num_rows, kernels.max_block_rows, type)) {
        type = ActivationType::bfloat16;
        block_rows = kUnitRows;
    } else if (is_float(w.format->codes)) {
        type = float_type(w.format->codes, kernels, from, num_rows * w.num_columns);
    }
    Activations ready;
    const std::size_t bytes =
        activations_layout(ready, num_rows, w.num_columns, block_rows, type, nullptr);
    const Scratch memory(bytes);
    activations_layout(ready, num_rows, w.num_columns, block_rows, type, memory.data);
    in_parallel(ready.num_blocks, num_threads, [&](std::size_t first, std::size_t end) {
        kernels.fill_activations(from, ready, first, end);
    });
    in_parallel(w.num_panels, num_threads, [&](std::size_t first, std::size_t end) {
        kernels.multiply_tiles(w, ready, first, end, to + first * kPanel, w.num_rows);
    });
}

// Rows `index` of the weights, in any order, as floats.
void rows(const std::string& format, const std::string& scales, std::size_t num_rows,
          std::size_t num_columns, std::size_t group, const ConstBytes& data, const Numbers& index,
          const Matrix<float>& out, int num_threads, const std::string& isa) {
    const Kernels& kernels = kernels_of(isa);
    Tiles w = tiles_of(format, scales, num_rows, num_columns, group);
    require(data.size() == w.num_bytes, "the tiles have " + std::to_string(data.size()) +
                                            " bytes, not " + std::to_string(w.num_bytes));
    require(out.shape(0) == index.size() && out.shape(1) == num_columns,
            "out does not have one row for each number");
    require(num_threads >= 1, "num_threads is below 1");
    for (std::size_t i = 0; i < index.size(); ++i)
        require(index.data()[i] >= 0 && static_cast<std::size_t>(index.data()[i]) < num_rows,
                "there is no row " + std::to_string(index.data()[i]));
    w.data = data.data();
    float* to = out.data();
    nb::gil_scoped_release unlocked;
    in_parallel(index.size(), num_threads, [&](std::size_t first, std::size_t end) {
        const std::size_t row_bytes = w.num_columns * sizeof(float);
        const Scratch panel(kPanel * row_bytes);
        auto* floats = reinterpret_cast<float*>(panel.data);
        std::size_t unpacked = w.num_panels;
        for (std::size_t i = first; i < end; ++i) {
            const auto row = static_cast<std::size_t>(index.data()[i]);
            if (row / kPanel != unpacked) kernels.unpack_tiles(w, unpacked = row / kPanel, floats);
            std::memcpy(to + i * w.num_columns, floats + row % kPanel * w.num_columns, row_bytes);
        }
    });
}

}  // namespace

void bind_tiles(nb::module_& m) {
    m.def("tiles_bytes", &tiles_bytes, "format"_a, "scales"_a, "num_rows"_a, "num_columns"_a,
          "group"_a);
    m.def("has_tiles",
          [](const std::string& format) { return tile_format(format.c_str()) != nullptr; });
    m.def("pack_tiles", &pack, "format"_a, "scale_kind"_a, "num_rows"_a, "num_columns"_a, "group"_a,
          "values"_a.noconvert(), "scales"_a.noconvert().none(), "out"_a.noconvert(),
          "num_threads"_a);
    m.def("tiles_linear", &linear, "format"_a, "scales"_a, "num_rows"_a, "num_columns"_a, "group"_a,
          "data"_a.noconvert(), "x"_a.noconvert(), "out"_a.noconvert(), "activations"_a,
          "num_threads"_a, "isa"_a);
    m.def("tiles_rows", &rows, "format"_a, "scales"_a, "num_rows"_a, "num_columns"_a, "group"_a,
          "data"_a.noconvert(), "index"_a.noconvert(), "out"_a.noconvert(), "num_threads"_a,
          "isa"_a);
}

}  // namespace bobot
