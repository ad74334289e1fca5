// Q8_0 in plain C++: runs everywhere, and the reference for the other two.
#include <cmath>

#include "q8_0_loops.h"

namespace bobot {
namespace {

struct Portable {
    using Vector = float;
    static constexpr std::size_t width = 1;

    static Vector zero() { return 0.0f; }
    static Vector load(const float* from) { return *from; }
    static Vector load_bytes(const std::int8_t* from) { return static_cast<float>(*from); }
    static void store(float* to, Vector a) { *to = a; }
    static Vector broadcast(float value) { return value; }
    static Vector mul(Vector a, Vector b) { return a * b; }
    static Vector fma(Vector a, Vector b, Vector c) { return a * b + c; }
    static float sum(Vector a) { return a; }

    // sign, 5 bits of exponent (bias 15), 10 bits of fraction; exponent 0 has no hidden bit.
    static float from_half(std::uint16_t bits) {
        const int exponent = (bits >> 10) & 0x1f;
        const float fraction = static_cast<float>(bits & 0x3ff);
        float value;
        if (exponent == 0)
            value = std::ldexp(fraction, -24);
        else if (exponent == 31)
            value = fraction == 0 ? INFINITY : NAN;
        else
            value = std::ldexp(1024.0f + fraction, exponent - 25);
        return bits & 0x8000 ? -value : value;
    }
};

}  // namespace

const Q8Kernels kQ8Portable = Q8Loops<Portable>::kernels();

}  // namespace bobot
