// The Python face of sampler.h.
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <vector>

#include "sampler.h"
#include "weight.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace bobot {
namespace {

using Row = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

std::int64_t sample_row(const Row& logits, double temperature, std::size_t top_k, double top_p,
                        double min_p, std::int64_t key, const std::string& isa) {
    const Kernels& kernels = kernels_of(isa);
    require(logits.size() >= 1 && logits.size() <= UINT32_MAX, "a row has at least one logit");
    const auto divisor = static_cast<float>(temperature);
    require(divisor > 0 && top_p >= 0 && min_p >= 0,
            "temperature is above 0, top_p and min_p are not below");
    const SamplingRules rules{divisor, top_k, top_p, min_p, static_cast<std::uint64_t>(key)};
    nb::gil_scoped_release unlocked;
    return sample(kernels, logits.data(), logits.size(), rules);
}

std::vector<std::int64_t> best_of_rows(const Matrix<const float>& logits, const std::string& isa) {
    const Kernels& kernels = kernels_of(isa);
    require(logits.shape(1) >= 1, "a row has at least one logit");
    std::vector<std::int64_t> ids(logits.shape(0));
    for (std::size_t r = 0; r < ids.size(); ++r)
        ids[r] = best(kernels, logits.data() + r * logits.shape(1), logits.shape(1));
    return ids;
}

}  // namespace

void bind_sampler(nb::module_& m) {
    m.def("sample", &sample_row, "logits"_a.noconvert(), "temperature"_a, "top_k"_a, "top_p"_a,
          "min_p"_a, "key"_a, "isa"_a);
    m.def("best", &best_of_rows, "logits"_a.noconvert(), "isa"_a);
}

}  // namespace bobot
