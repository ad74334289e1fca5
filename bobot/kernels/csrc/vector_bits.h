// The integers in the lanes of a `Simd` type (packed_loops.h), with the vector operators of GCC and
// Clang.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace bobot {
namespace {

template <class Simd>
struct IntsOf {
    typedef std::int32_t Signed __attribute__((vector_size(4 * Simd::width)));
    typedef std::uint32_t Unsigned __attribute__((vector_size(4 * Simd::width)));
    typedef std::uint16_t Short __attribute__((vector_size(2 * Simd::width)));
    typedef std::uint8_t Byte __attribute__((vector_size(Simd::width)));
};

template <class To, class From>
To bits_as(const From& from) {
    static_assert(sizeof(To) == sizeof(From), "");
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

}  // namespace
}  // namespace bobot
