// Reads the scales and minima of a panel of tiles (tiles.h), written once over a `Simd` type.
#pragma once

#include "packed_formats.h"
#include "tiles.h"
#include "vector_bits.h"

namespace bobot {
namespace {

// Reads the scales of one panel, tile after tile, for lanes [lane, lane + width).
template <class Simd>
struct ScaleReader {
    using Vector = typename Simd::Vector;

    ScaleReader() = default;
    ScaleReader(const Tiles& w, std::size_t panel, std::size_t lane)
        : scale_kind_(w.scale_kind), steps_kind_(w.format->steps), minima_kind_(w.format->minima),
          each_(scale_bytes(w.scale_kind)) {
        const std::size_t scales = panel * w.scales_per_panel * kPanel + lane;
        scales_ = w.data + w.scales_at + scales * each_;
        minima_ = w.data + w.minima_at + scales * each_;
        steps_ = w.data + w.steps_at + panel * w.steps_per_panel * kPanel + lane;
        min_steps_ = w.data + w.min_steps_at + panel * w.num_tiles * kPanel + lane;
        per_scale_ = w.num_columns / w.scales_per_panel / (w.group < kTile ? w.group : kTile);
    }

    // Of the next 32 inputs, or the next 16 where that is the group.
    Vector next() {
        if (left_ == 0) read();
        --left_;
        if (steps_kind_ == Steps::none) return scale_now_;
        const Vector multiple = steps_kind_ == Steps::signed_bytes ? Simd::signed_bytes(steps_)
                                                                   : Simd::unsigned_bytes(steps_);
        steps_ += kPanel;
        return scale_now_ * multiple;
    }

    // The minimum of the inputs whose scale was read last.
    Vector minimum() {
        if (minima_kind_ == Minima::added) return -minimum_now_;
        const Vector found = minimum_now_ * Simd::unsigned_bytes(min_steps_);
        min_steps_ += kPanel;
        return found;
    }

private:
    void read() {
        scale_now_ = floats(scales_);
        scales_ += kPanel * each_;
        if (minima_kind_ != Minima::none) minimum_now_ = floats(minima_);
        minima_ += kPanel * each_;
        left_ = per_scale_;
    }

    // As half_of_e8m0: halved, as the tables of E2M1 are doubled.
    static Vector halves_of_e8m0(const std::uint8_t* from) {
        using Ints = typename IntsOf<Simd>::Unsigned;
        typename IntsOf<Simd>::Byte bytes;
        std::memcpy(&bytes, from, sizeof bytes);
        const Ints exponents = __builtin_convertvector(bytes, Ints);
        return bits_as<Vector>(exponents < 2 ? (exponents + 1) << 21 : (exponents - 1) << 23);
    }

    Vector floats(const std::uint8_t* from) const {
        switch (scale_kind_) {
            case Scales::float16: return Simd::halves(from);
            case Scales::bfloat16: return Simd::bfloats(from);
            case Scales::float32: return Simd::load(reinterpret_cast<const float*>(from));
            case Scales::none: return Simd::splat(1.0f);
            case Scales::e8m0: break;
        }
        return halves_of_e8m0(from);
    }

    Scales scale_kind_ = Scales::float32;
    Steps steps_kind_ = Steps::none;
    Minima minima_kind_ = Minima::none;
    std::size_t each_ = 0, per_scale_ = 0, left_ = 0;
    const std::uint8_t *scales_ = nullptr, *steps_ = nullptr, *minima_ = nullptr,
                       *min_steps_ = nullptr;
    Vector scale_now_ = Simd::zero(), minimum_now_ = Simd::zero();
};

}  // namespace
}  // namespace bobot
