// How formats are laid out in the tiles of linear.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "linear.h"

namespace sgrt {

struct Q4_0Kind {
    static constexpr int bits = 4, zero_point = 8, scales = 1;
    static constexpr bool has_offset = false;
    using Scale = uint16_t;
};
struct Q4_1Kind {
    static constexpr int bits = 4, zero_point = 0, scales = 1;
    static constexpr bool has_offset = true;
    using Scale = uint16_t;
};
struct Q4_KKind {  // products of a float16 and a 6-bit integer: exact in a float, not in a float16
    static constexpr int bits = 4, zero_point = 0, scales = 1;
    static constexpr bool has_offset = true;
    using Scale = float;
};
struct Q8_0Kind {
    static constexpr int bits = 8, zero_point = 0, scales = 1;
    static constexpr bool has_offset = false;
    using Scale = uint16_t;
};
struct Q6_KKind {
    static constexpr int bits = 8, zero_point = 0, scales = 2;
    static constexpr bool has_offset = false;
    using Scale = float;
};

template <class Kind>
constexpr int scale_vectors = Kind::scales + (Kind::has_offset ? 1 : 0);
template <class Kind>
constexpr size_t group_scale_bytes = size_t(scale_vectors<Kind>) * kTileRows * sizeof(typename Kind::Scale);
template <class Kind>
constexpr size_t group_quant_bytes = size_t(kTileRows) * kGroup * Kind::bits / 8;

template <class Fn>
auto with_kind(Format format, Fn&& fn) {
    switch (format) {
        case Format::Q4_0:
            return fn(Q4_0Kind{});
        case Format::Q4_1:
            return fn(Q4_1Kind{});
        case Format::Q4_K:
            return fn(Q4_KKind{});
        case Format::Q8_0:
            return fn(Q8_0Kind{});
        default:
            return fn(Q6_KKind{});
    }
}

}  // namespace sgrt
