// A weight as Python hands it over: arrays whose shapes are checked here once, read row by row by
// the kernels of one instruction set. Also the ways in which rows are shared among threads.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <optional>
#include <stdexcept>
#include <string>

#include "cpu_features.h"
#include "packed_rows.h"
#include "tiles.h"

namespace bobot {
namespace {

namespace nb = nanobind;

template <class T>
using Matrix = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using AnyMatrix = nb::ndarray<nb::ro, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

inline const Kernels& kernels_of(const std::string& isa) {
#if defined(__x86_64__)
    const CpuFeatures& cpu = cpu_features();
#if defined(BOBOT_HAS_AMX)
    if (isa == "amx" && cpu.amx) return kAmx;
    if (isa == "amx-emulated" && cpu.avx512bf16) return kAmxEmulated;
#endif
    if (isa == "avx512vnni" && cpu.avx512vnni) return kAvx512;
    if (isa == "avx2" && cpu.avx2) return kAvx2;
#endif
    if (isa == "portable") return kPortable;
    throw std::invalid_argument("this machine has no kernels for " + isa);
}

inline void require(bool condition, const std::string& what) {
    if (!condition) throw std::invalid_argument(what);
}

inline const Format& format_of(const Kernels& kernels, const std::string& name) {
    for (std::size_t i = 0; i < kernels.num_formats; ++i)
        if (name == kernels.formats[i].name) return kernels.formats[i];
    throw std::invalid_argument("there is no kernel for the format " + name);
}

inline ScaleRows scales_of(const AnyMatrix& array, std::size_t rows_per_scale) {
    const nb::dlpack::dtype type = array.dtype();
    const auto code = static_cast<nb::dlpack::dtype_code>(type.code);
    ScaleRows scales;
    scales.data = static_cast<const std::uint8_t*>(array.data());
    scales.per_row = array.shape(1);
    scales.rows_per_scale = rows_per_scale;
    if (type == nb::dtype<std::uint8_t>())
        scales.kind = ScaleRows::Kind::e8m0;
    else if (type == nb::dtype<float>())
        scales.kind = ScaleRows::Kind::float32;
    else if (code == nb::dlpack::dtype_code::Bfloat && type.bits == 16)
        scales.kind = ScaleRows::Kind::bfloat16;
    else
        throw std::invalid_argument("scales are uint8 (E8M0), bfloat16 or float32");
    return scales;
}

inline PackedRows weight_of(const Format& format, const Matrix<const std::uint8_t>& values,
                     const std::optional<AnyMatrix>& scales, std::size_t rows_per_scale,
                     std::size_t values_per_scale) {
    const std::string name = format.name;
    PackedRows weight{};
    weight.format = &format;
    weight.values = values.data();
    weight.row_bytes = values.shape(1);
    weight.num_rows = values.shape(0);
    weight.values_per_scale = values_per_scale;
    require(weight.row_bytes % format.block_bytes == 0,
            "a row of " + name + " has a multiple of " + std::to_string(format.block_bytes) +
                " bytes, not " + std::to_string(weight.row_bytes));
    weight.num_columns = weight.row_bytes / format.block_bytes * format.block_values;
    require(scales.has_value() == format.has_scales,
            name + (format.has_scales ? " needs scales" : " has no scales of its own"));
    if (!scales) return weight;
    require(rows_per_scale >= 1 && values_per_scale >= 1,
            "a scale is for at least one row and one value");
    require(scales->shape(0) == (weight.num_rows + rows_per_scale - 1) / rows_per_scale &&
                scales->shape(1) == (weight.num_columns + values_per_scale - 1) / values_per_scale,
            "scales do not have one number for each block of the weight");
    weight.scales = scales_of(*scales, rows_per_scale);
    require((weight.scales.kind == ScaleRows::Kind::e8m0) == (name == "mxfp4"),
            "scales of mxfp4 are uint8, those of other formats are floating");
    return weight;
}

inline Scales scales_named(const std::string& dtype) {
    if (dtype == "float16") return Scales::float16;
    if (dtype == "bfloat16") return Scales::bfloat16;
    if (dtype == "float32") return Scales::float32;
    if (dtype == "uint8") return Scales::e8m0;
    throw std::invalid_argument("scales are float16, bfloat16, float32 or uint8 (E8M0), not " +
                                dtype);
}

inline ActivationType activation_type(const std::string& name) {
    if (name == "float32") return ActivationType::float32;
    if (name == "int16") return ActivationType::int16;
    if (name == "int8") return ActivationType::int8;
    throw std::invalid_argument("activations are float32, int16 or int8, not " + name);
}

// Tiles without their data. `scales` names the dtype of scales that lie apart; empty for formats
// that hold them.
inline Tiles tiles_of(const std::string& name, const std::string& scales, std::size_t num_rows,
                      std::size_t num_columns, std::size_t group) {
    const TileFormat* format = tile_format(name.c_str());
    require(format != nullptr, "there are no tiles of the format " + name);
    const Scales kind = scales.empty() ? format->scales : scales_named(scales);
    const bool is_apart = format->scales != Scales::float16 && format->scales != Scales::none;
    require((kind == Scales::e8m0) == (format->scales == Scales::e8m0) &&
                (scales.empty() || is_apart),
            "scales of " + name + " do not have that dtype");
    const std::size_t unit = format->steps != Steps::none ? kSuperBlock : kTile;
    require(num_rows >= 1 && num_columns >= 1 && num_columns % unit == 0,
            "a row of " + name + " has a multiple of " + std::to_string(unit) + " inputs, not " +
                std::to_string(num_columns));
    require(format->group || (group >= kTile && group % kTile == 0 && num_columns % group == 0),
            "a scale of " + name + " is for a multiple of 32 inputs that divides a row, not for " +
                std::to_string(group));
    return tiles_layout(*format, kind, num_rows, num_columns, group);
}

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
