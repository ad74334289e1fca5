// The tile products of AMX: 16x32 by 32x16 bfloat16, or 16x64 by 64x16 int8, in one instruction.
#include "amx_unit.h"
#include "limits.h"

namespace bobot {
namespace {

// Registers 0 to 3 hold sums, 4 and 5 the left factors, 6 and 7 the right ones. Four products hide
// the latency of each: 52 cycles, one starts every 16.
void load_factors(AmxUnit& unit, const void* factors) {
    const auto* from = static_cast<const std::uint8_t*>(factors);
    unit.zero<0>();
    unit.zero<1>();
    unit.zero<2>();
    unit.zero<3>();
    unit.load<4>(from, 64);
    unit.load<5>(from + 1024, 64);
    unit.load<6>(from + 2048, 64);
    unit.load<7>(from + 3072, 64);
}

template <class Sum>
float last_sum(AmxUnit& unit) {
    alignas(64) Sum sums[16 * 16];
    unit.store<3>(sums, 64);
    return static_cast<float>(sums[0]);
}

float bf16(std::size_t num_rounds, const LoopData& data) {
    AmxUnit unit;
    load_factors(unit, data.bfloats);
    for (std::size_t round = 0; round < num_rounds; ++round) {
        unit.dot_bfloats<0, 4, 6>();
        unit.dot_bfloats<1, 4, 7>();
        unit.dot_bfloats<2, 5, 6>();
        unit.dot_bfloats<3, 5, 7>();
    }
    return last_sum<float>(unit);
}

float int8(std::size_t num_rounds, const LoopData& data) {
    AmxUnit unit;
    load_factors(unit, data.bytes);
    for (std::size_t round = 0; round < num_rounds; ++round) {
        unit.dot_bytes<0, 4, 6>();
        unit.dot_bytes<1, 4, 7>();
        unit.dot_bytes<2, 5, 6>();
        unit.dot_bytes<3, 5, 7>();
    }
    return last_sum<std::int32_t>(unit);
}

}  // namespace

const OperationLoop kAmxBf16 = {"amx_bf16", 4 * 2.0 * 16 * 16 * 32, bf16};
const OperationLoop kAmxInt8 = {"amx_int8", 4 * 2.0 * 16 * 16 * 64, int8};

}  // namespace bobot
