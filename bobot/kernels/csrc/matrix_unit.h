// A `Simd` type (packed_loops.h) with a matrix unit (amx_unit.h) beside it, for code that is
// written over both.
#pragma once

#include <cstddef>

namespace bobot {
namespace {

template <class Vectors, class MatrixUnit>
struct WithUnit : Vectors {};

// What there is beside a Simd type: nothing,
template <class Simd>
struct UnitOf {
    static constexpr bool kExists = false;
    using Vectors = Simd;
};

// or a unit, in whose place its vectors do what is not for it.
template <class Vectors_, class MatrixUnit>
struct UnitOf<WithUnit<Vectors_, MatrixUnit>> {
    static constexpr bool kExists = true;
    using Vectors = Vectors_;
    using Unit = MatrixUnit;
};

// A block of sums has 16 or 32 rows and 16 or 32 columns: those of row tile r and column tile c are
// in register 2r + c.
template <int kRegister>
struct Register {
    static constexpr int number = kRegister;
};

template <std::size_t kRowTiles, std::size_t kColumnTiles, class Use>
__attribute__((always_inline)) inline void for_each_sum(Use use) {
    use(Register<0>{});
    if constexpr (kColumnTiles == 2) use(Register<1>{});
    if constexpr (kRowTiles == 2) use(Register<2>{});
    if constexpr (kRowTiles == 2 && kColumnTiles == 2) use(Register<3>{});
}

// Where the tiles of a factor lie: 16 rows of 64 bytes each, those of the next 32 inputs and, of a
// second row or column tile, the others `step` and `second` bytes further.
struct UnitFactor {
    const void* data;
    std::size_t row, step, second;

    const char* tile(std::size_t input, std::size_t number) const {
        return static_cast<const char*>(data) + input * step + number * second;
    }
};

// The block of sums += left . right over 32 * num_steps inputs.
template <class Unit, std::size_t kRowTiles, std::size_t kColumnTiles>
__attribute__((always_inline)) inline void add_products(Unit& unit, const UnitFactor& left,
                                                        const UnitFactor& right,
                                                        std::size_t num_steps) {
    for (std::size_t t = 0; t < num_steps; ++t) {
        unit.template load<6>(right.tile(t, 0), right.row);
        unit.template load<4>(left.tile(t, 0), left.row);
        unit.template dot_bfloats<0, 4, 6>();
        if constexpr (kColumnTiles == 2) {
            unit.template load<7>(right.tile(t, 1), right.row);
            unit.template dot_bfloats<1, 4, 7>();
        }
        if constexpr (kRowTiles == 2) {
            unit.template load<5>(left.tile(t, 1), left.row);
            unit.template dot_bfloats<2, 5, 6>();
            if constexpr (kColumnTiles == 2) unit.template dot_bfloats<3, 5, 7>();
        }
    }
}

template <class Unit, std::size_t kRowTiles, std::size_t kColumnTiles>
void zero_sums(Unit& unit) {
    for_each_sum<kRowTiles, kColumnTiles>(
        [&](auto sum) { unit.template zero<decltype(sum)::number>(); });
}

// As a matrix of floats, its rows `stride` apart.
template <class Unit, std::size_t kRowTiles, std::size_t kColumnTiles>
void store_sums(Unit& unit, float* to, std::size_t stride) {
    for_each_sum<kRowTiles, kColumnTiles>([&](auto sum) {
        constexpr int kSum = decltype(sum)::number;
        unit.template store<kSum>(to + kSum / 2 * 16 * stride + kSum % 2 * 16,
                                  stride * sizeof *to);
    });
}

}  // namespace
}  // namespace bobot
