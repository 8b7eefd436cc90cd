#include "amx.h"

#include <atomic>
#include <vector>

#include "packed.h"
#include "simd.h"

#if defined(SGRT_ISA_AVX512) && defined(__linux__) && defined(__has_include)
#if __has_include(<amxint8intrin.h>)
#define SGRT_HAS_AMX 1
#endif
#endif

#if !defined(SGRT_HAS_AMX)

namespace sgrt::amx {
bool available() { return false; }
void set_enabled(bool) {}
int multiply(const PackedLinear&, const Activations&, int, const int32_t*, int, float*) { return 0; }
}  // namespace sgrt::amx

#else

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SGRT_AMX __attribute__((target("amx-tile,amx-int8")))

namespace sgrt::amx {
namespace {

constexpr int kBlock = 16;                           // rows of activations in a tile register
constexpr int kSteps = kGroup / 4;                   // rows of weights in a tile register
constexpr int kStepBytes = 4 * kTileRows;            // 4 columns of 16 outputs
constexpr int kGroupBytes = kSteps * kStepBytes;     // 32 columns of 16 outputs, 8 bits each

bool processor_has_it() {
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    constexpr unsigned kTile = 1u << 24, kInt8 = 1u << 25;
    return (d & kTile) && (d & kInt8);
}

bool system_allows_it() {
    constexpr long kRequestPermission = 0x1023, kTileData = 18;
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

std::atomic<bool> g_enabled{true};

struct alignas(64) TileConfig {
    uint8_t palette = 1, start_row = 0;
    uint8_t reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};

    void set(int tile, int num_rows, int bytes) {
        rows[tile] = uint8_t(num_rows);
        row_bytes[tile] = uint16_t(bytes);
    }
};

TileConfig make_config() {
    TileConfig config;
    config.set(0, kBlock, 4 * kTileRows);  // sums, in turn with 1
    config.set(1, kBlock, 4 * kTileRows);
    config.set(2, kBlock, kGroup);  // activations
    config.set(3, kSteps, kStepBytes);  // weights
    return config;
}

// All 4-bit quants of a tile as bytes.
void unpack(const uint8_t* packed, int num_groups, uint8_t* out) {
    const __m512i low = _mm512_set1_epi8(15);
    for (int i = 0; i < num_groups; ++i, packed += kGroupBytes / 2, out += kGroupBytes) {
        for (int step = 0; step < kSteps / 2; ++step) {
            const __m512i both = _mm512_loadu_si512(packed + step * kStepBytes);
            const __m512i high = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
            _mm512_store_si512(out + step * kStepBytes, _mm512_and_si512(both, low));
            _mm512_store_si512(out + (kSteps / 2 + step) * kStepBytes, high);
        }
    }
}

// Integer products of one group: sums[row][output]. The intrinsics of some compilers take the
// numbers of registers as literals only: see make_config for what they hold.
SGRT_AMX inline void group_product(const ActivationGroup* a, int64_t row_stride,
                                   const uint8_t* weights, int32_t* sums, bool odd) {
    _tile_loadd(2, a->q, row_stride);
    _tile_loadd(3, weights, kStepBytes);
    if (odd) {
        _tile_zero(1);
        _tile_dpbssd(1, 2, 3);
        _tile_stored(1, sums, kStepBytes);
    } else {
        _tile_zero(0);
        _tile_dpbssd(0, 2, 3);
        _tile_stored(0, sums, kStepBytes);
    }
}

template <class Kind>
SGRT_AMX void block_product(const uint8_t* scale_bytes, const uint8_t* weights, int num_groups,
                            const ActivationGroup* a, float* out) {
    alignas(64) int32_t sums[2][kBlock * kTileRows];
    const int64_t row_stride = int64_t(num_groups) * int64_t(sizeof(ActivationGroup));
    V total[kBlock];
#pragma GCC unroll 16
    for (int r = 0; r < kBlock; ++r) total[r] = vzero();
    group_product(a, row_stride, weights, sums[0], false);
    for (int g = 0; g < num_groups; ++g) {
        // The next group's products are under way while this one's are folded in.
        if (g + 1 < num_groups) {
            group_product(a + g + 1, row_stride, weights + size_t(g + 1) * kGroupBytes,
                          sums[(g + 1) % 2], (g + 1) % 2);
        }
        const int32_t* products = sums[g % 2];
        const auto* scale = reinterpret_cast<const typename Kind::Scale*>(
            scale_bytes + size_t(g) * group_scale_bytes<Kind>);
        const V d = vload(scale), offset = Kind::has_offset ? vload(scale + kTileRows) : vzero();
        const ActivationGroup* group = a + g;
#pragma GCC unroll 16
        for (int r = 0; r < kBlock; ++r, group += num_groups) {
            asm("" : "+r"(group));  // one pointer that moves: sixteen of them would not fit registers
            __m512i product = _mm512_load_si512(products + r * kTileRows);
            if (Kind::zero_point) product = _mm512_add_epi32(product, _mm512_set1_epi32(group->zero8));
            total[r] = vfma(V{_mm512_cvtepi32_ps(product)}, d * vset(group->scale), total[r]);
            if (Kind::has_offset) total[r] = vfma(offset, vset(group->scaled_sum), total[r]);
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < kBlock; ++r) vstore(out + r * kTileRows, total[r]);
}

template <class Kind>
SGRT_AMX void multiply_blocks(const PackedLinear& w, int tile, const ActivationGroup* a,
                              int num_blocks, float* out) {
    static const TileConfig config = make_config();
    thread_local std::shared_ptr<uint8_t> memory;
    thread_local size_t capacity = 0;
    const int num_groups = w.cols / kGroup;
    const uint8_t* weights = w.tile(tile) + w.scale_bytes;
    if (Kind::bits == 4) {
        const size_t needed = size_t(num_groups) * kGroupBytes;
        if (capacity < needed) {
            memory = allocate_aligned(needed);
            capacity = needed;
        }
        unpack(weights, num_groups, memory.get());
        weights = memory.get();
    }
    _tile_loadconfig(&config);
    for (int i = 0; i < num_blocks; ++i) {
        block_product<Kind>(w.tile(tile), weights, num_groups, a + int64_t(i) * kBlock * num_groups,
                            out + i * kBlock * kTileRows);
    }
    _tile_release();
}

int consecutive(const int32_t* row_idx, int num_rows) {
    if (row_idx == nullptr) return num_rows;
    int n = 1;
    while (n < num_rows && row_idx[n] == row_idx[0] + n) ++n;
    return n;
}

}  // namespace

bool available() {
    static const bool yes = processor_has_it() && system_allows_it();
    return yes;
}

void set_enabled(bool enabled) { g_enabled.store(enabled); }

int multiply(const PackedLinear& w, const Activations& a, int tile, const int32_t* row_idx,
             int num_rows, float* out) {
    if (num_rows < kBlock || !g_enabled.load(std::memory_order_relaxed) || !available()) return 0;
    const int num_blocks = consecutive(row_idx, num_rows) / kBlock;
    if (num_blocks == 0 || w.format == Format::Q6_K) return 0;  // its groups have two scales
    const ActivationGroup* first =
        a.groups + int64_t(row_idx ? row_idx[0] : 0) * (w.cols / kGroup);
    with_kind(w.format, [&](auto kind) {
        multiply_blocks<decltype(kind)>(w, tile, first, num_blocks, out);
    });
    return num_blocks * kBlock;
}

}  // namespace sgrt::amx

#endif
