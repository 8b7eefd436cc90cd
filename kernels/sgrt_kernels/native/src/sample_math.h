// Random numbers and elementary functions whose every bit is defined.
//
// The definition, with sources, is sgrt_kernels/head_sample/exact.py; this file repeats its
// operations one by one. It must be compiled without contraction of a * b + c (-ffp-contract=off).
#pragma once

#include <cstdint>
#include <cstring>

namespace sgrt {

constexpr int kWeightBits = 44;

// Philox-4x32 with 10 rounds, on one or on many counters: Lane holds a word in 32 or more bits.
template <class Lane>
struct Philox {
    Lane c0, c1, c2, c3;

    inline void run(uint32_t key0, uint32_t key1) {
#pragma GCC unroll 10
        for (int round = 0; round < 10; ++round) {
            const uint64_t x = uint64_t(uint32_t(c0)) * 0xD2511F53u;
            const uint64_t y = uint64_t(uint32_t(c2)) * 0xCD9E8D57u;
            c0 = Lane(y >> 32) ^ c1 ^ key0;
            c1 = Lane(y);
            c2 = Lane(x >> 32) ^ c3 ^ key1;
            c3 = Lane(x);
            key0 += 0x9E3779B9u;
            key1 += 0xBB67AE85u;
        }
    }
};

// What the noise of a row depends on, besides the token id.
struct NoiseKey {
    uint32_t seed_low, seed_high, position_low, position_high;

    NoiseKey(uint64_t seed, int64_t position)
        : seed_low(uint32_t(seed)),
          seed_high(uint32_t(seed >> 32)),
          position_low(uint32_t(position)),
          position_high(uint32_t(uint64_t(position) >> 32)) {}

    template <class Lane>
    inline Philox<Lane> philox(int32_t token_id) const {
        Philox<Lane> state{Lane(uint32_t(token_id)), position_low, position_high, 0};
        state.run(seed_low, seed_high);
        return state;
    }
};

inline double bits_to_double(uint64_t bits) {
    double value;
    std::memcpy(&value, &bits, 8);
    return value;
}

inline uint64_t double_to_bits(double value) {
    uint64_t bits;
    std::memcpy(&bits, &value, 8);
    return bits;
}

inline double exact_log(double x) {
    const uint64_t bits = double_to_bits(x);
    double exponent = double(int64_t(bits >> 52) - 1023);
    double m = bits_to_double((bits & 0xFFFFFFFFFFFFFu) | uint64_t(1023) << 52);
    if (m >= 1.4142135623730951) {
        m = m * 0.5;
        exponent = exponent + 1.0;
    }
    const double f = m - 1.0;
    const double s = f / (f + 2.0);
    const double z = s * s;
    double series = 1.0 / 23.0;
    for (int k = 10; k >= 1; --k) series = series * z + 1.0 / double(2 * k + 1);
    const double twice = s + s;
    return exponent * 0.6931471805599453 + (twice * (z * series) + twice);
}

inline double gumbel(const NoiseKey& key, int32_t token_id) {
    const Philox<uint32_t> word = key.philox<uint32_t>(token_id);
    const uint64_t n = uint64_t(word.c0) << 20 | word.c1 >> 12;
    const double uniform = (double(int64_t(n)) + 0.5) * 0x1p-52;
    return -exact_log(-exact_log(uniform));
}

// exp(x) * 2^kWeightBits for x <= 0, rounded to an integer, half to even. Rounds by adding numbers
// whose last bit is worth 1: vectors of any instruction set can do that.
inline int64_t weight(double x) {
    constexpr double kRound = 0x1.8p52, kRoundPositive = 0x1p52;
    // max(x, -40) without a branch, which some compilers do not turn into vectors
    const uint64_t keep = uint64_t(x < -40.0) - 1;
    x = bits_to_double((double_to_bits(x) & keep) | (double_to_bits(-40.0) & ~keep));
    const double shifted = x * 1.4426950408889634 + kRound;
    const double k = shifted - kRound;
    const int64_t exponent = int64_t(double_to_bits(shifted) - double_to_bits(kRound));
    const double r = (x - k * (2977044471.0 / 4294967296.0)) - k * 1.9082149292705877e-10;
    double series = 1.0 / 6227020800.0;
    series = series * r + 1.0 / 479001600.0;
    series = series * r + 1.0 / 39916800.0;
    series = series * r + 1.0 / 3628800.0;
    series = series * r + 1.0 / 362880.0;
    series = series * r + 1.0 / 40320.0;
    series = series * r + 1.0 / 5040.0;
    series = series * r + 1.0 / 720.0;
    series = series * r + 1.0 / 120.0;
    series = series * r + 1.0 / 24.0;
    series = series * r + 1.0 / 6.0;
    series = series * r + 0.5;
    const double value = (series * r) * r + r + 1.0;
    const double scale = bits_to_double(uint64_t(exponent + 1023 + kWeightBits) << 52);
    return int64_t(double_to_bits(value * scale + kRoundPositive) - double_to_bits(kRoundPositive));
}

}  // namespace sgrt
