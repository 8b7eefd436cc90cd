// Integer dot products of interleaved weights with broadcast activations, per instruction set.
//
// A *step* multiplies 4 columns: a weight vector holds L output rows x 4 bytes, the activations
// are 4 bytes for all of them. Every step of every instruction set is exact: nothing saturates.
//
//   Floats                  L floats
//   Acc4, Acc8              sums over a group: 4-bit quants (0..15) and 8-bit quants (-128..127)
//   start4/start8           a sum whose initial value cancels a zero point
//   weights4/weights8(p, c) weight vector of step c of a group (c in 0..7); p: the group's quants
//   step(acc, w, a)         add one step
//   to_float(acc)           the sums as floats (exact: below 2^24)
#pragma once

#include "linear.h"
#include "simd.h"

namespace sgrt::dot {

#if defined(SGRT_ISA_AVX512)

constexpr int kL = 16;
constexpr int kMaxRows = 8;  // rows per pass: accumulators must stay in registers
constexpr int kMaxRowsFloat = 8;
using Floats = __m512;

inline Floats set(float a) { return _mm512_set1_ps(a); }
inline Floats load(const float* p) { return _mm512_loadu_ps(p); }
inline Floats load(const uint16_t* h) { return vload(h).x; }
inline Floats load_bfloat(const uint16_t* p) {
    const __m256i raw = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(raw), 16));
}
inline void store(float* p, Floats a) { _mm512_storeu_ps(p, a); }
inline Floats mul(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
inline Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
inline Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }

// The instruction multiplies unsigned by signed bytes. 8-bit quants become unsigned by adding
// 128, which the initial value takes off again.
using Acc4 = __m512i;
using Acc8 = __m512i;
struct Weights {
    __m512i w;
};
inline Acc4 start4(int32_t zero_point) { return _mm512_set1_epi32(zero_point); }
inline Acc8 start8(int32_t zero128) { return _mm512_set1_epi32(zero128); }
inline Weights weights4(const uint8_t* p, int c) {
    __m512i raw = _mm512_loadu_si512(p + 64 * (c % 4));
    if (c >= 4) raw = _mm512_srli_epi16(raw, 4);
    return {_mm512_and_si512(raw, _mm512_set1_epi8(15))};
}
inline Weights weights8(const uint8_t* p, int c) {
    return {_mm512_xor_si512(_mm512_loadu_si512(p + 64 * c), _mm512_set1_epi8(-128))};
}
inline __m512i step(__m512i acc, Weights w, const int8_t* a) {
    int32_t four;
    std::memcpy(&four, a, 4);
    return _mm512_dpbusd_epi32(acc, w.w, _mm512_set1_epi32(four));
}
inline Floats to_float(__m512i acc) { return _mm512_cvtepi32_ps(acc); }

#elif defined(SGRT_ISA_AVX2)

constexpr int kL = 8;
constexpr int kMaxRows = 4;
constexpr int kMaxRowsFloat = 4;
using Floats = __m256;

inline Floats set(float a) { return _mm256_set1_ps(a); }
inline Floats load(const float* p) { return _mm256_loadu_ps(p); }
inline Floats load(const uint16_t* h) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(h)));
}
inline Floats load_bfloat(const uint16_t* p) {
    const __m128i raw = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(raw), 16));
}
inline void store(float* p, Floats a) { _mm256_storeu_ps(p, a); }
inline Floats mul(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
inline Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
inline Floats fma(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }

// Products of bytes add up in pairs to 16 bits. 4-bit quants: 8 steps of 2 * 15 * 127 = 30,480
// fit. 8-bit: one step, with the sign moved to the activation, is at most 2 * 128 * 127 = 32,512.
struct Acc4 {
    __m256i pairs;
    int32_t zero_point;
};
using Acc8 = __m256i;
struct Weights4 {
    __m256i w;
};
struct Weights8 {
    __m256i w, magnitude;
};
inline __m256i four_activations(const int8_t* a) {
    int32_t four;
    std::memcpy(&four, a, 4);
    return _mm256_set1_epi32(four);
}
inline __m256i load_bytes(const uint8_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
inline Acc4 start4(int32_t zero_point) { return {_mm256_setzero_si256(), zero_point}; }
inline Acc8 start8(int32_t) { return _mm256_setzero_si256(); }
inline Weights4 weights4(const uint8_t* p, int c) {
    __m256i raw = load_bytes(p + 64 * (c % 4));
    if (c >= 4) raw = _mm256_srli_epi16(raw, 4);
    return {_mm256_and_si256(raw, _mm256_set1_epi8(15))};
}
inline Weights8 weights8(const uint8_t* p, int c) {
    const __m256i w = load_bytes(p + 64 * c);
    return {w, _mm256_abs_epi8(w)};
}
inline Acc4 step(Acc4 acc, Weights4 w, const int8_t* a) {
    const __m256i pairs = _mm256_maddubs_epi16(w.w, four_activations(a));
    return {_mm256_add_epi16(acc.pairs, pairs), acc.zero_point};
}
inline Acc8 step(Acc8 acc, Weights8 w, const int8_t* a) {
    const __m256i pairs =
        _mm256_maddubs_epi16(w.magnitude, _mm256_sign_epi8(four_activations(a), w.w));
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
inline Floats to_float(Acc4 acc) {
    const __m256i sums = _mm256_madd_epi16(acc.pairs, _mm256_set1_epi16(1));
    return _mm256_cvtepi32_ps(_mm256_add_epi32(sums, _mm256_set1_epi32(acc.zero_point)));
}
inline Floats to_float(Acc8 acc) { return _mm256_cvtepi32_ps(acc); }

#elif defined(SGRT_ISA_NEON)

constexpr int kL = 4;
constexpr int kMaxRows = 8;
constexpr int kMaxRowsFloat = 8;
using Floats = float32x4_t;

inline Floats set(float a) { return vdupq_n_f32(a); }
inline Floats load(const float* p) { return vld1q_f32(p); }
inline Floats load(const uint16_t* h) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(h))); }
inline Floats load_bfloat(const uint16_t* p) {
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16));
}
inline void store(float* p, Floats a) { vst1q_f32(p, a); }
inline Floats mul(Floats a, Floats b) { return vmulq_f32(a, b); }
inline Floats add(Floats a, Floats b) { return vaddq_f32(a, b); }
inline Floats fma(Floats a, Floats b, Floats c) { return vfmaq_f32(c, a, b); }

using Acc4 = int32x4_t;
using Acc8 = int32x4_t;
struct Weights {
    int8x16_t w;
};
inline Acc4 start4(int32_t zero_point) { return vdupq_n_s32(zero_point); }
inline Acc8 start8(int32_t) { return vdupq_n_s32(0); }
inline Weights weights4(const uint8_t* p, int c) {
    const uint8x16_t raw = vld1q_u8(p + 64 * (c % 4));
    return {vreinterpretq_s8_u8(c >= 4 ? vshrq_n_u8(raw, 4) : vandq_u8(raw, vdupq_n_u8(15)))};
}
inline Weights weights8(const uint8_t* p, int c) { return {vreinterpretq_s8_u8(vld1q_u8(p + 64 * c))}; }
inline int32x4_t step(int32x4_t acc, Weights w, const int8_t* a) {
    int32_t four;
    std::memcpy(&four, a, 4);
    return vdotq_s32(acc, w.w, vreinterpretq_s8_s32(vdupq_n_s32(four)));
}
inline Floats to_float(int32x4_t acc) { return vcvtq_f32_s32(acc); }

#else

constexpr int kL = 16;
constexpr int kMaxRows = 2;
constexpr int kMaxRowsFloat = 4;
using Floats = V;

inline Floats set(float a) { return vset(a); }
inline Floats load(const float* p) { return vload(p); }
inline Floats load(const uint16_t* h) { return vload(h); }
inline Floats load_bfloat(const uint16_t* p) {
    return vmap([&](int i) { return bfloat_to_float(p[i]); });
}
inline void store(float* p, Floats a) { vstore(p, a); }
inline Floats mul(Floats a, Floats b) { return a * b; }
inline Floats add(Floats a, Floats b) { return a + b; }
inline Floats fma(Floats a, Floats b, Floats c) { return vfma(a, b, c); }

struct Acc {
    int32_t sum[kL];
};
using Acc4 = Acc;
using Acc8 = Acc;
struct Weights {
    int8_t w[4 * kL];
};
inline Acc start4(int32_t zero_point) {
    Acc acc;
    for (int i = 0; i < kL; ++i) acc.sum[i] = zero_point;
    return acc;
}
inline Acc start8(int32_t) { return start4(0); }
inline Weights weights4(const uint8_t* p, int c) {
    Weights out;
    const uint8_t* raw = p + 64 * (c % 4);
    for (int i = 0; i < 4 * kL; ++i) out.w[i] = int8_t(c >= 4 ? raw[i] >> 4 : raw[i] & 15);
    return out;
}
inline Weights weights8(const uint8_t* p, int c) {
    Weights out;
    std::memcpy(out.w, p + 64 * c, sizeof out.w);
    return out;
}
inline Acc step(Acc acc, const Weights& w, const int8_t* a) {
    for (int i = 0; i < kL; ++i) {
        for (int j = 0; j < 4; ++j) acc.sum[i] += int32_t(w.w[4 * i + j]) * a[j];
    }
    return acc;
}
inline Floats to_float(const Acc& acc) {
    return vmap([&](int i) { return float(acc.sum[i]); });
}

#endif

}  // namespace sgrt::dot
