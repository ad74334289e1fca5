// Arithmetic on runs of floats over a `Simd` type (packed_loops.h): what a decoder needs beside
// products of matrices.
#pragma once

#include <math.h>

#include <cstring>

#include "packed_formats.h"

namespace bobot {
namespace {

template <class Simd>
float dot_floats(const float* a, const float* b, std::size_t count) {
    auto even = Simd::zero(), odd = Simd::zero();
    std::size_t i = 0;
    for (; i + 2 * Simd::width <= count; i += 2 * Simd::width) {
        even = Simd::fma(Simd::load(a + i), Simd::load(b + i), even);
        odd = Simd::fma(Simd::load(a + i + Simd::width), Simd::load(b + i + Simd::width), odd);
    }
    float sum = Simd::sum(even) + Simd::sum(odd);
    for (; i < count; ++i) sum += a[i] * b[i];
    return sum;
}

// e^x to 2e-7 of its size (Cephes' polynomial), in a form that compilers vectorize; not a number
// where x is none or infinite, so that damage shows in the logits.
inline float exponential(float x) {
    const float c = x > -87.0f ? (x < 88.0f ? x : 88.0f) : -87.0f;
    const float n = (c * 1.44269504f + 12582912.0f) - 12582912.0f;  // rounded to an integer
    const float r = c - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    const std::int32_t bits = (static_cast<std::int32_t>(n) + 127) << 23;
    float power;
    std::memcpy(&power, &bits, sizeof power);
    return (p * r * r + r + 1.0f) * power + (x - x);
}

template <class Simd>
void rms_norm(const float* x, const float* weight, std::size_t count, float eps, float* out) {
    const float mean = dot_floats<Simd>(x, x, count) / static_cast<float>(count);
    const float scale = 1.0f / __builtin_sqrtf(mean + eps);
    for (std::size_t i = 0; i < count; ++i) out[i] = x[i] * scale * weight[i];
}

// Element i of a head turns with element i + half.
inline void rotate(float* __restrict head, const float* __restrict cos, const float* __restrict sin,
                   std::size_t half) {
    for (std::size_t i = 0; i < half; ++i) {
        const float first = head[i], second = head[i + half];
        head[i] = first * cos[i] - second * sin[i];
        head[i + half] = second * cos[i] + first * sin[i];
    }
}

// cos and sin of a position's angles times a factor: float32 angles as in ops/rope.py, the cosines
// from float64 and rounded once.
inline void rotation(std::int64_t position, const float* frequencies, std::size_t count,
                     float factor, float* cos_out, float* sin_out) {
    for (std::size_t i = 0; i < count; ++i) {
        const double angle = static_cast<float>(position) * frequencies[i];
        cos_out[i] = static_cast<float>(::cos(angle)) * factor;
        sin_out[i] = static_cast<float>(::sin(angle)) * factor;
    }
}

// exp(score - largest) in place; returns their sum. `largest` is at least every score.
inline float exponentials(float* scores, std::size_t count, float largest) {
    for (std::size_t i = 0; i < count; ++i) scores[i] = exponential(scores[i] - largest);
    float total = 0;
    for (std::size_t i = 0; i < count; ++i) total += scores[i];
    return total;
}

inline float largest_of(const float* scores, std::size_t count) {
    float largest = scores[0];
    for (std::size_t i = 1; i < count; ++i) largest = scores[i] > largest ? scores[i] : largest;
    return largest;
}

// The numbers a cache holds: read as floats, written rounded to the nearest, ties to even.

template <class Simd>
struct Float32Cell {
    using Stored = float;
    static typename Simd::Vector load(const float* from) { return Simd::load(from); }
    static float widen(float stored) { return stored; }
    static float narrow(float value) { return value; }
};

template <class Simd>
struct Bfloat16Cell {
    using Stored = std::uint16_t;
    static typename Simd::Vector load(const Stored* from) {
        return Simd::bfloats(reinterpret_cast<const std::uint8_t*>(from));
    }
    static float widen(Stored stored) { return float_of(std::uint32_t{stored} << 16); }
    static Stored narrow(float value) {
        const std::uint32_t bits = bits_of(value);
        if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<Stored>(bits >> 16 | 0x40u);
        return static_cast<Stored>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
    }
};

template <class Simd>
struct Float16Cell {
    using Stored = std::uint16_t;
    static typename Simd::Vector load(const Stored* from) {
        return Simd::halves(reinterpret_cast<const std::uint8_t*>(from));
    }
    static float widen(Stored stored) { return Simd::from_half(stored); }
    static Stored narrow(float value) {
        const std::uint32_t bits = bits_of(value), sign = bits >> 16 & 0x8000u;
        const std::uint32_t magnitude = bits & 0x7fffffffu;
        if (magnitude > 0x7f800000u) return static_cast<Stored>(sign | 0x7e00u);
        if (magnitude >= 0x477ff000u) return static_cast<Stored>(sign | 0x7c00u);  // from 65520 on
        if (magnitude < 0x38800000u) {  // below 2**-14: the sum's last bit stands for 2**-24
            const std::uint32_t rounded = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);
            return static_cast<Stored>(sign | rounded);
        }
        const std::uint32_t rounded = magnitude + 0xfffu + (magnitude >> 13 & 1u);
        return static_cast<Stored>(sign | (rounded - 0x38000000u) >> 13);
    }
};

}  // namespace
}  // namespace bobot
