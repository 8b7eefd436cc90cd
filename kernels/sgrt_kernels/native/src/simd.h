// Sixteen floats at a time, on every instruction set: `V` and the few operations that the kernels
// use. The library is compiled once per instruction set; results may differ between them in the
// last bits, never within one.
//
// Loads and stores take any alignment. "h" means float16 in memory.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(SGRT_ISA_AVX512) || defined(SGRT_ISA_AVX2)
#include <immintrin.h>
#elif defined(SGRT_ISA_NEON)
#include <arm_neon.h>
#endif

namespace sgrt {

constexpr int kLanes = 16;

// Calls fn(std::integral_constant<int, n>) for an n in 1..Max: loops over n unroll into registers.
template <int Max, class Fn>
void with_count(int n, Fn&& fn) {
    if constexpr (Max > 1) {
        if (n < Max) return with_count<Max - 1>(n, fn);
    }
    fn(std::integral_constant<int, Max>{});
}

inline float bits_to_float(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

inline uint32_t float_to_bits(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}

inline float half_to_float(uint16_t half) {
    const uint32_t sign = uint32_t(half & 0x8000u) << 16;
    const uint32_t rest = half & 0x7fffu;
    if (rest >= 0x7c00u) return bits_to_float(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
    // A float with the same bits moved up is the value divided by 2^112, subnormals included.
    return bits_to_float(sign | float_to_bits(bits_to_float(rest << 13) * 0x1p112f));
}

inline float bfloat_to_float(uint16_t bits) { return bits_to_float(uint32_t(bits) << 16); }

// Rounds to nearest even; values beyond the largest float16 become infinite.
inline uint16_t float_to_half(float value) {
    const uint32_t bits = float_to_bits(value);
    const uint16_t sign = uint16_t(bits >> 16 & 0x8000u);
    const uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return sign | 0x7e00u;
    if (magnitude >= 0x477ff000u) return sign | 0x7c00u;  // 65520 and above
    if (magnitude < 0x38800000u) {  // subnormal: adding 0.5 leaves multiples of 2^-24 in the low bits
        return sign | uint16_t(float_to_bits(bits_to_float(magnitude) + 0.5f) - 0x3f000000u);
    }
    return sign | uint16_t((magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13);
}

#if defined(SGRT_ISA_AVX512)

struct V {
    __m512 x;
};

inline V vset(float a) { return {_mm512_set1_ps(a)}; }
inline V vload(const float* p) { return {_mm512_loadu_ps(p)}; }
inline V vload(const uint16_t* h) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(h)))};
}
inline void vstore(float* p, V a) { _mm512_storeu_ps(p, a.x); }
inline void vstore(uint16_t* h, V a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(h), _mm512_cvtps_ph(a.x, _MM_FROUND_TO_NEAREST_INT));
}
inline V operator+(V a, V b) { return {_mm512_add_ps(a.x, b.x)}; }
inline V operator-(V a, V b) { return {_mm512_sub_ps(a.x, b.x)}; }
inline V operator*(V a, V b) { return {_mm512_mul_ps(a.x, b.x)}; }
inline V operator/(V a, V b) { return {_mm512_div_ps(a.x, b.x)}; }
inline V vfma(V a, V b, V c) { return {_mm512_fmadd_ps(a.x, b.x, c.x)}; }
inline V vmax(V a, V b) { return {_mm512_max_ps(a.x, b.x)}; }
inline V vmin(V a, V b) { return {_mm512_min_ps(a.x, b.x)}; }
inline float vsum(V a) { return _mm512_reduce_add_ps(a.x); }
inline float vmaximum(V a) { return _mm512_reduce_max_ps(a.x); }
// 2^n where the low bits of a's representation hold n
inline V vpow2_low_bits(V a) {
    const __m512i shifted = _mm512_slli_epi32(_mm512_castps_si512(a.x), 23);
    return {_mm512_castsi512_ps(_mm512_add_epi32(shifted, _mm512_set1_epi32(127 << 23)))};
}
// The lowest byte of each lane's representation.
inline void vstore_low_bytes(int8_t* p, V a) {
    const __m128i bytes = _mm512_cvtepi32_epi8(_mm512_castps_si512(a.x));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
}

#elif defined(SGRT_ISA_AVX2)

struct V {
    __m256 x, y;
};

inline V vset(float a) { return {_mm256_set1_ps(a), _mm256_set1_ps(a)}; }
inline V vload(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline V vload(const uint16_t* h) {
    const __m128i* p = reinterpret_cast<const __m128i*>(h);
    return {_mm256_cvtph_ps(_mm_loadu_si128(p)), _mm256_cvtph_ps(_mm_loadu_si128(p + 1))};
}
inline void vstore(float* p, V a) {
    _mm256_storeu_ps(p, a.x);
    _mm256_storeu_ps(p + 8, a.y);
}
inline void vstore(uint16_t* h, V a) {
    __m128i* p = reinterpret_cast<__m128i*>(h);
    _mm_storeu_si128(p, _mm256_cvtps_ph(a.x, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128(p + 1, _mm256_cvtps_ph(a.y, _MM_FROUND_TO_NEAREST_INT));
}
inline V operator+(V a, V b) { return {_mm256_add_ps(a.x, b.x), _mm256_add_ps(a.y, b.y)}; }
inline V operator-(V a, V b) { return {_mm256_sub_ps(a.x, b.x), _mm256_sub_ps(a.y, b.y)}; }
inline V operator*(V a, V b) { return {_mm256_mul_ps(a.x, b.x), _mm256_mul_ps(a.y, b.y)}; }
inline V operator/(V a, V b) { return {_mm256_div_ps(a.x, b.x), _mm256_div_ps(a.y, b.y)}; }
inline V vfma(V a, V b, V c) {
    return {_mm256_fmadd_ps(a.x, b.x, c.x), _mm256_fmadd_ps(a.y, b.y, c.y)};
}
inline V vmax(V a, V b) { return {_mm256_max_ps(a.x, b.x), _mm256_max_ps(a.y, b.y)}; }
inline V vmin(V a, V b) { return {_mm256_min_ps(a.x, b.x), _mm256_min_ps(a.y, b.y)}; }
inline float vsum(V a) {
    const __m256 eight = _mm256_add_ps(a.x, a.y);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    four = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}
inline float vmaximum(V a) {
    const __m256 eight = _mm256_max_ps(a.x, a.y);
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}
inline __m256 pow2_low_bits(__m256 a) {
    const __m256i shifted = _mm256_slli_epi32(_mm256_castps_si256(a), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(shifted, _mm256_set1_epi32(127 << 23)));
}
inline V vpow2_low_bits(V a) { return {pow2_low_bits(a.x), pow2_low_bits(a.y)}; }
inline __m128i low_bytes(__m256 a) {  // eight bytes, in the first half
    const __m256i select = _mm256_set1_epi64x(0x808080800c080400ll);  // per 128 bits: bytes 0 4 8 12
    const __m256i bytes = _mm256_shuffle_epi8(_mm256_castps_si256(a), select);
    return _mm_unpacklo_epi32(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1));
}
inline void vstore_low_bytes(int8_t* p, V a) {
    const __m128i bytes = _mm_unpacklo_epi64(low_bytes(a.x), low_bytes(a.y));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
}

#elif defined(SGRT_ISA_NEON)

struct V {
    float32x4_t x[4];
};

template <class Fn>
inline V vmap(Fn fn) {
    return {{fn(0), fn(1), fn(2), fn(3)}};
}
inline V vset(float a) {
    return vmap([&](int) { return vdupq_n_f32(a); });
}
inline V vload(const float* p) {
    return vmap([&](int i) { return vld1q_f32(p + 4 * i); });
}
inline V vload(const uint16_t* h) {
    return vmap([&](int i) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(h + 4 * i))); });
}
inline void vstore(float* p, V a) {
    for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, a.x[i]);
}
inline void vstore(uint16_t* h, V a) {
    for (int i = 0; i < 4; ++i) vst1_u16(h + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(a.x[i])));
}
inline V operator+(V a, V b) {
    return vmap([&](int i) { return vaddq_f32(a.x[i], b.x[i]); });
}
inline V operator-(V a, V b) {
    return vmap([&](int i) { return vsubq_f32(a.x[i], b.x[i]); });
}
inline V operator*(V a, V b) {
    return vmap([&](int i) { return vmulq_f32(a.x[i], b.x[i]); });
}
inline V operator/(V a, V b) {
    return vmap([&](int i) { return vdivq_f32(a.x[i], b.x[i]); });
}
inline V vfma(V a, V b, V c) {
    return vmap([&](int i) { return vfmaq_f32(c.x[i], a.x[i], b.x[i]); });
}
inline V vmax(V a, V b) {
    return vmap([&](int i) { return vmaxq_f32(a.x[i], b.x[i]); });
}
inline V vmin(V a, V b) {
    return vmap([&](int i) { return vminq_f32(a.x[i], b.x[i]); });
}
inline float vsum(V a) {
    return vaddvq_f32(vaddq_f32(vaddq_f32(a.x[0], a.x[1]), vaddq_f32(a.x[2], a.x[3])));
}
inline float vmaximum(V a) {
    return vmaxvq_f32(vmaxq_f32(vmaxq_f32(a.x[0], a.x[1]), vmaxq_f32(a.x[2], a.x[3])));
}
inline V vpow2_low_bits(V a) {
    return vmap([&](int i) {
        const int32x4_t shifted = vshlq_n_s32(vreinterpretq_s32_f32(a.x[i]), 23);
        return vreinterpretq_f32_s32(vaddq_s32(shifted, vdupq_n_s32(127 << 23)));
    });
}
inline void vstore_low_bytes(int8_t* p, V a) {
    const auto narrow = [&](int i) { return vmovn_s32(vreinterpretq_s32_f32(a.x[i])); };
    const int8x8_t low = vmovn_s16(vcombine_s16(narrow(0), narrow(1)));
    const int8x8_t high = vmovn_s16(vcombine_s16(narrow(2), narrow(3)));
    vst1q_s8(p, vcombine_s8(low, high));
}

#else  // plain C++, left to the compiler

struct V {
    float x[kLanes];
};

template <class Fn>
inline V vmap(Fn fn) {
    V r;
    for (int i = 0; i < kLanes; ++i) r.x[i] = fn(i);
    return r;
}
inline V vset(float a) {
    return vmap([&](int) { return a; });
}
inline V vload(const float* p) {
    return vmap([&](int i) { return p[i]; });
}
inline V vload(const uint16_t* h) {
    return vmap([&](int i) { return half_to_float(h[i]); });
}
inline void vstore(float* p, V a) { std::memcpy(p, a.x, sizeof a.x); }
inline void vstore(uint16_t* h, V a) {
    for (int i = 0; i < kLanes; ++i) h[i] = float_to_half(a.x[i]);
}
inline V operator+(V a, V b) {
    return vmap([&](int i) { return a.x[i] + b.x[i]; });
}
inline V operator-(V a, V b) {
    return vmap([&](int i) { return a.x[i] - b.x[i]; });
}
inline V operator*(V a, V b) {
    return vmap([&](int i) { return a.x[i] * b.x[i]; });
}
inline V operator/(V a, V b) {
    return vmap([&](int i) { return a.x[i] / b.x[i]; });
}
// Not fused: a library call would be needed where the hardware has no such instruction.
inline V vfma(V a, V b, V c) {
    return vmap([&](int i) { return a.x[i] * b.x[i] + c.x[i]; });
}
inline V vmax(V a, V b) {
    return vmap([&](int i) { return a.x[i] > b.x[i] ? a.x[i] : b.x[i]; });
}
inline V vmin(V a, V b) {
    return vmap([&](int i) { return a.x[i] < b.x[i] ? a.x[i] : b.x[i]; });
}
inline float vsum(V a) {
    for (int width = kLanes / 2; width > 0; width /= 2) {
        for (int i = 0; i < width; ++i) a.x[i] += a.x[i + width];
    }
    return a.x[0];
}
inline float vmaximum(V a) {
    float best = a.x[0];
    for (int i = 1; i < kLanes; ++i) best = a.x[i] > best ? a.x[i] : best;
    return best;
}
inline V vpow2_low_bits(V a) {
    return vmap([&](int i) { return bits_to_float((float_to_bits(a.x[i]) << 23) + (127u << 23)); });
}
inline void vstore_low_bytes(int8_t* p, V a) {
    for (int i = 0; i < kLanes; ++i) p[i] = int8_t(float_to_bits(a.x[i]));
}

#endif

inline V vzero() { return vset(0.0f); }

// e^x, relative error below 3e-7 for x in [-87, 88]; x is clamped to that range. e^0 is exactly 1.
inline V vexp(V x) {
    x = vmin(vmax(x, vset(-87.0f)), vset(88.0f));
    // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
    const V shift = vset(12582912.0f);
    const V shifted = vfma(x, vset(1.44269504089f), shift);
    const V n = shifted - shift;
    V r = vfma(n, vset(-0.693359375f), x);  // ln 2 in two parts: n times the first is exact
    r = vfma(n, vset(2.12194440e-4f), r);
    V p = vset(1.0f / 5040);  // Taylor: |r| <= ln(2)/2, the first term left out is below 6e-9
    p = vfma(p, r, vset(1.0f / 720));
    p = vfma(p, r, vset(1.0f / 120));
    p = vfma(p, r, vset(1.0f / 24));
    p = vfma(p, r, vset(1.0f / 6));
    p = vfma(p, r, vset(0.5f));
    p = vfma(p, r, vset(1.0f));
    p = vfma(p, r, vset(1.0f));
    return p * vpow2_low_bits(shifted);
}

}  // namespace sgrt
