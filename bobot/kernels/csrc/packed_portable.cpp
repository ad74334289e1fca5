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
};

}  // namespace

const Kernels kPortable = kernels<Portable>();

}  // namespace bobot
