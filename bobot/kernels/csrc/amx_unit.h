// The matrix unit of AMX: eight registers of 16 rows of 64 bytes, and products of two of them that
// are added to a third. A unit is configured while an object of it lives, in one thread; register
// numbers are part of the instructions.
//
//     zero<register>()
//     load<register>(from, stride)     rows of 64 bytes that lie `stride` bytes apart
//     store<register>(to, stride)
//     dot_bfloats<sum, left, right>()
//         sum[m][n] += left[m][2k + i] * right[k][2n + i], i = 0 and 1, k < 16
//
// The instructions are written out: they need no flags of the compiler, and their operands say all
// that they read (GCC 12's _tile_loadconfig claims 8 of 64 bytes, its _tile_loadd nothing). Run
// only where cpu_features.h says that this process may.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bobot {

// What LDTILECFG reads (Intel SDM volume 1, section 18): here eight registers of 16 rows of 64
// bytes.
struct alignas(64) TileConfig {
    std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
    std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    std::uint8_t num_rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfig) == 64, "LDTILECFG reads 64 bytes");

namespace {

class AmxUnit {
public:
    AmxUnit() {
        const TileConfig config;
        __asm__ volatile("ldtilecfg %0" : : "m"(config));
    }
    // Registers in use would be saved at every switch between processes.
    ~AmxUnit() { __asm__ volatile("tilerelease"); }
    AmxUnit(const AmxUnit&) = delete;

    template <int kRegister>
    void zero() {
        __asm__ volatile("tilezero %%tmm%c0" : : "i"(kRegister));
    }
    template <int kRegister>
    void load(const void* from, std::size_t stride) {
        __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2"
                         :
                         : "r"(from), "r"(stride), "i"(kRegister)
                         : "memory");
    }
    template <int kRegister>
    void store(void* to, std::size_t stride) {
        __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)"
                         :
                         : "r"(to), "r"(stride), "i"(kRegister)
                         : "memory");
    }
    template <int kSum, int kLeft, int kRight>
    void dot_bfloats() {
        __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0"
                         :
                         : "i"(kSum), "i"(kLeft), "i"(kRight));
    }
    // sum[m][n] += left[m][4k + i] * right[k][4n + i], i < 4, k < 16: signed bytes, 32-bit sums.
    template <int kSum, int kLeft, int kRight>
    void dot_bytes() {
        __asm__ volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0"
                         :
                         : "i"(kSum), "i"(kLeft), "i"(kRight));
    }
};

}  // namespace
}  // namespace bobot
