#include "linear.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "amx.h"
#include "dot.h"
#include "packed.h"
#include "simd.h"
#include "threads.h"

namespace sgrt {
namespace {

using dot::kL;

// ---------------------------------------------------------------- packing

void put_scale(uint16_t* out, float value) { *out = float_to_half(value); }  // was a float16
void put_scale(float* out, float value) { *out = value; }

template <class Kind>
void pack_group(const Group32& group, int row, uint8_t* scale_bytes, uint8_t* quants) {
    auto* scales = reinterpret_cast<typename Kind::Scale*>(scale_bytes);
    for (int i = 0; i < Kind::scales; ++i) put_scale(scales + kTileRows * i + row, group.scale[i]);
    if (Kind::has_offset) put_scale(scales + kTileRows * Kind::scales + row, group.offset);
    for (int col = 0; col < kGroup; ++col) {
        const int step = col / 4;
        const size_t at = size_t(4 * row + col % 4);
        if (Kind::bits == 8) {
            quants[64 * step + at] = uint8_t(group.quant[col]);
        } else {
            quants[64 * (step % 4) + at] |= uint8_t(group.quant[col] << (step < 4 ? 0 : 4));
        }
    }
}

template <class Kind>
void pack_tile(const PackedLinear& w, int tile, const uint8_t* raw, uint8_t* out) {
    const size_t stride = row_bytes(w.format, w.cols);
    const int rows = std::min(kTileRows, w.rows - tile * kTileRows);
    for (int row = 0; row < rows; ++row) {
        const uint8_t* source = raw + size_t(tile * kTileRows + row) * stride;
        for (int g = 0; g < w.cols / kGroup; ++g) {
            pack_group<Kind>(read_group(w.format, source, g), row,
                             out + size_t(g) * group_scale_bytes<Kind>,
                             out + w.scale_bytes + size_t(g) * group_quant_bytes<Kind>);
        }
    }
}

void pack_float_tile(const PackedLinear& w, int tile, const uint8_t* raw, uint8_t* out) {
    const size_t size = row_bytes(w.format, 1), stride = row_bytes(w.format, w.cols);
    const int rows = std::min(kTileRows, w.rows - tile * kTileRows);
    for (int row = 0; row < rows; ++row) {
        const uint8_t* source = raw + size_t(tile * kTileRows + row) * stride;
        for (int col = 0; col < w.cols; ++col) {
            std::memcpy(out + (size_t(col) * kTileRows + size_t(row)) * size,
                        source + size_t(col) * size, size);
        }
    }
}

// ---------------------------------------------------------------- kernels

template <class Kind>
auto start(const ActivationGroup& a, int part) {
    if constexpr (Kind::bits == 4) {
        return dot::start4(Kind::zero_point ? a.zero8 : 0);
    } else {
        return dot::start8(Kind::scales == 1 ? a.zero128 : a.zero128_half[part]);
    }
}

template <class Kind>
auto weights(const uint8_t* quants, int step) {
    if constexpr (Kind::bits == 4) {
        return dot::weights4(quants, step);
    } else {
        return dot::weights8(quants, step);
    }
}

// M rows of activations times one tile. All M rows take a step of 4 columns before the next one,
// so that M independent sums are in flight and each weight vector is unpacked once.
template <class Kind, int M>
void quantized_tile(const uint8_t* tile, size_t scale_bytes, int num_groups,
                    const ActivationGroup* const* groups, float* const* out) {
    using Scale = typename Kind::Scale;
    using Acc = decltype(start<Kind>(ActivationGroup{}, 0));
    constexpr int steps = 8 / Kind::scales;  // of 4 columns, that share a scale
    for (int lane = 0; lane < kTileRows; lane += kL) {
        dot::Floats sum[M];
        for (int r = 0; r < M; ++r) sum[r] = dot::set(0.0f);
        for (int g = 0; g < num_groups; ++g) {
            const auto* scale =
                reinterpret_cast<const Scale*>(tile + size_t(g) * group_scale_bytes<Kind>) + lane;
            const uint8_t* quants =
                tile + scale_bytes + size_t(g) * group_quant_bytes<Kind> + size_t(4 * lane);
            for (int part = 0; part < Kind::scales; ++part) {
                Acc acc[M];
                for (int r = 0; r < M; ++r) acc[r] = start<Kind>(groups[r][g], part);
#pragma GCC unroll 8
                for (int c = steps * part; c < steps * (part + 1); ++c) {
                    const auto w = weights<Kind>(quants, c);
                    for (int r = 0; r < M; ++r) {
                        acc[r] = dot::step(acc[r], w, groups[r][g].q + 4 * c);
                    }
                }
                const dot::Floats d = dot::load(scale + kTileRows * part);
                for (int r = 0; r < M; ++r) {
                    const dot::Floats ds = dot::mul(d, dot::set(groups[r][g].scale));
                    sum[r] = dot::fma(dot::to_float(acc[r]), ds, sum[r]);
                }
            }
            if (Kind::has_offset) {
                const dot::Floats offset = dot::load(scale + kTileRows * Kind::scales);
                for (int r = 0; r < M; ++r) {
                    sum[r] = dot::fma(offset, dot::set(groups[r][g].scaled_sum), sum[r]);
                }
            }
        }
        for (int r = 0; r < M; ++r) dot::store(out[r] + lane, sum[r]);
    }
}

template <Format F>
dot::Floats load_weights(const uint8_t* p) {
    if constexpr (F == Format::F32) return dot::load(reinterpret_cast<const float*>(p));
    if constexpr (F == Format::F16) return dot::load(reinterpret_cast<const uint16_t*>(p));
    return dot::load_bfloat(reinterpret_cast<const uint16_t*>(p));
}

// Sums of 32 columns are added to the total one after the other: shorter chains of roundings than
// one long sum, and the same for every M.
template <Format F, int M>
void float_tile(const uint8_t* tile, int cols, const float* const* x, float* const* out) {
    constexpr size_t size = F == Format::F32 ? 4 : 2;
    for (int lane = 0; lane < kTileRows; lane += kL) {
        dot::Floats sum[M];
        for (int r = 0; r < M; ++r) sum[r] = dot::set(0.0f);
        for (int begin = 0; begin < cols; begin += kGroup) {
            const int end = std::min(begin + kGroup, cols);
            dot::Floats part[M];
            for (int r = 0; r < M; ++r) part[r] = dot::set(0.0f);
            for (int col = begin; col < end; ++col) {
                const dot::Floats w = load_weights<F>(tile + size_t(col * kTileRows + lane) * size);
                for (int r = 0; r < M; ++r) part[r] = dot::fma(w, dot::set(x[r][col]), part[r]);
            }
            for (int r = 0; r < M; ++r) sum[r] = dot::add(sum[r], part[r]);
        }
        for (int r = 0; r < M; ++r) dot::store(out[r] + lane, sum[r]);
    }
}

template <class Kind>
void quantized_rows(const PackedLinear& w, const Activations& a, int tile, const int32_t* row_idx,
                    int num_rows, float* out) {
    const int num_groups = w.cols / kGroup;
    int begin = amx::multiply(w, a, tile, row_idx, num_rows, out);
    for (; begin < num_rows; begin += dot::kMaxRows) {
        const int m = std::min(dot::kMaxRows, num_rows - begin);
        const ActivationGroup* groups[dot::kMaxRows];
        float* to[dot::kMaxRows];
        for (int r = 0; r < m; ++r) {
            const int64_t row = row_idx ? row_idx[begin + r] : begin + r;
            groups[r] = a.groups + row * num_groups;
            to[r] = out + size_t(begin + r) * kTileRows;
        }
        with_count<dot::kMaxRows>(m, [&](auto rows) {
            quantized_tile<Kind, rows.value>(w.tile(tile), w.scale_bytes, num_groups, groups, to);
        });
    }
}

template <Format F>
void float_rows(const PackedLinear& w, const Activations& a, int tile, const int32_t* row_idx,
                int num_rows, float* out) {
    for (int begin = 0; begin < num_rows; begin += dot::kMaxRowsFloat) {
        const int m = std::min(dot::kMaxRowsFloat, num_rows - begin);
        const float* x[dot::kMaxRowsFloat];
        float* to[dot::kMaxRowsFloat];
        for (int r = 0; r < m; ++r) {
            x[r] = a.x + (row_idx ? row_idx[begin + r] : begin + r) * a.x_stride;
            to[r] = out + size_t(begin + r) * kTileRows;
        }
        with_count<dot::kMaxRowsFloat>(m, [&](auto rows) {
            float_tile<F, rows.value>(w.tile(tile), w.cols, x, to);
        });
    }
}

}  // namespace

// ---------------------------------------------------------------- interface

std::shared_ptr<uint8_t> allocate_aligned(size_t bytes) {
    constexpr size_t kHuge = size_t(2) << 20;
    const size_t alignment = bytes >= kHuge ? kHuge : 64;
    const size_t size = size_t(round_up(int64_t(std::max<size_t>(bytes, 1)), int64_t(alignment)));
    void* memory = nullptr;
    if (posix_memalign(&memory, alignment, size) != 0) throw std::bad_alloc();
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    if (alignment == kHuge) madvise(memory, size, MADV_HUGEPAGE);
#endif
    std::memset(memory, 0, size);
    return {static_cast<uint8_t*>(memory), [](uint8_t* p) { std::free(p); }};
}

bool can_pack(int32_t format, int64_t rows, int64_t cols) {
    constexpr int64_t kMax = 1 << 30;
    return is_known(format) && rows >= 1 && cols >= 1 && rows < kMax && cols < kMax &&
           cols % block_size(Format(format)) == 0;
}

PackedLinear pack_linear(Format format, int rows, int cols, const uint8_t* raw) {
    PackedLinear w;
    w.format = format;
    w.rows = rows;
    w.cols = cols;
    w.tiles = int(round_up(rows, kTileRows) / kTileRows);
    if (!w.quantized()) {
        w.tile_bytes = row_bytes(format, cols) * kTileRows;
    } else {
        with_kind(format, [&](auto kind) {
            using Kind = decltype(kind);
            const size_t groups = size_t(cols / kGroup);
            w.scale_bytes = size_t(round_up(int64_t(groups * group_scale_bytes<Kind>), 64));
            w.tile_bytes = w.scale_bytes + groups * group_quant_bytes<Kind>;
        });
    }
    w.data = allocate_aligned(size_t(w.tiles) * w.tile_bytes);
    parallel_for(w.tiles, [&](int64_t tile) {
        uint8_t* out = w.data.get() + size_t(tile) * w.tile_bytes;
        if (!w.quantized()) return pack_float_tile(w, int(tile), raw, out);
        with_kind(format, [&](auto kind) { pack_tile<decltype(kind)>(w, int(tile), raw, out); });
    });
    return w;
}

void quantize_group(const float* x, ActivationGroup* group) {
    const V halves[2] = {vload(x), vload(x + kLanes)};
    const V magnitude = vmax(vmax(halves[0], vzero() - halves[0]), vmax(halves[1], vzero() - halves[1]));
    const float amax = vmaximum(magnitude);
    // Zero times anything but NaN and infinity is zero.
    const bool finite = vsum(halves[0] * vzero() + halves[1] * vzero()) == 0.0f;
    const bool zero = !finite || amax < 1e-30f;
    const V inverse = vset(zero ? 0.0f : 127.0f / amax);
    const V shift = vset(12582912.0f);  // adding 1.5 * 2^23 rounds half to even
    int32_t sum[2];
    for (int i = 0; i < 2; ++i) {
        const V shifted = (finite ? halves[i] : vzero()) * inverse + shift;
        vstore_low_bytes(group->q + i * kLanes, shifted);
        sum[i] = int32_t(vsum(shifted - shift));  // of small integers: exact in any order
    }
    group->scale = !finite ? bits_to_float(0x7fc00000u) : (zero ? 0.0f : amax / 127.0f);
    group->scaled_sum = group->scale * float(sum[0] + sum[1]);
    group->zero8 = -8 * (sum[0] + sum[1]);
    group->zero128 = -128 * (sum[0] + sum[1]);
    for (int i = 0; i < 2; ++i) group->zero128_half[i] = -128 * sum[i];
}

void QuantizedRows::resize(int rows, int cols) {
    rows_ = rows;
    cols_ = cols;
    const size_t groups = size_t(rows) * size_t(cols / kGroup);
    if (groups_.size() < groups) groups_.resize(groups);
}

void QuantizedRows::set_group(int row, int group, const float* x) {
    quantize_group(x, &groups_[size_t(row) * size_t(cols_ / kGroup) + size_t(group)]);
}

void QuantizedRows::set_row(int row, const float* x) {
    for (int g = 0; g < cols_ / kGroup; ++g) set_group(row, g, x + g * kGroup);
}

Activations QuantizedRows::view(const float* x, int64_t x_stride) const {
    Activations a;
    a.rows = rows_;
    a.cols = cols_;
    a.x = x;
    a.x_stride = x_stride;
    a.groups = groups_.data();
    return a;
}

void quantize_rows(const float* x, int n, int cols, int64_t stride, QuantizedRows* out) {
    out->resize(n, cols);
    constexpr int kChunk = 8;
    parallel_for(round_up(n, kChunk) / kChunk, [&](int64_t chunk) {
        const int end = std::min(n, int(chunk + 1) * kChunk);
        for (int row = int(chunk) * kChunk; row < end; ++row) out->set_row(row, x + row * stride);
    });
}

void linear_tile(const PackedLinear& w, const Activations& a, int tile, const int32_t* row_idx,
                 int num_rows, float* out) {
    switch (w.format) {
        case Format::F32:
            return float_rows<Format::F32>(w, a, tile, row_idx, num_rows, out);
        case Format::F16:
            return float_rows<Format::F16>(w, a, tile, row_idx, num_rows, out);
        case Format::BF16:
            return float_rows<Format::BF16>(w, a, tile, row_idx, num_rows, out);
        default:
            with_kind(w.format, [&](auto kind) {
                quantized_rows<decltype(kind)>(w, a, tile, row_idx, num_rows, out);
            });
    }
}

void linear(const PackedLinear& w, const Activations& a, float* out, int64_t out_stride) {
    const int64_t chunks = round_up(a.rows, kRowChunk) / kRowChunk;
    parallel_for(w.tiles * chunks, [&](int64_t task) {
        const int tile = int(task % w.tiles), begin = int(task / w.tiles) * kRowChunk;
        const int n = std::min(kRowChunk, a.rows - begin);
        alignas(64) float buffer[kRowChunk * kTileRows];
        linear_tile(w, a.from(begin), tile, nullptr, n, buffer);
        for (int i = 0; i < n; ++i) {
            std::memcpy(out + (begin + i) * out_stride + tile * kTileRows, buffer + i * kTileRows,
                        sizeof(float) * kTileRows);
        }
    });
}

}  // namespace sgrt
