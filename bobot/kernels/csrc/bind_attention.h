// The Python face of attention, beside that of the other kernels (bind.cpp).
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include "attention.h"

namespace bobot {

// The type of an array's numbers. TypeError for one that attention does not take.
template <class Array>
Number number_of(const Array& array) {
    namespace nb = nanobind;
    const nb::dlpack::dtype type = array.dtype();
    const auto code = static_cast<nb::dlpack::dtype_code>(type.code);
    if (type == nb::dtype<float>()) return Number::float32;
    if (code == nb::dlpack::dtype_code::Bfloat && type.bits == 16) return Number::bfloat16;
    if (code == nb::dlpack::dtype_code::Float && type.bits == 16) return Number::float16;
    throw nb::type_error("attention takes float32, bfloat16 and float16");
}

void bind_attention(nanobind::module_& m);

}  // namespace bobot
