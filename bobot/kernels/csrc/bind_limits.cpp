// The Python face of limits.h: names of operations, and how many of them or of bytes a second.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "limits.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace bobot {
namespace {

std::vector<std::string> operations() {
    const UsableLoops usable = usable_loops();
    std::vector<std::string> names;
    for (std::size_t i = 0; i < usable.count; ++i) names.emplace_back(usable.loops[i]->name);
    return names;
}

double measure_operations(const std::string& name, int num_threads) {
    if (num_threads < 1) throw std::invalid_argument("num_threads is below 1");
    const UsableLoops usable = usable_loops();
    for (std::size_t i = 0; i < usable.count; ++i)
        if (name == usable.loops[i]->name) {
            nb::gil_scoped_release unlocked;
            return operations_per_s(*usable.loops[i], num_threads);
        }
    throw std::invalid_argument("this machine has no operation " + name);
}

double measure_reading(std::size_t num_bytes, int num_threads) {
    if (num_threads < 1) throw std::invalid_argument("num_threads is below 1");
    if (num_bytes >> 22 < static_cast<std::size_t>(num_threads))
        throw std::invalid_argument("num_bytes is below 4 MiB for each thread");
    nb::gil_scoped_release unlocked;
    return read_bytes_per_s(num_bytes, num_threads);
}

}  // namespace

void bind_limits(nb::module_& m) {
    m.def("operations", &operations);
    m.def("operations_per_s", &measure_operations, "name"_a, "num_threads"_a);
    m.def("read_bytes_per_s", &measure_reading, "num_bytes"_a, "num_threads"_a);
}

}  // namespace bobot
