// Packed weights in the order in which they are multiplied: tiles of 16 outputs by 32 inputs.
//
// A matrix has N outputs and K inputs, K a multiple of 32. It is cut into panels of 16 outputs (the
// last one filled up with zeros), and each panel into tiles of 32 inputs. One block of memory holds
//
//     codes      [panel][tile]           256 to 1024 bytes a tile, below
//     scales     [panel][group][16]      as published: float16, bfloat16, float32, E8M0, or none
//     steps      [panel][group][16]      K-quants: 8-bit multiples of the scale, which is then for
//                                        256 inputs
//     minima     [panel][group][16]      as the scales, of formats that have them
//     min_steps  [panel][tile][16]       as the steps
//
// each part at a multiple of 64 bytes. Nothing is rounded on the way: it is the published weight in
// another order, so value = scale * (table[code] - offset) - minimum is the published value.
//
// A tile of 4-bit codes is 4 vectors of 16 lanes of 32 bits, lane n for output n. Vector v holds
// inputs 8v .. 8v+7: the even ones in the low half of the lane, the odd ones in the high half, four
// bits each, first inputs lowest. One shift and two masks then give two vectors of bytes, four
// inputs of an output in each lane, which is what instructions for dot products take
// (tile_quads.h). Codes of 5 and 6 bits have a second part of 64 or 128 bytes with the upper ones.
// A tile of 8-bit codes is 16 rows of 32 bytes, row r with inputs 2r and 2r + 1 of output 0, then
// of output 1, and so on.
//
// Codes that are no integers (tile_floats.h) lie in 16 rows as well, but for those of four bits
// with a table of floats, which lie as other codes of four bits. bfloat16: row r has inputs 2r and
// 2r + 1 of output 0, then of output 1, and so on. float16 and float8_e4m3fn: input 2r of all
// outputs, then input 2r + 1 of all.
//
// Plain data and arithmetic, for code of every instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bobot {

constexpr std::size_t kPanel = 16, kTile = 32, kSuperBlock = 256;
constexpr std::size_t kLargeBytes = 1 << 16;

enum class Codes : std::uint8_t {
    four_bits, five_bits, six_bits, bytes,  // integers
    four_bits_of_floats, e4m3, bfloats, halves,
};
enum class Scales : std::uint8_t { float16, bfloat16, float32, e8m0, none };
enum class Steps : std::uint8_t { none, unsigned_bytes, signed_bytes };
enum class Minima : std::uint8_t { none, added, stepped };  // stored as -minimum; times min_steps

struct TileFormat {
    const char* name;  // of the published format
    Codes codes;
    Scales scales;  // of formats whose scales lie apart, what they were published in decides
    Steps steps;
    Minima minima;
    std::size_t group;  // inputs that share a scale; 0: the weight says, a multiple of 32
    int offset;
    std::uint8_t table[16];
    const float* float_table = nullptr;  // of four_bits_of_floats
};

constexpr bool is_float(Codes codes) { return codes >= Codes::four_bits_of_floats; }

constexpr std::size_t code_bytes(Codes codes) {
    switch (codes) {
        case Codes::four_bits:
        case Codes::four_bits_of_floats: return 256;
        case Codes::five_bits: return 320;
        case Codes::six_bits: return 384;
        case Codes::bytes:
        case Codes::e4m3: return 512;
        case Codes::bfloats:
        case Codes::halves: break;
    }
    return 1024;
}

constexpr std::size_t scale_bytes(Scales scales) {
    if (scales == Scales::none) return 0;
    return scales == Scales::e8m0 ? 1 : scales == Scales::float32 ? 4 : 2;
}

constexpr std::size_t aligned(std::size_t bytes, std::size_t to = 64) {
    return (bytes + to - 1) / to * to;
}

struct Tiles {
    const TileFormat* format;
    Scales scale_kind;
    std::size_t num_rows, num_columns, group;  // group: inputs that share a scale or a step
    std::size_t num_panels, num_tiles;         // tiles of a panel
    std::size_t scales_per_panel, steps_per_panel;
    std::size_t scales_at, steps_at, minima_at, min_steps_at, num_bytes;  // the parts
    const std::uint8_t* data;
};

// Where everything lies. `group`: only of formats that leave it open.
inline Tiles tiles_layout(const TileFormat& format, Scales scale_kind, std::size_t num_rows,
                          std::size_t num_columns, std::size_t group) {
    Tiles w{};
    w.format = &format;
    w.scale_kind = scale_kind;
    w.num_rows = num_rows;
    w.num_columns = num_columns;
    w.group = format.group ? format.group : group;
    w.num_panels = (num_rows + kPanel - 1) / kPanel;
    w.num_tiles = num_columns / kTile;
    const bool is_stepped = format.steps != Steps::none;
    w.scales_per_panel = num_columns / (is_stepped ? kSuperBlock : w.group);
    w.steps_per_panel = is_stepped ? num_columns / w.group : 0;
    const std::size_t scales = w.num_panels * w.scales_per_panel * kPanel * scale_bytes(scale_kind);
    const bool has_minima = format.minima != Minima::none;
    w.scales_at = aligned(w.num_panels * w.num_tiles * code_bytes(format.codes));
    w.steps_at = w.scales_at + aligned(scales);
    w.minima_at = w.steps_at + aligned(w.num_panels * w.steps_per_panel * kPanel);
    w.min_steps_at = w.minima_at + (has_minima ? aligned(scales) : 0);
    const bool has_min_steps = format.minima == Minima::stepped;
    const std::size_t bytes =
        w.min_steps_at + (has_min_steps ? aligned(w.num_panels * w.num_tiles * kPanel) : 0);
    // Matrices of a stack lie behind one another, large ones on pages of their own.
    w.num_bytes = aligned(bytes, bytes < kLargeBytes ? 64 : 4096);
    return w;
}

// nullptr for a format that has no tiles.
const TileFormat* tile_format(const char* name);

// Writes the tiles of panels [first, end) of a weight published as `rows` of `row_bytes` each, with
// the scales of a row at `scales` + row * `scales_row_bytes` where they lie apart, into `data`.
void pack_tiles(const Tiles& w, const std::uint8_t* rows, std::size_t row_bytes,
                const std::uint8_t* scales, std::size_t scales_row_bytes, std::size_t first,
                std::size_t end, std::uint8_t* data);

// What activations are multiplied as: floats, or integers with one scale per row and 32 inputs.
// Those of 16 bits are finer than bfloat16; those of 8 bits are as coarse as Q8_0, and twice as
// fast. Codes that are no integers take floats, or bfloat16 where activations are no more than
// that. All but floats are rounded to bfloat16 for a matrix unit (amx_loops.h).
enum class ActivationType : std::uint8_t { float32, int16, int8, bfloat16 };

constexpr std::size_t activation_bytes(ActivationType type) {
    return type == ActivationType::float32 ? 4 : type == ActivationType::int8 ? 1 : 2;
}

// The order of every 8 inputs of 8-bit activations: that in which codes are unpacked to bytes.
constexpr std::size_t kQuadOrder[8] = {0, 4, 1, 5, 2, 6, 3, 7};

// Activations in the order in which the kernels read them: blocks of `block_rows` rows (the last
// one filled up with zeros), tile by tile.
struct Activations {
    std::size_t num_rows, num_columns, block_rows, num_blocks;
    ActivationType type;
    float* values;         // [block][tile][row][32]        floats only
    std::uint16_t* bfloats;  // [block][tile][row][32]      bfloat16 only
    std::int16_t* codes;   // [block][tile][row][32]        16-bit integers only
    std::int8_t* bytes;    // [block][tile][row][32]        8 bits only, in kQuadOrder
    float* scales;         // [block][tile][row]            integers only
    std::int32_t* sums;    // [block][tile][2][row]         integers only: of 16 codes each
    float* totals;         // [block][tile][row]            the sum of 32 activations
};

// Where a product goes: that of row m and output n.
struct Outputs {
    float* data;
    std::size_t stride, first;  // from row to row; the output that `data` begins with

    float* at(std::size_t m, std::size_t n) const { return data + m * stride + (n - first); }
};

constexpr std::size_t kUnitRows = 32;  // of a block of bfloat16 for a matrix unit

// Whether activations of a type go to a matrix unit, where there is one: it pays for more rows than
// `most`, which are multiplied at once without it.
inline bool takes_unit(bool has_unit, std::size_t num_rows, std::size_t most, ActivationType type) {
    return has_unit && num_rows > most && type != ActivationType::float32;
}

// Rows of a block for so many rows: a power of two, `most` at most.
inline std::size_t rows_in_block(std::size_t num_rows, std::size_t most) {
    std::size_t rows = 1;
    while (rows < num_rows && rows < most) rows *= 2;
    return rows;
}

// Sets everything but the contents; returns the bytes it needs, all at `memory` where that is
// given.
inline std::size_t activations_layout(Activations& x, std::size_t num_rows, std::size_t num_columns,
                                      std::size_t block_rows, ActivationType type,
                                      std::uint8_t* memory) {
    const std::size_t tiles = num_columns / kTile;
    x.num_rows = num_rows;
    x.num_columns = num_columns;
    x.block_rows = block_rows;
    x.num_blocks = (num_rows + block_rows - 1) / block_rows;
    x.type = type;
    const std::size_t groups = x.num_blocks * tiles * block_rows;
    std::size_t at = 0;
    const auto take = [&](std::size_t bytes) {
        std::uint8_t* part = memory ? memory + at : nullptr;
        at += aligned(bytes);
        return part;
    };
    std::uint8_t* values = take(groups * kTile * activation_bytes(type));
    const bool is_integer = type == ActivationType::int16 || type == ActivationType::int8;
    const bool is_bfloat = type == ActivationType::bfloat16;
    x.values = type == ActivationType::float32 ? reinterpret_cast<float*>(values) : nullptr;
    x.bfloats = is_bfloat ? reinterpret_cast<std::uint16_t*>(values) : nullptr;
    x.codes = type == ActivationType::int16 ? reinterpret_cast<std::int16_t*>(values) : nullptr;
    x.bytes = type == ActivationType::int8 ? reinterpret_cast<std::int8_t*>(values) : nullptr;
    x.totals = reinterpret_cast<float*>(take(groups * 4));
    x.scales = is_integer ? reinterpret_cast<float*>(take(groups * 4)) : nullptr;
    x.sums = is_integer ? reinterpret_cast<std::int32_t*>(take(groups * 8)) : nullptr;
    return at;
}

// Blocks [first, first + count) as activations of their own, or some tiles of one block.
inline Activations blocks_of(const Activations& x, std::size_t first, std::size_t count,
                             std::size_t first_tile, std::size_t num_tiles) {
    const std::size_t group = (first * (x.num_columns / kTile) + first_tile) * x.block_rows;
    const std::size_t row = first * x.block_rows, left = x.num_rows - row;
    Activations part = x;
    part.num_rows = left < count * x.block_rows ? left : count * x.block_rows;
    part.num_columns = num_tiles * kTile;
    part.num_blocks = count;
    part.values = x.values ? x.values + group * kTile : nullptr;
    part.bfloats = x.bfloats ? x.bfloats + group * kTile : nullptr;
    part.codes = x.codes ? x.codes + group * kTile : nullptr;
    part.bytes = x.bytes ? x.bytes + group * kTile : nullptr;
    part.scales = x.scales ? x.scales + group : nullptr;
    part.sums = x.sums ? x.sums + group * 2 : nullptr;
    part.totals = x.totals + group;
    return part;
}
inline Activations blocks_of(const Activations& x, std::size_t first, std::size_t count) {
    return blocks_of(x, first, count, 0, x.num_columns / kTile);
}

}  // namespace bobot
