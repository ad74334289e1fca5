// Tiles (tiles.h) as they are multiplied, written once over a `Simd` type. Lanes are outputs.
//
// Codes are unpacked to bytes: a register of "quads" has four inputs of `width` outputs in lanes of
// 32 bits. Two masks make two of them from a vector of 4-bit codes, whose lanes hold eight inputs:
// 0, 4, 1, 5 and 2, 6, 3, 7, the order of 8-bit activations too. For wider activations a quad is
// two "pairs" of 16-bit integers: inputs 0 and 1 in its even bytes, 4 and 5 in the odd ones.
//
//     Ints, Table, quad_table        16 bytes to look up codes in
//     quads_of_codes, look_up_quads  two registers of quads from a vector of 4-bit codes
//     quads_of_bytes                 one from two rows of pairs of 8-bit codes
//     add_upper_bits                 quads of 4 bits become quads of 5 or 6
//     even_pairs, odd_pairs          the pairs of quads
#pragma once

#include "tile_scales.h"

namespace bobot {
namespace {

// How a panel is unpacked; all of it is known when it is compiled.
template <Codes kCodesOf, bool kHasMinimaOf, bool kIsLookedUpOf, bool kIsSignedOf>
struct Unpacking {
    static constexpr Codes kCodes = kCodesOf;
    static constexpr bool kHasMinima = kHasMinimaOf;
    // Codes of 4 bits are not what they stand for.
    static constexpr bool kIsLookedUp = kIsLookedUpOf;
    // Quads hold signed values without their offset, else unsigned ones that it is still in.
    static constexpr bool kIsSigned = kIsSignedOf;
    static constexpr std::size_t kGroups = kCodes == Codes::six_bits ? 2 : 1;
    static constexpr std::size_t kBytes = code_bytes(kCodes);
};

// What unsigned quads are too large by: 8-bit codes become unsigned too.
inline std::int32_t offset_of_quads(const TileFormat& format) {
    return format.codes == Codes::bytes ? 128 : format.offset;
}

inline int largest_entry(const TileFormat& format) {
    int largest = 0;
    for (int entry : format.table) largest = entry > largest ? entry : largest;
    return largest;
}

// Whether codes of 4 bits are what they stand for, but for the offset.
inline bool is_linear(const TileFormat& format) {
    for (int i = 0; i < 16; ++i)
        if (format.table[i] != i) return false;
    return true;
}

// One tile for `width` outputs.
template <class Simd, std::size_t kGroups>
struct UnpackedTile {
    typename Simd::Ints quads[8];
    typename Simd::Vector scales[kGroups];
    typename Simd::Vector minimum;
};

// Unpacks a panel tile by tile, for lanes from `lane` on.
template <class Simd, class Form>
class TileReader {
public:
    TileReader() = default;
    TileReader(const Tiles& w, std::size_t panel, std::size_t lane)
        : codes_(w.data + panel * w.num_tiles * Form::kBytes), lane_(lane),
          table_(Simd::quad_table(w.format->table, Form::kIsSigned ? w.format->offset : 0)),
          scales_(w, panel, lane) {}

    __attribute__((always_inline)) inline void next(UnpackedTile<Simd, Form::kGroups>& tile) {
        unpack(tile.quads);
        for (auto& scale : tile.scales) scale = scales_.next();
        if constexpr (Form::kHasMinima) tile.minimum = scales_.minimum();
        codes_ += Form::kBytes;
    }

    const std::uint8_t* codes() const { return codes_; }

private:
    __attribute__((always_inline)) inline void unpack(typename Simd::Ints* quads) const {
        if constexpr (Form::kCodes == Codes::bytes) {
#pragma GCC unroll 8
            for (std::size_t q = 0; q < 8; ++q)
                quads[q] = Simd::template quads_of_bytes<Form::kIsSigned>(
                    codes_ + 32 * (4 * (q / 2) + q % 2) + 2 * lane_);
            return;
        }
        const std::uint8_t* codes = codes_ + 4 * lane_;
#pragma GCC unroll 4
        for (std::size_t v = 0; v < 4; ++v) Simd::quads_of_codes(codes + 64 * v, quads + 2 * v);
#pragma GCC unroll 8
        for (std::size_t q = 0; q < 8; ++q) {
            if constexpr (Form::kIsLookedUp) quads[q] = Simd::look_up_quads(table_, quads[q]);
            // Where the upper bits of the inputs in the even bytes are; behind them the others.
            const int v = static_cast<int>(q / 2), odd = static_cast<int>(q % 2);
            if constexpr (Form::kCodes == Codes::five_bits) {
                const auto upper = Simd::load_ints(codes + 256);
                const int at = 4 * v + odd;
                quads[q] = Simd::add_upper_bits(quads[q], upper, at, at + 2, 0x10);
            }
            if constexpr (Form::kCodes == Codes::six_bits) {
                const auto upper = Simd::load_ints(codes + 256 + 64 * (v / 2));
                const int at = 8 * (v % 2) + 2 * odd;
                quads[q] = Simd::add_upper_bits(quads[q], upper, at, at + 4, 0x30);
            }
        }
    }

    const std::uint8_t* codes_ = nullptr;
    std::size_t lane_ = 0;
    typename Simd::Table table_;
    ScaleReader<Simd> scales_;
};

// The 32 bits of a pair of 16-bit activations, or of a quad of 8-bit ones.
inline std::int32_t lane_of(const void* from) {
    return load<std::int32_t>(static_cast<const std::uint8_t*>(from));
}

// Inputs 2i and 2i + 1 of a tile.
template <class Simd>
__attribute__((always_inline)) inline typename Simd::Ints pair_of(const typename Simd::Ints* quads,
                                                                  std::size_t i) {
    const auto quad = quads[2 * (i / 4) + i % 2];
    return i % 4 < 2 ? Simd::even_pairs(quad) : Simd::odd_pairs(quad);
}

}  // namespace
}  // namespace bobot
