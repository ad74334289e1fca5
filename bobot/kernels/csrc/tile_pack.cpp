// From rows as they are published to tiles: moves bits, rounds nothing. What the published blocks
// look like is in packed_formats.h and bobot/quant/; what tiles look like in tiles.h.
#include <cstring>

#include "packed_formats.h"
#include "tiles.h"

namespace bobot {
namespace {

// A published block: its codes, and its scales as bytes.
struct Block {
    std::size_t values, bytes;
    void (*codes)(const std::uint8_t* block, std::int8_t* q);
    // Where in the block the scale and the minimum are, 2 bytes each but for E8M0; and the 8-bit
    // steps.
    std::size_t scale_at, minimum_at;
    void (*steps)(const std::uint8_t* block, std::uint8_t* steps, std::uint8_t* min_steps);
};

template <std::size_t kAt>
void four_bits(const std::uint8_t* block, std::int8_t* q) {
    bit_planes<4, 16, 1>(block + kAt, q);
}

template <std::size_t kAt, std::size_t kFifthAt>
void five_bits(const std::uint8_t* block, std::int8_t* q) {
    bit_planes<4, 16, 1>(block + kAt, q);
    add_fifth_bits(block + kFifthAt, q);
}

void bytes_of_q8_0(const std::uint8_t* block, std::int8_t* q) { std::memcpy(q, block + 2, 32); }

void codes_of_q4_k(const std::uint8_t* block, std::int8_t* q) {
    bit_planes<4, 32, 4>(block + 16, q);
}

void codes_of_q5_k(const std::uint8_t* block, std::int8_t* q) {
    std::int8_t fifth[256];
    bit_planes<4, 32, 4>(block + 48, q);
    bit_planes<1, 32, 1>(block + 16, fifth);
    for (int i = 0; i < 256; ++i) q[i] = static_cast<std::int8_t>(q[i] | fifth[i] << 4);
}

void codes_of_q6_k(const std::uint8_t* block, std::int8_t* q) {
    std::int8_t high[256];
    bit_planes<4, 64, 2>(block, q);
    bit_planes<2, 32, 2>(block + 128, high);
    for (int i = 0; i < 256; ++i) q[i] = static_cast<std::int8_t>(q[i] | high[i] << 4);
}

void codes_of_iq4_xs(const std::uint8_t* block, std::int8_t* q) {
    bit_planes<4, 16, 8>(block + 8, q);
}

void k_steps(const std::uint8_t* block, std::uint8_t* steps, std::uint8_t* min_steps) {
    const KScales found = k_scales(block);
    std::memcpy(steps, found.scales, 8);
    std::memcpy(min_steps, found.minima, 8);
}

void steps_of_q6_k(const std::uint8_t* block, std::uint8_t* steps, std::uint8_t*) {
    std::memcpy(steps, block + 192, 16);
}

void steps_of_iq4_xs(const std::uint8_t* block, std::uint8_t* steps, std::uint8_t*) {
    const auto top = load<std::uint16_t>(block + 2);
    const auto low = load<std::uint32_t>(block + 4);
    for (int g = 0; g < 8; ++g)
        steps[g] = static_cast<std::uint8_t>((int(low >> 4 * g & 15) | (top >> 2 * g & 3) << 4) -
                                             32);
}

void neighbours(const std::uint8_t* block, std::int8_t* q) { split_neighbours(block, q); }

void neighbours_high_first(const std::uint8_t* block, std::int8_t* q) {
    std::uint8_t swapped[16];
    for (int i = 0; i < 16; ++i)
        swapped[i] = static_cast<std::uint8_t>(block[i] << 4 | block[i] >> 4);
    split_neighbours(swapped, q);
}

void plain_bytes(const std::uint8_t* block, std::int8_t* q) { std::memcpy(q, block, 32); }

constexpr std::size_t kApart = ~std::size_t{0};  // scales in an array of their own

struct Published {
    TileFormat tiles;
    Block block;
};

// Tables: MXFP4's doubled values plus 12, IQ4's plus 127.
#define BOBOT_FP4 {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0}
#define BOBOT_IQ4 {0, 23, 44, 62, 78, 92, 105, 117, 128, 140, 152, 165, 180, 196, 216, 240}
#define BOBOT_LINEAR {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}

const Published kPublished[] = {
    {{"Q4_0", Codes::four_bits, Scales::float16, Steps::none, Minima::none, 32, 8, BOBOT_LINEAR},
     {32, 18, four_bits<2>, 0, 0, nullptr}},
    {{"Q4_1", Codes::four_bits, Scales::float16, Steps::none, Minima::added, 32, 0, BOBOT_LINEAR},
     {32, 20, four_bits<4>, 0, 2, nullptr}},
    {{"Q5_0", Codes::five_bits, Scales::float16, Steps::none, Minima::none, 32, 16, BOBOT_LINEAR},
     {32, 22, five_bits<6, 2>, 0, 0, nullptr}},
    {{"Q5_1", Codes::five_bits, Scales::float16, Steps::none, Minima::added, 32, 0, BOBOT_LINEAR},
     {32, 24, five_bits<8, 4>, 0, 2, nullptr}},
    {{"Q8_0", Codes::bytes, Scales::float16, Steps::none, Minima::none, 32, 0, {}},
     {32, 34, bytes_of_q8_0, 0, 0, nullptr}},
    {{"Q4_K", Codes::four_bits, Scales::float16, Steps::unsigned_bytes, Minima::stepped, 32, 0,
      BOBOT_LINEAR},
     {256, 144, codes_of_q4_k, 0, 2, k_steps}},
    {{"Q5_K", Codes::five_bits, Scales::float16, Steps::unsigned_bytes, Minima::stepped, 32, 0,
      BOBOT_LINEAR},
     {256, 176, codes_of_q5_k, 0, 2, k_steps}},
    {{"Q6_K", Codes::six_bits, Scales::float16, Steps::signed_bytes, Minima::none, 16, 32,
      BOBOT_LINEAR},
     {256, 210, codes_of_q6_k, 208, 0, steps_of_q6_k}},
    {{"IQ4_NL", Codes::four_bits, Scales::float16, Steps::none, Minima::none, 32, 127, BOBOT_IQ4},
     {32, 18, four_bits<2>, 0, 0, nullptr}},
    {{"IQ4_XS", Codes::four_bits, Scales::float16, Steps::signed_bytes, Minima::none, 32, 127,
      BOBOT_IQ4},
     {256, 136, codes_of_iq4_xs, 0, 0, steps_of_iq4_xs}},
    {{"MXFP4", Codes::four_bits, Scales::e8m0, Steps::none, Minima::none, 32, 12, BOBOT_FP4},
     {32, 17, four_bits<1>, 0, 0, nullptr}},
    {{"mxfp4", Codes::four_bits, Scales::e8m0, Steps::none, Minima::none, 32, 12, BOBOT_FP4},
     {32, 16, neighbours, kApart, 0, nullptr}},
    {{"int4", Codes::four_bits, Scales::bfloat16, Steps::none, Minima::none, 0, 8, BOBOT_LINEAR},
     {32, 16, neighbours, kApart, 0, nullptr}},
    {{"int8", Codes::bytes, Scales::float32, Steps::none, Minima::none, 0, 0, {}},
     {32, 32, plain_bytes, kApart, 0, nullptr}},
    {{"nf4", Codes::four_bits_of_floats, Scales::float32, Steps::none, Minima::none, 0, 0, {},
      kNf4},
     {32, 16, neighbours_high_first, kApart, 0, nullptr}},
    {{"fp4", Codes::four_bits_of_floats, Scales::float32, Steps::none, Minima::none, 0, 0, {},
      kFp4},
     {32, 16, neighbours_high_first, kApart, 0, nullptr}},
    {{"float8_e4m3fn", Codes::e4m3, Scales::float32, Steps::none, Minima::none, 0, 0, {}},
     {32, 32, plain_bytes, kApart, 0, nullptr}},
    {{"bfloat16", Codes::bfloats, Scales::none, Steps::none, Minima::none, 32, 0, {}},
     {32, 64, nullptr, kApart, 0, nullptr}},
    {{"float16", Codes::halves, Scales::none, Steps::none, Minima::none, 32, 0, {}},
     {32, 64, nullptr, kApart, 0, nullptr}},
};

const Published* published(const char* name) {
    for (const Published& each : kPublished)
        if (std::strcmp(each.tiles.name, name) == 0) return &each;
    return nullptr;
}

// 32 codes of output n into a tile.
void place_codes(Codes kind, std::size_t n, const std::int8_t* q, std::uint8_t* tile) {
    if (kind == Codes::bytes) {
        for (std::size_t r = 0; r < 16; ++r) std::memcpy(tile + 32 * r + 2 * n, q + 2 * r, 2);
        return;
    }
    if (kind == Codes::e4m3) {
        for (std::size_t k = 0; k < kTile; ++k) std::memcpy(tile + kPanel * k + n, q + k, 1);
        return;
    }
    std::uint32_t ones = 0, twos[2] = {0, 0};
    for (std::size_t v = 0; v < 4; ++v) {
        std::uint32_t word = 0;
        for (std::size_t i = 0; i < 8; ++i) {
            const auto code = static_cast<std::uint8_t>(q[8 * v + i]);
            const std::size_t row = 4 * v + i / 2, half = 16 * (i % 2);
            word |= std::uint32_t{code & 15u} << (half + 4 * (i / 2));
            ones |= std::uint32_t{code >> 4 & 1u} << (half + row);
            twos[row / 8] |= std::uint32_t{code >> 4 & 3u} << (half + 2 * (row % 8));
        }
        std::memcpy(tile + 64 * v + 4 * n, &word, 4);
    }
    if (kind == Codes::five_bits) std::memcpy(tile + 256 + 4 * n, &ones, 4);
    if (kind == Codes::six_bits)
        for (std::size_t u = 0; u < 2; ++u) std::memcpy(tile + 256 + 64 * u + 4 * n, twos + u, 4);
}

// 32 numbers of 16 bits of output n into a tile.
void place_halves(Codes kind, std::size_t n, const std::uint8_t* from, std::uint8_t* tile) {
    for (std::size_t k = 0; k < kTile; k += 2, from += 4, tile += 4 * kPanel) {
        if (kind == Codes::bfloats) {
            std::memcpy(tile + 4 * n, from, 4);
        } else {
            std::memcpy(tile + 2 * n, from, 2);
            std::memcpy(tile + 2 * (kPanel + n), from + 2, 2);
        }
    }
}

}  // namespace

const TileFormat* tile_format(const char* name) {
    const Published* found = published(name);
    return found ? &found->tiles : nullptr;
}

void pack_tiles(const Tiles& w, const std::uint8_t* rows, std::size_t row_bytes,
                const std::uint8_t* scales, std::size_t scales_row_bytes, std::size_t first,
                std::size_t end, std::uint8_t* data) {
    const TileFormat& format = *w.format;
    const Block& block = published(format.name)->block;
    const std::size_t tile_bytes = code_bytes(format.codes), each = scale_bytes(w.scale_kind);
    const std::size_t tiles_per_block = block.values / kTile, steps = block.values / w.group;
    for (std::size_t panel = first; panel < end; ++panel) {
        std::uint8_t* codes = data + panel * w.num_tiles * tile_bytes;
        std::uint8_t* scales_to = data + w.scales_at + panel * w.scales_per_panel * kPanel * each;
        std::uint8_t* minima_to = data + w.minima_at + panel * w.scales_per_panel * kPanel * each;
        std::uint8_t* steps_to = data + w.steps_at + panel * w.steps_per_panel * kPanel;
        std::uint8_t* min_steps_to = data + w.min_steps_at + panel * w.num_tiles * kPanel;
        for (std::size_t n = 0; n < kPanel && panel * kPanel + n < w.num_rows; ++n) {
            const std::size_t row = panel * kPanel + n;
            const std::uint8_t* from = rows + row * row_bytes;
            if (block.scale_at == kApart && scales)
                for (std::size_t g = 0; g < w.scales_per_panel; ++g)
                    std::memcpy(scales_to + (g * kPanel + n) * each,
                                scales + row * scales_row_bytes + g * each, each);
            for (std::size_t b = 0; b < w.num_columns / block.values; ++b, from += block.bytes) {
                if (!block.codes) {
                    place_halves(format.codes, n, from, codes + b * tile_bytes);
                    continue;
                }
                std::int8_t q[kSuperBlock];
                block.codes(from, q);
                for (std::size_t t = 0; t < tiles_per_block; ++t)
                    place_codes(format.codes, n, q + kTile * t,
                                codes + (b * tiles_per_block + t) * tile_bytes);
                if (block.scale_at == kApart) continue;
                std::memcpy(scales_to + (b * kPanel + n) * each, from + block.scale_at, each);
                if (format.minima != Minima::none)
                    std::memcpy(minima_to + (b * kPanel + n) * each, from + block.minimum_at, each);
                if (!block.steps) continue;
                std::uint8_t multiples[16], minimum_multiples[8];
                block.steps(from, multiples, minimum_multiples);
                for (std::size_t g = 0; g < steps; ++g)
                    steps_to[(b * steps + g) * kPanel + n] = multiples[g];
                if (format.minima == Minima::stepped)
                    for (std::size_t t = 0; t < tiles_per_block; ++t)
                        min_steps_to[(b * tiles_per_block + t) * kPanel + n] = minimum_multiples[t];
            }
        }
    }
}

}  // namespace bobot
