// How each format stores its values. A format with its scales inside (GGUF) is a struct with
//
//     kValues, kBytes   of one block
//     kGroup            values that share a scale (and a minimum)
//     kHasMinimum       whether a value is scale * q - minimum, or only scale * q
//     unpack            a block's q, scales and minima
//
// The layouts and the order of the operations are those of bobot/quant/gguf_blocks.py and
// kquants.py, which describe them; the values are equal bit for bit (scale * q is exact in all of
// them, so a fused multiply-add changes nothing). Little-endian machines only. Loops here are over
// bytes and of constant length, for the compiler to vectorize; where its analysis of aliases gives
// up, bytes are copied to the stack first.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "packed.h"

namespace bobot {
// Internal, like all in these headers: the linker must never merge code of two instruction sets.
namespace {

struct Unpacked {
    std::int8_t q[256];
    float scales[16];
    float minima[16];
};

template <class T>
T load(const std::uint8_t* from) {
    T value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

inline float float_of(std::uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline std::uint32_t bits_of(float value) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

// Runs of kRun bytes, each read once per plane of kBits bits, the lowest plane first. kOffset is
// taken off each.
template <int kBits, std::size_t kRun, std::size_t kNumRuns, int kOffset = 0>
void bit_planes(const std::uint8_t* packed, std::int8_t* out) {
    typedef std::uint8_t Bytes __attribute__((vector_size(kRun)));
    constexpr std::uint8_t kMask = (1 << kBits) - 1, kTaken = kOffset;
    for (std::size_t run = 0; run < kNumRuns; ++run, packed += kRun) {
        Bytes bytes;
        std::memcpy(&bytes, packed, kRun);
        for (std::uint8_t shift = 0; shift < 8; shift += kBits, out += kRun) {
            const Bytes plane = (bytes >> shift & kMask) - kTaken;
            std::memcpy(out, &plane, kRun);
        }
    }
}

// q[i] |= 16 where bit i of the 32 is set.
inline void add_fifth_bits(const std::uint8_t* bits, std::int8_t* q) {
    for (int byte = 0; byte < 4; ++byte) {
        // Byte k of `spread` keeps bit k; adding 0x7f carries it, wherever it is, to the top of the
        // byte.
        const std::uint64_t spread = bits[byte] * 0x0101010101010101u & 0x8040201008040201u;
        const std::uint64_t fifth = (spread + 0x7f7f7f7f7f7f7f7fu) >> 3 & 0x1010101010101010u;
        std::uint64_t eight;
        std::memcpy(&eight, q + 8 * byte, 8);
        eight |= fifth;
        std::memcpy(q + 8 * byte, &eight, 8);
    }
}

template <std::size_t kCount>
void subtract(int offset, std::int8_t* q) {
    for (std::size_t i = 0; i < kCount; ++i) q[i] = static_cast<std::int8_t>(q[i] - offset);
}

constexpr std::int8_t kIq4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                        1,    13,   25,  38,  53,  69,  89,  113};
constexpr std::int8_t kFp4Doubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

template <class Simd>
struct Q4_0 {
    static constexpr std::size_t kValues = 32, kBytes = 18, kGroup = 32;
    static constexpr bool kHasMinimum = false;
    static void unpack(const std::uint8_t* block, Unpacked& to) {
        to.scales[0] = Simd::from_half(load<std::uint16_t>(block));
        bit_planes<4, 16, 1, 8>(block + 2, to.q);
    }
};

template <class Simd>
struct Q4_1 {
    static constexpr std::size_t kValues = 32, kBytes = 20, kGroup = 32;
    static constexpr bool kHasMinimum = true;
    static void unpack(const std::uint8_t* block, Unpacked& to) {
        to.scales[0] = Simd::from_half(load<std::uint16_t>(block));
        to.minima[0] = -Simd::from_half(load<std::uint16_t>(block + 2));
        bit_planes<4, 16, 1>(block + 4, to.q);
    }
};

template <class Simd>
struct Q5_0 {
    static constexpr std::size_t kValues = 32, kBytes = 22, kGroup = 32;
    static constexpr bool kHasMinimum = false;
    static void unpack(const std::uint8_t* block, Unpacked& to) {
        to.scales[0] = Simd::from_half(load<std::uint16_t>(block));
        bit_planes<4, 16, 1>(block + 6, to.q);
        add_fifth_bits(block + 2, to.q);
        subtract<32>(16, to.q);
    }
};

template <class Simd>
struct Q5_1 {
    static constexpr std::size_t kValues = 32, kBytes = 24, kGroup = 32;
    static constexpr bool kHasMinimum = true;
    static void unpack(const std::uint8_t* block, Unpacked& to) {
        to.scales[0] = Simd::from_half(load<std::uint16_t>(block));
        to.minima[0] = -Simd::from_half(load<std::uint16_t>(block + 2));
        bit_planes<4, 16, 1>(block + 8, to.q);
        add_fifth_bits(block + 4, to.q);
    }
};

template <class Simd>
struct Q8_0 {
    static constexpr std::size_t kValues = 32, kBytes = 34, kGroup = 32;
    static constexpr bool kHasMinimum = false;
    static void unpack(const std::uint8_t* block, Unpacked& to) {
        to.scales[0] = Simd::from_half(load<std::uint16_t>(block));
        std::memcpy(to.q, block + 2, 32);
    }
};

template <class Simd>
struct Q2_K {
    static constexpr std::size_t kValues = 256, kBytes = 84, kGroup = 16;
    static constexpr bool kHasMinimum = true;
    static void unpack(const std::uint8_t* block, Unpacked& to) {
        const float d = Simd::from_half(load<std::uint16_t>(block + 80));
        const float dmin = Simd::from_half(load<std::uint16_t>(block + 82));
        for (int g = 0; g < 16; ++g) {
            to.scales[g] = d * static_cast<float>(block[g] & 15);
            to.minima[g] = dmin * static_cast<float>(block[g] >> 4);
        }
        bit_planes<2, 32, 2>(block + 16, to.q);
    }
};

template <class Simd>
struct Q3_K {
    static constexpr std::size_t kValues = 256, kBytes = 110, kGroup = 16;
    static constexpr bool kHasMinimum = false;
    static void unpack(const std::uint8_t* block, Unpacked& to) {
        const float d = Simd::from_half(load<std::uint16_t>(block + 108));
        // Sixteen 6-bit scales: the low halves of bytes 0-7, then the high halves, and two more
        // bits each from bytes 8-11.
        const auto a = load<std::uint32_t>(block + 96), b = load<std::uint32_t>(block + 100);
        const auto top = load<std::uint32_t>(block + 104);
        const std::uint32_t low[4] = {a, b, a >> 4, b >> 4};
        for (int i = 0; i < 4; ++i) {
            const std::uint32_t four = (low[i] & 0x0f0f0f0fu) | (top >> 2 * i & 0x03030303u) << 4;
            for (int j = 0; j < 4; ++j)
                to.scales[4 * i + j] = d * static_cast<float>(int(four >> 8 * j & 63) - 32);
        }
        bit_planes<2, 32, 2>(block + 32, to.q);
        std::int8_t third[256];
        bit_planes<1, 32, 1>(block, third);
        for (int i = 0; i < 256; ++i)
            to.q[i] = static_cast<std::int8_t>(to.q[i] - 4 + 4 * third[i]);
    }
};

// The eight 6-bit scales and minima of Q4_K and Q5_K, in bytes 4-16; groups 4-7 are in pieces.
struct KScales {
    std::uint8_t scales[8], minima[8];
};

inline KScales k_scales(const std::uint8_t* block) {
    const auto first = load<std::uint32_t>(block + 4), second = load<std::uint32_t>(block + 8);
    const auto third = load<std::uint32_t>(block + 12);
    const std::uint32_t scales[2] = {first & 0x3f3f3f3fu,
                                     (third & 0x0f0f0f0fu) | (first >> 2 & 0x30303030u)};
    const std::uint32_t minima[2] = {second & 0x3f3f3f3fu,
                                     (third >> 4 & 0x0f0f0f0fu) | (second >> 2 & 0x30303030u)};
    KScales found;
    std::memcpy(found.scales, scales, 8);
    std::memcpy(found.minima, minima, 8);
    return found;
}

template <class Simd>
void unpack_k_scales(const std::uint8_t* block, Unpacked& to) {
    const float d = Simd::from_half(load<std::uint16_t>(block));
    const float dmin = Simd::from_half(load<std::uint16_t>(block + 2));
    const KScales found = k_scales(block);
    for (int g = 0; g < 8; ++g) {
        to.scales[g] = d * static_cast<float>(found.scales[g]);
        to.minima[g] = dmin * static_cast<float>(found.minima[g]);
    }
}

template <class Simd>
struct Q4_K {
    static constexpr std::size_t kValues = 256, kBytes = 144, kGroup = 32;
    static constexpr bool kHasMinimum = true;
    static void unpack(const std::uint8_t* block, Unpacked& to) {
        unpack_k_scales<Simd>(block, to);
        bit_planes<4, 32, 4>(block + 16, to.q);
    }
};

template <class Simd>
struct Q5_K {
    static constexpr std::size_t kValues = 256, kBytes = 176, kGroup = 32;
    static constexpr bool kHasMinimum = true;
    static void unpack(const std::uint8_t* block, Unpacked& to) {
        unpack_k_scales<Simd>(block, to);
        bit_planes<4, 32, 4>(block + 48, to.q);
        std::int8_t fifth[256];
        bit_planes<1, 32, 1>(block + 16, fifth);
        for (int i = 0; i < 256; ++i) to.q[i] = static_cast<std::int8_t>(to.q[i] | fifth[i] << 4);
    }
};

template <class Simd>
struct Q6_K {
    static constexpr std::size_t kValues = 256, kBytes = 210, kGroup = 16;
    static constexpr bool kHasMinimum = false;
    static void unpack(const std::uint8_t* block, Unpacked& to) {
        const float d = Simd::from_half(load<std::uint16_t>(block + 208));
        for (int g = 0; g < 16; ++g)
            to.scales[g] = d * static_cast<float>(static_cast<std::int8_t>(block[192 + g]));
        std::int8_t high[256];
        bit_planes<4, 64, 2>(block, to.q);
        bit_planes<2, 32, 2>(block + 128, high);
        for (int i = 0; i < 256; ++i)
            to.q[i] = static_cast<std::int8_t>((to.q[i] | high[i] << 4) - 32);
    }
};

template <class Simd>
struct IQ4_NL {
    static constexpr std::size_t kValues = 32, kBytes = 18, kGroup = 32;
    static constexpr bool kHasMinimum = false;
    static void unpack(const std::uint8_t* block, Unpacked& to) {
        to.scales[0] = Simd::from_half(load<std::uint16_t>(block));
        bit_planes<4, 16, 1>(block + 2, to.q);
        Simd::template look_up<32>(kIq4Values, to.q);
    }
};

template <class Simd>
struct IQ4_XS {
    static constexpr std::size_t kValues = 256, kBytes = 136, kGroup = 32;
    static constexpr bool kHasMinimum = false;
    static void unpack(const std::uint8_t* block, Unpacked& to) {
        const float d = Simd::from_half(load<std::uint16_t>(block));
        const auto top = load<std::uint16_t>(block + 2);
        const auto low = load<std::uint32_t>(block + 4);
        for (int g = 0; g < 8; ++g) {
            const int scale = int(low >> 4 * g & 15) | (top >> 2 * g & 3) << 4;
            to.scales[g] = d * static_cast<float>(scale - 32);
        }
        bit_planes<4, 16, 8>(block + 8, to.q);
        Simd::template look_up<256>(kIq4Values, to.q);
    }
};

template <class Simd>
struct TQ1_0 {
    static constexpr std::size_t kValues = 256, kBytes = 54, kGroup = 256;
    static constexpr bool kHasMinimum = false;
    static void unpack(const std::uint8_t* block, Unpacked& to) {
        to.scales[0] = Simd::from_half(load<std::uint16_t>(block + 52));
        digits<32>(block, 5, to.q);
        digits<16>(block + 32, 5, to.q + 160);
        digits<4>(block + 48, 4, to.q + 240);
    }

    // A byte is a fraction of 256 in base 3: times a power of 3, the next digit is the overflow of
    // * 3.
    template <std::size_t kCount>
    static void digits(const std::uint8_t* packed, int num_digits, std::int8_t* q) {
        for (int power = 1; num_digits > 0; --num_digits, power *= 3, q += kCount)
            for (std::size_t i = 0; i < kCount; ++i)
                q[i] = static_cast<std::int8_t>(((packed[i] * power & 255) * 3 >> 8) - 1);
    }
};

template <class Simd>
struct TQ2_0 {
    static constexpr std::size_t kValues = 256, kBytes = 66, kGroup = 256;
    static constexpr bool kHasMinimum = false;
    static void unpack(const std::uint8_t* block, Unpacked& to) {
        to.scales[0] = Simd::from_half(load<std::uint16_t>(block + 64));
        bit_planes<2, 32, 2, 1>(block, to.q);
    }
};

template <class Simd>
struct Mxfp4InBlocks {
    static constexpr std::size_t kValues = 32, kBytes = 17, kGroup = 32;
    static constexpr bool kHasMinimum = false;
    static void unpack(const std::uint8_t* block, Unpacked& to) {
        to.scales[0] = float_of(half_of_e8m0(block[0]));
        bit_planes<4, 16, 1>(block + 1, to.q);
        Simd::template look_up<32>(kFp4Doubled, to.q);
    }
};

// Formats with their scales in an array of their own: `widen` gives 32 values times one scale, from
// kBytes bytes.

// Neighbours share a byte, the first in its low half.
inline void split_neighbours(const std::uint8_t* packed, std::int8_t* q) {
    std::uint8_t bytes[16];
    std::uint16_t pairs[16];
    std::memcpy(bytes, packed, sizeof bytes);
    for (int i = 0; i < 16; ++i)
        pairs[i] = static_cast<std::uint16_t>((bytes[i] | bytes[i] << 4) & 0x0f0f);
    std::memcpy(q, pairs, sizeof pairs);
}

// E2M1 as gpt-oss stores it. Its E8M0 scales come halved, since the values are doubled.
template <class Simd>
struct Mxfp4 {
    static constexpr std::size_t kBytes = 16;
    static void widen(const std::uint8_t* packed, float scale, float* out) {
        std::int8_t q[32];
        split_neighbours(packed, q);
        Simd::template look_up<32>(kFp4Doubled, q);
        Simd::template widen<false, 32>(q, scale, 0, out);
    }
};

// Integers from -8 to 7, stored with 8 added.
template <class Simd>
struct Int4 {
    static constexpr std::size_t kBytes = 16;
    static void widen(const std::uint8_t* packed, float scale, float* out) {
        std::int8_t q[32];
        split_neighbours(packed, q);
        subtract<32>(8, q);
        Simd::template widen<false, 32>(q, scale, 0, out);
    }
};

// The codebooks of bitsandbytes: the quantiles of a normal distribution (NF4, arXiv:2305.14314,
// appendix E), and floats of four bits whose largest is 1. Numbers as its quant_map holds them.
constexpr float kNf4[16] = {-1.0f,
                            -0.6961928009986877f,
                            -0.5250730514526367f,
                            -0.39491748809814453f,
                            -0.28444138169288635f,
                            -0.18477343022823334f,
                            -0.09105003625154495f,
                            0.0f,
                            0.07958029955625534f,
                            0.16093020141124725f,
                            0.24611230194568634f,
                            0.33791524171829224f,
                            0.44070982933044434f,
                            0.5626170039176941f,
                            0.7229568362236023f,
                            1.0f};
constexpr float kFp4[16] = {0.0f, 0.005208333333333333f, 0.6666666666666666f, 1.0f,
                            0.3333333333333333f, 0.5f, 0.16666666666666666f, 0.25f,
                            0.0f, -0.005208333333333333f, -0.6666666666666666f, -1.0f,
                            -0.3333333333333333f, -0.5f, -0.16666666666666666f, -0.25f};

// The first of two neighbours lies in the upper half of their byte.
template <const float (&kTable)[16]>
struct FourBitsOfFloats {
    static constexpr std::size_t kBytes = 16;
    static void widen(const std::uint8_t* packed, float scale, float* out) {
        for (int i = 0; i < 16; ++i) {
            out[2 * i] = kTable[packed[i] >> 4] * scale;
            out[2 * i + 1] = kTable[packed[i] & 15] * scale;
        }
    }
};

template <class Simd>
struct Nf4 : FourBitsOfFloats<kNf4> {};
template <class Simd>
struct Fp4 : FourBitsOfFloats<kFp4> {};

template <class Simd>
struct Int8 {
    static constexpr std::size_t kBytes = 32;
    static void widen(const std::uint8_t* bytes, float scale, float* out) {
        std::int8_t q[32];
        std::memcpy(q, bytes, sizeof q);
        Simd::template widen<false, 32>(q, scale, 0, out);
    }
};

// float8_e4m3fn: sign, 4 bits of exponent (bias 7), 3 of fraction; all seven bits set is not a
// number. Exponent 0 has no hidden bit.
struct E4m3Table {
    float values[256];
};

constexpr E4m3Table e4m3_table() {
    E4m3Table table{};
    for (int code = 0; code < 128; ++code) {
        const int exponent = code >> 3, fraction = code & 7;
        float value = exponent == 0 ? fraction * 0x1p-9f : (8 + fraction) * 0x1p-10f;
        for (int i = 0; i < exponent; ++i) value *= 2;
        table.values[code] = code == 127 ? __builtin_nanf("") : value;
        table.values[code + 128] = -table.values[code];
    }
    return table;
}

constexpr E4m3Table kE4m3 = e4m3_table();

// Simd::e4m3 gives these numbers times 2**-8, so that they are halves with their bits moved. Scales
// make up for it: products with powers of two are exact.
constexpr float kE4m3Factor = 256;

template <class Simd>
struct Fp8 {
    static constexpr std::size_t kBytes = 32;
    static void widen(const std::uint8_t* bytes, float scale, float* out) {
        const auto scales = Simd::splat(scale * kE4m3Factor);
        for (std::size_t i = 0; i < 16; i += Simd::width) {
            typename Simd::Vector first, second;
            Simd::e4m3(bytes + i, first, second);
            Simd::store(out + i, first * scales);
            Simd::store(out + 16 + i, second * scales);
        }
    }
};

// Weights that are not packed, so that one product serves all.
template <class Simd>
struct Float32 {
    static constexpr std::size_t kBytes = 4;
    static void widen(const std::uint8_t* bytes, float* out) { std::memcpy(out, bytes, 4 * 32); }
};

template <class Simd>
struct Bfloat16 {
    static constexpr std::size_t kBytes = 2;
    static void widen(const std::uint8_t* bytes, float* out) {
        for (std::size_t i = 0; i < 32; i += Simd::width)
            Simd::store(out + i, Simd::bfloats(bytes + 2 * i));
    }
};

template <class Simd>
struct Float16 {
    static constexpr std::size_t kBytes = 2;
    static void widen(const std::uint8_t* bytes, float* out) {
        for (std::size_t i = 0; i < 32; i += Simd::width)
            Simd::store(out + i, Simd::halves(bytes + 2 * i));
    }
};

}  // namespace
}  // namespace bobot
