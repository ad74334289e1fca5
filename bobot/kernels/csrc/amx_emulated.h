// The unit of amx_unit.h in plain C++, for tests on machines without AMX. It does what the
// operation sections of TILELOADD, TILESTORED and TDPBF16PS say (Intel SDM volume 2): even and odd
// inputs are summed apart, in float32 with one rounding for each product, and denormal numbers are
// 0 wherever they appear. Not here: faults, which a wrong configuration would raise.
#pragma once

#include <cstring>

#include "amx_unit.h"
#include "packed_formats.h"

namespace bobot {
namespace {

class EmulatedAmxUnit {
public:
    EmulatedAmxUnit() = default;
    EmulatedAmxUnit(const EmulatedAmxUnit&) = delete;

    template <int kRegister>
    void zero() {
        std::memset(registers_[kRegister], 0, sizeof registers_[kRegister]);
    }
    template <int kRegister>
    void load(const void* from, std::size_t stride) {
        zero<kRegister>();
        for (std::size_t m = 0; m < config_.num_rows[kRegister]; ++m)
            std::memcpy(registers_[kRegister][m], static_cast<const char*>(from) + m * stride,
                        config_.row_bytes[kRegister]);
    }
    template <int kRegister>
    void store(void* to, std::size_t stride) const {
        for (std::size_t m = 0; m < config_.num_rows[kRegister]; ++m)
            std::memcpy(static_cast<char*>(to) + m * stride, registers_[kRegister][m],
                        config_.row_bytes[kRegister]);
    }
    template <int kSum, int kLeft, int kRight>
    void dot_bfloats() {
        const std::size_t num_pairs = config_.row_bytes[kLeft] / 4;
        const std::size_t num_columns = config_.row_bytes[kSum] / 4;
        for (std::size_t m = 0; m < config_.num_rows[kSum]; ++m) {
            float sums[16], even[16] = {}, odd[16] = {};
            std::memcpy(sums, registers_[kSum][m], sizeof sums);
            for (std::size_t k = 0; k < num_pairs; ++k) {
                const std::uint32_t left = registers_[kLeft][m][k];
                for (std::size_t n = 0; n < num_columns; ++n) {
                    const std::uint32_t right = registers_[kRight][k][n];
                    even[n] = normal(__builtin_fmaf(first(left), first(right), even[n]));
                    odd[n] = normal(__builtin_fmaf(second(left), second(right), odd[n]));
                }
            }
            for (std::size_t n = 0; n < num_columns; ++n)
                sums[n] = normal(normal(sums[n]) + normal(even[n] + odd[n]));
            std::memcpy(registers_[kSum][m], sums, sizeof sums);
        }
    }

private:
    static float normal(float a) {
        const std::uint32_t bits = bits_of(a);
        return float_of(bits & 0x7f800000u ? bits : bits & 0x80000000u);
    }
    static float first(std::uint32_t pair) { return normal(float_of(pair << 16)); }
    static float second(std::uint32_t pair) { return normal(float_of(pair & 0xffff0000u)); }

    TileConfig config_;
    std::uint32_t registers_[8][16][16] = {};
};

}  // namespace
}  // namespace bobot
