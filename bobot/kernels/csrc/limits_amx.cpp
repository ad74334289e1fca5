// The tile products of AMX: 16x32 by 32x16 bfloat16, or 16x64 by 64x16 int8, in one instruction.
#include <immintrin.h>

#include "limits.h"

namespace bobot {
namespace {

// What LDTILECFG reads (Intel SDM volume 1, section 18): here eight tiles of 16 rows of 64 bytes.
struct alignas(64) TileConfig {
    std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
    std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    std::uint8_t num_rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfig) == 64, "LDTILECFG reads 64 bytes");

// Tiles 0 to 3 hold sums, 4 and 5 the left factors, 6 and 7 the right ones. Four products hide the
// latency of each: 52 cycles, one starts every 16.
void load_tiles(const void* factors) {
    const TileConfig config;
    // GCC 12's _tile_loadconfig claims to read 8 bytes only, and the others would never be written.
    __asm__ volatile("" : : "r"(&config) : "memory");
    _tile_loadconfig(&config);
    const auto* from = static_cast<const std::uint8_t*>(factors);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_loadd(4, from, 64);
    _tile_loadd(5, from + 1024, 64);
    _tile_loadd(6, from + 2048, 64);
    _tile_loadd(7, from + 3072, 64);
}

template <class Sum>
float last_sum() {
    alignas(64) Sum sums[16 * 16];
    _tile_stored(3, sums, 64);
    __asm__ volatile("" : : "r"(sums) : "memory");
    _tile_release();
    return static_cast<float>(sums[0]);
}

float bf16(std::size_t num_rounds, const LoopData& data) {
    load_tiles(data.bfloats);
    for (std::size_t round = 0; round < num_rounds; ++round) {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    return last_sum<float>();
}

float int8(std::size_t num_rounds, const LoopData& data) {
    load_tiles(data.bytes);
    for (std::size_t round = 0; round < num_rounds; ++round) {
        _tile_dpbssd(0, 4, 6);
        _tile_dpbssd(1, 4, 7);
        _tile_dpbssd(2, 5, 6);
        _tile_dpbssd(3, 5, 7);
    }
    return last_sum<std::int32_t>();
}

}  // namespace

const OperationLoop kAmxBf16 = {"amx_bf16", 4 * 2.0 * 16 * 16 * 32, bf16};
const OperationLoop kAmxInt8 = {"amx_int8", 4 * 2.0 * 16 * 16 * 64, int8};

}  // namespace bobot
