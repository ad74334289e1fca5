// The products of attention_tiles.h by a matrix unit (amx_unit.h): queries and weights are its left
// factors, 16 rows of 32 bfloat16 numbers, and packed keys and values, rows of pairs, already lie
// as it wants the right ones. Sums of a product are float32.
//
// Up to 32 rows by 32 columns are multiplied at once, two by two registers of sums. Those of
// weights and values go through memory: what is there so far must be multiplied by another factor
// in each row, which the unit can't.
//
// No machine with AMX was at hand: sizes are reasoned, not measured. A block of 32 rows and 64 keys
// of 128 numbers takes the unit 1024 cycles for both products, and the vectors about 1500 for
// weights and factors, while the unit is at work.
#pragma once

#include "attention_tiles.h"
#include "matrix_unit.h"

namespace bobot {
namespace {

template <class Simd, class Unit>
class UnitProducts {
public:
    static constexpr bool kPairs = true;
    static constexpr std::size_t kRows = 32, kRowTile = 16, kStep = 16;

    void score(const float* q, std::size_t q_stride, std::size_t num_rows, const float* keys,
               std::size_t depth, std::size_t columns, float* scores) {
        for (std::size_t n = 0; n < columns; n += 32)
            with_sizes(num_rows, columns - n, [&](auto row_tiles, auto column_tiles) {
                multiply<row_tiles.number, column_tiles.number>(
                    q, q_stride, keys + n, kTileKeys, depth, scores + n, kTileKeys);
            });
    }
    void mix(const float* weights, std::size_t num_rows, const float* values, std::size_t depth,
             std::size_t v, const float* factors, float* sums) {
        alignas(64) float products[kRows * 32];
        for (std::size_t n = 0; n < v; n += 32)
            with_sizes(num_rows, v - n, [&](auto row_tiles, auto column_tiles) {
                constexpr std::size_t kColumns = 16 * column_tiles.number;
                multiply<row_tiles.number, column_tiles.number>(weights, kTileKeys, values + n, v,
                                                                depth, products, 32);
                for (std::size_t r = 0; r < num_rows; ++r)
                    for (std::size_t i = 0; i < kColumns; i += Simd::width) {
                        float* to = sums + r * v + n + i;
                        const auto factor = broadcast<Simd>(factors[r]);
                        store<Simd>(to, Simd::fma(factor, Simd::load(to),
                                                  Simd::load(products + r * 32 + i)));
                    }
            });
    }

private:
    // Calls use() with one or two tiles of rows and of columns.
    template <class Use>
    static void with_sizes(std::size_t num_rows, std::size_t num_columns, Use use) {
        if (num_rows > 16)
            num_columns > 16 ? use(Register<2>{}, Register<2>{})
                             : use(Register<2>{}, Register<1>{});
        else
            num_columns > 16 ? use(Register<1>{}, Register<2>{})
                             : use(Register<1>{}, Register<1>{});
    }
    // c (tiles) = a (rows of `depth` pairs) . b (depth, columns of pairs); strides in lanes.
    template <std::size_t kRowTiles, std::size_t kColumnTiles>
    void multiply(const float* a, std::size_t a_stride, const float* b, std::size_t b_stride,
                  std::size_t depth, float* c, std::size_t c_stride) {
        const std::size_t a_row = a_stride * sizeof *a, b_row = b_stride * sizeof *b;
        zero_sums<Unit, kRowTiles, kColumnTiles>(unit_);
        add_products<Unit, kRowTiles, kColumnTiles>(unit_, {a, a_row, 64, 16 * a_row},
                                                    {b, b_row, kStep * b_row, 64},
                                                    (depth + kStep - 1) / kStep);
        store_sums<Unit, kRowTiles, kColumnTiles>(unit_, c, c_stride);
    }

    Unit unit_;
};

}  // namespace
}  // namespace bobot
