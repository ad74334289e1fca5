// The Python face of the kernels: checks shapes, picks the instruction set that was asked for, shares the
// columns among threads. Arrays come from NumPy or torch through DLPack, without a copy.
//
// Threads are OpenMP's, the runtime torch uses too: called from one thread, both draw on one pool.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <stdexcept>
#include <string>

#include "cpu_features.h"
#include "q8_0.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace bobot {
namespace {

template <class T>
using Matrix = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

const Q8Kernels& q8_kernels(const std::string& isa) {
#if defined(__x86_64__)
    const CpuFeatures cpu = cpu_features();
    if (isa == "avx512" && cpu.avx512) return kQ8Avx512;
    if (isa == "avx2" && cpu.avx2) return kQ8Avx2;
#endif
    if (isa == "portable") return kQ8Portable;
    throw std::invalid_argument("this machine has no kernels for " + isa);
}

void require(bool condition, const std::string& what) {
    if (!condition) throw std::invalid_argument(what);
}

// Blocks in one row of raw bytes.
std::size_t blocks_per_row(const Matrix<const std::uint8_t>& weight) {
    require(weight.shape(1) % sizeof(Q8Block) == 0,
            "a Q8_0 row has a multiple of 34 bytes, not " + std::to_string(weight.shape(1)));
    return weight.shape(1) / sizeof(Q8Block);
}

void dequantize_q8_0(const Matrix<const std::uint8_t>& weight, const Matrix<float>& out,
                     const std::string& isa) {
    const std::size_t num_blocks = blocks_per_row(weight);
    require(out.shape(0) == weight.shape(0) && out.shape(1) == num_blocks * kQ8BlockWeights,
            "out does not have one float for each weight");
    const Q8Kernels& kernels = q8_kernels(isa);
    const auto* blocks = reinterpret_cast<const Q8Block*>(weight.data());
    nb::gil_scoped_release unlocked;
    kernels.dequantize(blocks, weight.shape(0) * num_blocks, out.data());
}

void linear_q8_0(const Matrix<const float>& x, const Matrix<const std::uint8_t>& weight,
                 const Matrix<float>& out, int num_threads, const std::string& isa) {
    const std::size_t num_blocks = blocks_per_row(weight);
    const std::size_t num_rows = x.shape(0), num_columns = weight.shape(0);
    require(x.shape(1) == num_blocks * kQ8BlockWeights, "x and weight differ in their last axis");
    require(out.shape(0) == num_rows && out.shape(1) == num_columns,
            "out is not (rows of x, rows of weight)");
    require(num_threads >= 1, "num_threads is below 1");
    const Q8Kernels& kernels = q8_kernels(isa);
    const auto* blocks = reinterpret_cast<const Q8Block*>(weight.data());
    const float* x_data = x.data();
    float* out_data = out.data();
    nb::gil_scoped_release unlocked;
#pragma omp parallel for num_threads(num_threads) schedule(static)
    for (int part = 0; part < num_threads; ++part) {
        const std::size_t first = num_columns * part / num_threads;
        const std::size_t end = num_columns * (part + 1) / num_threads;
        kernels.linear(x_data, num_rows, blocks, num_blocks, first, end, num_columns, out_data);
    }
}

nb::dict features() {
    const CpuFeatures cpu = cpu_features();
    nb::dict found;
    found["avx512"] = cpu.avx512;
    found["avx2"] = cpu.avx2;
    found["portable"] = true;
    return found;
}

}  // namespace
}  // namespace bobot

NB_MODULE(_native, m) {
    m.def("features", &bobot::features);
    m.def("dequantize_q8_0", &bobot::dequantize_q8_0, "weight"_a.noconvert(), "out"_a.noconvert(),
          "isa"_a);
    m.def("linear_q8_0", &bobot::linear_q8_0, "x"_a.noconvert(), "weight"_a.noconvert(),
          "out"_a.noconvert(), "num_threads"_a, "isa"_a);
}
