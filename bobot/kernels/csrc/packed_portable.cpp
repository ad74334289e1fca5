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

    // For tiles (tile_loops.h): pairs of 16-bit integers in lanes of 32 bits, the first one lowest.
    typedef std::int32_t Ints __attribute__((vector_size(16)));
    typedef std::int16_t Halves __attribute__((vector_size(16)));
    struct Table {
        std::uint8_t entries[16];
    };
    static constexpr std::size_t kMaxRows = 4;
    static constexpr bool kTableHasOffset = false;  // a table of bytes has no room for it

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
    static Table table(const std::uint8_t* entries, int) { return bobot::load<Table>(entries); }
    static void pairs_of_codes(const std::uint8_t* from, const Table& table, Ints* pairs) {
        std::int16_t found[4][8];
        for (int half = 0; half < 8; ++half) {
            const auto codes = bobot::load<std::uint16_t>(from + 2 * half);
            for (int i = 0; i < 4; ++i) found[i][half] = table.entries[codes >> 4 * i & 15];
        }
        std::memcpy(pairs, found, sizeof found);
    }
    static Ints pairs_of_bytes(const std::uint8_t* from) {
        std::int16_t found[8];
        for (int i = 0; i < 8; ++i) found[i] = static_cast<std::int8_t>(from[i]);
        Ints pairs;
        std::memcpy(&pairs, found, sizeof pairs);
        return pairs;
    }
    // pairs | (bits >> shift << 4 & mask)
    static Ints add_bits(Ints pairs, Ints bits, int shift, std::int16_t mask) {
        Halves each_bits;
        std::memcpy(&each_bits, &bits, sizeof each_bits);
        each_bits = (shift < 4 ? each_bits << (4 - shift) : each_bits >> (shift - 4)) & mask;
        std::memcpy(&bits, &each_bits, sizeof bits);
        return pairs | bits;
    }
    static Ints subtract_pairs(Ints a, Ints b) {
        Halves x, y;
        std::memcpy(&x, &a, sizeof x);
        std::memcpy(&y, &b, sizeof y);
        x -= y;
        std::memcpy(&a, &x, sizeof a);
        return a;
    }
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
