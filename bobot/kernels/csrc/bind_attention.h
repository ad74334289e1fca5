// The Python face of attention, beside that of the other kernels (bind.cpp).
#pragma once

#include <nanobind/nanobind.h>

namespace bobot {

void bind_attention(nanobind::module_& m);

}  // namespace bobot
