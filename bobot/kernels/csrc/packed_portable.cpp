// The kernels without any instruction set named: four floats at a time in the vector types of GCC
// and Clang, which become whatever the processor's baseline has (SSE2, NEON). The reference for the
// other two.
#include "packed_loops.h"

namespace bobot {
namespace {

struct Portable {
    typedef float Vector __attribute__((vector_size(16)));
    static constexpr std::size_t width = 4;

    static Vector zero() { return Vector{}; }
    static Vector load(const float* from) {
        Vector a;
        std::memcpy(&a, from, sizeof a);
        return a;
    }
    static Vector fma(Vector a, Vector b, Vector c) { return a * b + c; }
    static float sum(Vector a) { return (a[0] + a[1]) + (a[2] + a[3]); }

    // sign, 5 bits of exponent (bias 15), 10 bits of fraction; exponent 0 has no hidden bit,
    // exponent 31 is infinity or not a number. Moved into place the fields make a float 2**112
    // times too small.
    static float from_half(std::uint16_t bits) {
        const std::uint32_t magnitude = bits & 0x7fff;
        const float value = float_of(magnitude << 13) * 0x1p112f;
        const std::uint32_t result =
            magnitude < 0x7c00 ? bits_of(value) : 0x7f800000u | (magnitude & 0x3ff) << 13;
        return float_of(result | (bits & 0x8000u) << 16);
    }

    static constexpr bool has_dot_pairs = false;
    static Vector load_bfloat16(const std::uint16_t* from) {
        const std::uint32_t bits[] = {std::uint32_t{from[0]} << 16, std::uint32_t{from[1]} << 16,
                                      std::uint32_t{from[2]} << 16, std::uint32_t{from[3]} << 16};
        Vector a;
        std::memcpy(&a, bits, sizeof a);
        return a;
    }
    static Vector load_half(const std::uint16_t* from) {
        return Vector{from_half(from[0]), from_half(from[1]), from_half(from[2]),
                      from_half(from[3])};
    }
    static void store_half(std::uint16_t* to, Vector a) {
        for (std::size_t i = 0; i < width; ++i) to[i] = to_half(a[i]);
    }
    static Vector low(Vector a, Vector b) { return Vector{a[0], b[0], a[1], b[1]}; }
    static Vector high(Vector a, Vector b) { return Vector{a[2], b[2], a[3], b[3]}; }

    // To the nearest, to even in the middle. Adding a number whose last bit has the value of the
    // half's last bit makes the processor round there: in small halves that is always 2**-24.
    static std::uint16_t to_half(float value) {
        const std::uint32_t bits = bits_of(value), magnitude = bits & 0x7fffffff;
        const std::uint32_t sign = bits >> 16 & 0x8000;
        if (magnitude > 0x7f800000) return static_cast<std::uint16_t>(sign | 0x7e00);
        if (magnitude >= 0x477ff000) return static_cast<std::uint16_t>(sign | 0x7c00);
        if (magnitude < 0x38800000) {
            const float rounded = float_of(magnitude) + 0.5f;
            return static_cast<std::uint16_t>(sign | (bits_of(rounded) - 0x3f000000));
        }
        const std::uint32_t odd = magnitude >> 13 & 1;
        return static_cast<std::uint16_t>(sign | (magnitude - 0x38000000 + 0xfff + odd) >> 13);
    }
    template <bool kHasMinimum, std::size_t kCount>
    static void widen(const std::int8_t* __restrict q, float scale, float minimum,
                      float* __restrict out) {
        for (std::size_t i = 0; i < kCount; ++i)
            out[i] = kHasMinimum ? scale * q[i] - minimum : scale * q[i];
    }
    template <std::size_t kCount>
    static void look_up(const std::int8_t* table, std::int8_t* q) {
        for (std::size_t i = 0; i < kCount; ++i) q[i] = table[q[i]];
    }

    // For tiles: tile_quads.h, tile_integers.h, tile_loops.h.
    typedef std::int32_t Ints __attribute__((vector_size(16)));
    typedef std::uint16_t Halves __attribute__((vector_size(16)));
    typedef std::uint8_t Bytes __attribute__((vector_size(16)));
    template <class To, class From>
    static To as(From bits) {
        To found;
        static_assert(sizeof found == sizeof bits);
        std::memcpy(&found, &bits, sizeof found);
        return found;
    }
    struct Table {
        std::uint8_t entries[16];
    };
    static constexpr std::size_t kMaxRows = 4;
    static constexpr bool kSaturates = false;

    static Vector splat(float a) { return Vector{a, a, a, a}; }
    static Ints splat(std::int32_t a) { return Ints{a, a, a, a}; }
    static void store(float* to, Vector a) { std::memcpy(to, &a, sizeof a); }
    template <std::size_t>
    static void prefetch(const std::uint8_t*) {}
    static Ints load_ints(const std::uint8_t* from) { return bobot::load<Ints>(from); }
    static Vector to_floats(Ints a) { return __builtin_convertvector(a, Vector); }
    template <class Number>
    static Vector each(Number number) {
        return Vector{number(0), number(1), number(2), number(3)};
    }
    static Vector halves(const std::uint8_t* from) {
        return each([&](int i) { return from_half(bobot::load<std::uint16_t>(from + 2 * i)); });
    }
    static Vector bfloats(const std::uint8_t* from) {
        return each([&](int i) {
            return float_of(std::uint32_t{bobot::load<std::uint16_t>(from + 2 * i)} << 16);
        });
    }
    static Vector unsigned_bytes(const std::uint8_t* from) {
        return each([&](int i) { return static_cast<float>(from[i]); });
    }
    static Vector signed_bytes(const std::uint8_t* from) {
        return each([&](int i) { return static_cast<float>(static_cast<std::int8_t>(from[i])); });
    }
    static Table quad_table(const std::uint8_t* entries, int) {
        return bobot::load<Table>(entries);
    }
    static void quads_of_codes(const std::uint8_t* from, Ints* quads) {
        const auto codes = bobot::load<Bytes>(from);
        quads[0] = as<Ints>(codes & 15);
        quads[1] = as<Ints>(codes >> 4);
    }
    static Ints look_up_quads(const Table& table, Ints quads) {
        Bytes bytes = as<Bytes>(quads);
        for (int i = 0; i < 16; ++i) bytes[i] = table.entries[bytes[i]];
        return as<Ints>(bytes);
    }
    // Inputs a, b of row r and c, d of row r + 2 as a, c, b, d.
    template <bool kIsSigned>
    static Ints quads_of_bytes(const std::uint8_t* from) {
        static_assert(!kIsSigned);
        Bytes bytes;
        for (int i = 0; i < 8; ++i) {
            bytes[2 * i] = from[i];
            bytes[2 * i + 1] = from[64 + i];
        }
        return as<Ints>(bytes ^ 128);
    }
    static void store_quads(const std::int32_t* codes, std::int8_t* to) {
        for (std::size_t i = 0; i < 32; ++i)
            to[i] = static_cast<std::int8_t>(codes[i / 8 * 8 + kQuadOrder[i % 8]]);
    }
    // Each pair of bytes | (bits >> first << 4 & mask) | (bits >> second << 12 & mask << 8)
    static Ints add_upper_bits(Ints quads, Ints bits, int first, int second, int mask) {
        const auto same = [](int a) { return Halves{} + static_cast<std::uint16_t>(a); };
        const Halves low = as<Halves>(bits) >> same(first) << 4 & same(mask);
        const Halves high = as<Halves>(bits) >> same(second) << 12 & same(mask << 8);
        return quads | as<Ints>(low | high);
    }
    static Ints even_pairs(Ints quads) { return as<Ints>(as<Halves>(quads) & 255); }
    static Ints odd_pairs(Ints quads) { return as<Ints>(as<Halves>(quads) >> 8); }
    template <int>
    static constexpr std::size_t kRun = 1;
    template <int>
    static Ints dot_quads(Ints sum, const Ints* quads, const std::int8_t* from) {
        for (int i = 0; i < 4; ++i) sum += (*quads >> 8 * i & 255) * from[i];
        return sum;
    }
    static Ints subtract_pairs(Ints a, Ints b) { return as<Ints>(as<Halves>(a) - as<Halves>(b)); }
    static Vector first(Ints a) { return to_floats(a << 16 >> 16); }
    static Vector second(Ints a) { return to_floats(a >> 16); }
    static Ints dot(Ints sum, Ints pairs, const std::int16_t* pair) {
        return sum + (pairs << 16 >> 16) * pair[0] + (pairs >> 16) * pair[1];
    }

    // For codes that are no integers (tile_floats.h).
    using FloatTable = const float*;

    static FloatTable float_table(const float* entries) { return entries; }
    static Vector look_up_floats(FloatTable table, Ints codes, int shift) {
        return each([&](int i) { return table[codes[i] >> shift & 15]; });
    }
    static Vector first_bfloat(Ints a) {
        return each([&](int i) { return float_of(static_cast<std::uint32_t>(a[i]) << 16); });
    }
    static Vector second_bfloat(Ints a) {
        return each(
            [&](int i) { return float_of(static_cast<std::uint32_t>(a[i]) & 0xffff0000u); });
    }
    static void e4m3(const std::uint8_t* from, Vector& first, Vector& second) {
        first = each([&](int i) { return kE4m3.values[from[i]] * 0x1p-8f; });
        second = each([&](int i) { return kE4m3.values[from[16 + i]] * 0x1p-8f; });
    }
};

}  // namespace

const Kernels kPortable = kernels<Portable>();

}  // namespace bobot
