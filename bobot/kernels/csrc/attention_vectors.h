// What attention needs of registers beyond a `Simd` type (packed_loops.h): numbers of 16 bits,
// exponentials, transposed blocks. Written with the vector operators of GCC and Clang.
#pragma once

#include "attention.h"
#include "vector_bits.h"

namespace bobot {
namespace {

template <class Simd>
typename Simd::Vector broadcast(float a) {
    return a - typename Simd::Vector{};  // a - 0 is a for every a, a + 0 is not for -0
}

template <class Simd>
void store(float* to, typename Simd::Vector a) {
    std::memcpy(to, &a, sizeof a);
}

// `b` where either is not a number.
template <class Simd>
typename Simd::Vector larger(typename Simd::Vector a, typename Simd::Vector b) {
    return a > b ? a : b;
}

// A full register from or to memory, in each kind of number.
template <class Simd, Number kNumber>
struct Numbers {
    using Item = std::uint16_t;
    using Vector = typename Simd::Vector;

    static Vector load(const Item* from) {
        return kNumber == Number::float16 ? Simd::load_half(from) : Simd::load_bfloat16(from);
    }
    static void store(Item* to, Vector a) {
        if constexpr (kNumber == Number::float16) {
            Simd::store_half(to, a);
        } else {  // to the nearest, to even in the middle
            using Ints = typename IntsOf<Simd>::Unsigned;
            const Ints bits = bits_as<Ints>(a);
            const Ints rounded = bits + 0x7fff + ((bits >> 16) & 1);
            const Ints nearest = a == a ? rounded : bits | 0x400000;
            const auto top = __builtin_convertvector(nearest >> 16, typename IntsOf<Simd>::Short);
            std::memcpy(to, &top, sizeof top);
        }
    }
};

template <class Simd>
struct Numbers<Simd, Number::float32> {
    using Item = float;
    using Vector = typename Simd::Vector;
    static Vector load(const Item* from) { return Simd::load(from); }
    static void store(Item* to, Vector a) { std::memcpy(to, &a, sizeof a); }
};

// The first `count` lanes, the others 0; nothing behind them is read.
template <class Simd, Number kNumber>
typename Simd::Vector load_some(const typename Numbers<Simd, kNumber>::Item* from,
                                std::size_t count) {
    if (count >= Simd::width) return Numbers<Simd, kNumber>::load(from);
    typename Numbers<Simd, kNumber>::Item some[Simd::width] = {};
    std::memcpy(some, from, count * sizeof *from);
    return Numbers<Simd, kNumber>::load(some);
}

// `count` numbers of 16 bits as they are, zeros behind them: at most a full register.
template <class Simd>
typename Simd::Vector load_words(const std::uint16_t* from, std::size_t count) {
    if (count >= 2 * Simd::width) return Simd::load(reinterpret_cast<const float*>(from));
    std::uint16_t some[2 * Simd::width] = {};
    std::memcpy(some, from, count * sizeof *from);
    return Simd::load(reinterpret_cast<const float*>(some));
}

template <class Simd, Number kNumber>
void store_some(typename Numbers<Simd, kNumber>::Item* to, typename Simd::Vector a,
                std::size_t count) {
    if (count >= Simd::width) return Numbers<Simd, kNumber>::store(to, a);
    typename Numbers<Simd, kNumber>::Item some[Simd::width];
    Numbers<Simd, kNumber>::store(some, a);
    std::memcpy(to, some, count * sizeof *to);
}

// e^x = (part + 1) * power with a power of 2 and a part near 0, which Cephes' polynomial gives to
// 2e-7 of e^x, for x up to 88. Below -88 the power is 0.
template <class Simd>
struct Exponential {
    typename Simd::Vector part, power;

    explicit Exponential(typename Simd::Vector x) {
        using Vector = typename Simd::Vector;
        using Ints = typename IntsOf<Simd>::Signed;
        x = larger<Simd>(broadcast<Simd>(-88.3f), x);
        const Vector shifted = x * 1.44269504f + 12582912.0f;  // the integer in the lowest bits
        const Vector n = shifted - 12582912.0f;
        const Vector r = x - n * 0.693359375f + n * 2.12194440e-4f;
        Vector p = r * 1.9875691500e-4f + 1.3981999507e-3f;
        p = p * r + 8.3334519073e-3f;
        p = p * r + 4.1665795894e-2f;
        p = p * r + 1.6666665459e-1f;
        p = p * r + 5.0000001201e-1f;
        part = p * (r * r) + r;
        power = bits_as<Vector>((bits_as<Ints>(shifted) + 127) << 23);
    }
};

template <class Simd>
typename Simd::Vector exp_of(typename Simd::Vector x) {
    const Exponential<Simd> e(x);
    return e.part * e.power + e.power;
}

// e^x to 1e-4 of it, for results that are rounded to bfloat16, with 2/3 of the operations.
template <class Simd>
typename Simd::Vector rough_exp_of(typename Simd::Vector x) {
    using Vector = typename Simd::Vector;
    using Ints = typename IntsOf<Simd>::Signed;
    x = larger<Simd>(broadcast<Simd>(-88.3f), x);
    const Vector shifted = x * 1.44269504f + 12582912.0f;  // as above
    const Vector f = x * 1.44269504f - (shifted - 12582912.0f);
    Vector p = f * 5.5171669e-2f + 2.4261139e-1f;  // 2^f between -0.5 and 0.5
    p = p * f + 6.9326099e-1f;
    p = p * f + 9.9992808e-1f;
    return p * bits_as<Vector>((bits_as<Ints>(shifted) + 127) << 23);
}

template <class Simd>
typename Simd::Vector tanh_of(typename Simd::Vector x) {
    x = x > 10.0f ? broadcast<Simd>(10.0f) : x;  // 1 in float32 from 9.01 on
    const Exponential<Simd> e(x + x);
    const typename Simd::Vector less_one = e.part * e.power + (e.power - 1.0f);
    return less_one / (less_one + 2.0f);
}

template <class Simd>
float largest_of(typename Simd::Vector a) {
#pragma GCC unroll 4
    for (std::size_t lanes = Simd::width; lanes > 1; lanes /= 2)
        a = larger<Simd>(Simd::low(a, a), Simd::high(a, a));
    return a[0];
}

// rows[i] lane j becomes rows[j] lane i.
template <class Simd>
void transpose(typename Simd::Vector (&rows)[Simd::width]) {
    constexpr std::size_t kHalf = Simd::width / 2;
#pragma GCC unroll 4
    for (std::size_t lanes = Simd::width; lanes > 1; lanes /= 2) {
        typename Simd::Vector mixed[Simd::width];
#pragma GCC unroll 8
        for (std::size_t i = 0; i < kHalf; ++i) {
            mixed[2 * i] = Simd::low(rows[i], rows[i + kHalf]);
            mixed[2 * i + 1] = Simd::high(rows[i], rows[i + kHalf]);
        }
#pragma GCC unroll 16
        for (std::size_t i = 0; i < Simd::width; ++i) rows[i] = mixed[i];
    }
}

// Lane i is the sum of the lanes of rows[i]: kCount registers become kCount / 2.
template <class Simd, std::size_t kCount = Simd::width>
typename Simd::Vector sums_of(const typename Simd::Vector* rows) {
    if constexpr (kCount == 1) {
        return rows[0];
    } else {
        typename Simd::Vector halves[kCount / 2];
#pragma GCC unroll 8
        for (std::size_t i = 0; i < kCount / 2; ++i)
            halves[i] = Simd::low(rows[i], rows[i + kCount / 2]) +
                        Simd::high(rows[i], rows[i + kCount / 2]);
        return sums_of<Simd, kCount / 2>(halves);
    }
}

}  // namespace
}  // namespace bobot
