// Takes one token of a row from its logits. Computing the logits: sample_head.cpp.
#include "sample.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "sample_math.h"

namespace sgrt {
namespace {

constexpr int kBlock = 64;  // tokens whose random words are computed together

// Integers that order like the floats they come from; -0 equals +0.
inline int32_t ordered(float value) {
    value += 0.0f;
    int32_t bits;
    std::memcpy(&bits, &value, 4);
    return bits ^ (bits >> 31 & 0x7fffffff);
}

// Tokens of a row, ascending, with a number each.
struct Tokens {
    const int32_t* ids = nullptr;  // null where token i stands at index i
    const float* values = nullptr;
    int count = 0;

    int32_t id(int i) const { return ids ? ids[i] : i; }

    // Index of a token, or -1.
    int find(int32_t token) const {
        if (!ids) return token < count ? token : -1;
        const int32_t* at = std::lower_bound(ids, ids + count, token);
        return at != ids + count && *at == token ? int(at - ids) : -1;
    }
};

// Memory of one thread; grows to the largest row it has seen.
struct Scratch {
    std::vector<int32_t> ids, kept_ids;
    std::vector<float> values, adjusted, kept_values;
    std::vector<uint64_t> ranked;

    static Scratch& mine() {
        thread_local Scratch scratch;
        return scratch;
    }
};

bool all_finite(const float* values, int n) {
    int32_t largest = 0;
    for (int i = 0; i < n; ++i) {
        int32_t bits;
        std::memcpy(&bits, values + i, 4);
        largest = std::max(largest, bits & 0x7fffffff);
    }
    return largest < 0x7f800000;
}

// Index of the highest value, the first of equals. n >= 1.
int best_index(const float* values, int n) {
    constexpr int kStep = 512;
    int32_t best = INT32_MIN;
    int best_at = 0;
    for (int at = 0; at < n; at += kStep) {
        const int end = std::min(n, at + kStep);
        int32_t top = INT32_MIN;
        for (int i = at; i < end; ++i) top = std::max(top, ordered(values[i]));
        if (top > best) best = top, best_at = at;
    }
    while (ordered(values[best_at]) != best) ++best_at;
    return best_at;
}

// ---- which tokens

void remove_banned(const SampleRequest& q, int64_t r, Scratch& scratch) {
    const int32_t* ban = q.banned_ids + q.banned_start[r];
    const int32_t* ban_end = q.banned_ids + q.banned_start[r + 1];
    size_t kept = 0;
    for (size_t i = 0; i < scratch.ids.size(); ++i) {
        while (ban != ban_end && *ban < scratch.ids[i]) ++ban;
        if (ban != ban_end && *ban == scratch.ids[i]) continue;
        scratch.ids[kept] = scratch.ids[i];
        scratch.values[kept++] = scratch.values[i];
    }
    scratch.ids.resize(kept);
    scratch.values.resize(kept);
}

void unpack_bitmask(const SampleRequest& q, const uint32_t* words, std::vector<int32_t>& ids) {
    ids.resize(size_t(q.vocab_size));
    int32_t* out = ids.data();
    const int64_t num_words = (q.vocab_size + 31) / 32;
    for (int64_t w = 0; w < num_words; ++w) {
        uint32_t word = words[w];
        const int64_t beyond = (w + 1) * 32 - q.vocab_size;  // bits that name no token
        if (beyond > 0) word &= 0xffffffffu >> beyond;
        for (; word; word &= word - 1) *out++ = int32_t(w * 32 + __builtin_ctz(word));
    }
    ids.resize(size_t(out - ids.data()));
}

// The mask less the banned tokens, with the model's logits (zeros where it was not asked).
Tokens allowed_tokens(const SampleRequest& q, int64_t r, RowLogits logits, Scratch& scratch) {
    const int num_banned = q.banned_start[r + 1] - q.banned_start[r];
    auto& ids = scratch.ids;
    auto& values = scratch.values;
    if (q.kind[r] == kFree) {
        if (!num_banned) return {nullptr, logits.all, int(q.vocab_size)};
        ids.resize(size_t(q.vocab_size));
        for (size_t i = 0; i < ids.size(); ++i) ids[i] = int32_t(i);
    } else if (q.kind[r] == kBitmask) {
        unpack_bitmask(q, q.bitmask + r * q.mask_words, ids);
    } else {
        ids.assign(q.few_ids + q.few_start[r], q.few_ids + q.few_start[r + 1]);
    }
    values.resize(ids.size());
    if (logits.all) {
        for (size_t i = 0; i < ids.size(); ++i) values[i] = logits.all[ids[i]];
    } else if (logits.listed) {
        std::copy_n(logits.listed, ids.size(), values.data());
    } else {
        std::fill(values.begin(), values.end(), 0.0f);
    }
    if (num_banned) remove_banned(q, r, scratch);
    return {ids.data(), values.data(), int(ids.size())};
}

// ---- penalties and bias

float penalised(const SampleRequest& q, int64_t r, int32_t entry, float value) {
    const int32_t output = q.history_output_counts[entry];
    if (q.history_prompt_counts[entry] > 0 || output > 0) {
        value = value > 0 ? value / q.repetition[r] : value * q.repetition[r];
    }
    value = value - q.frequency[r] * float(output);
    return output > 0 ? value - q.presence[r] : value;
}

// Returns false where a changed value is not finite.
bool adjust(const SampleRequest& q, int64_t r, Scratch& scratch, Tokens& tokens) {
    const int32_t history = q.history_start[r], history_end = q.history_start[r + 1];
    const int32_t bias = q.bias_start[r], bias_end = q.bias_start[r + 1];
    if (history == history_end && bias == bias_end) return true;
    scratch.adjusted.assign(tokens.values, tokens.values + tokens.count);
    float* values = scratch.adjusted.data();
    for (int32_t e = history; e < history_end; ++e) {
        const int i = tokens.find(q.history_ids[e]);
        if (i >= 0) values[i] = penalised(q, r, e, values[i]);
    }
    for (int32_t e = bias; e < bias_end; ++e) {
        const int i = tokens.find(q.bias_ids[e]);
        if (i >= 0) values[i] += q.bias_values[e];
    }
    tokens.values = values;
    return all_finite(values, tokens.count);
}

// ---- filters

// Scores are relative to the best, so that a tiny temperature leaves the noise its bits.
struct Scale {
    double best;
    double temperature;
    double score(float value) const { return (double(value) - best) / temperature; }
};

int64_t total_weight(const float* values, int n, Scale scale) {
    int64_t total = 0;
    for (int i = 0; i < n; ++i) total += weight(scale.score(values[i]));
    return total;
}

// The m best indices in rank order (value, then lowest id), as (inverted value, index) in one
// integer. Narrows down by counting before it selects. m <= n.
const std::vector<uint64_t>& rank_best(const float* values, int n, int m, float best,
                                       std::vector<uint64_t>& ranked) {
    float threshold = best;
    for (float depth = 2.0f; m < n; depth *= 2.0f) {
        threshold = best - depth;
        int count = 0;
        for (int i = 0; i < n; ++i) count += values[i] >= threshold;
        if (count >= m) break;
    }
    ranked.clear();
    for (int i = 0; i < n; ++i) {
        if (m < n && !(values[i] >= threshold)) continue;
        const uint32_t falling = ~(uint32_t(ordered(values[i])) ^ 0x80000000u);
        ranked.push_back(uint64_t(falling) << 32 | uint32_t(i));
    }
    if (size_t(m) < ranked.size()) {
        std::nth_element(ranked.begin(), ranked.begin() + m, ranked.end());
        ranked.resize(size_t(m));
    }
    std::sort(ranked.begin(), ranked.end());
    return ranked;
}

// Cuts ranked tokens behind the smallest set whose mass reaches top_p of `total`.
// Returns false where the list ends before that.
bool cut_at_mass(std::vector<uint64_t>& ranked, const float* values, Scale scale, double top_p,
                 int64_t total) {
    const double wanted = top_p * double(total);
    int64_t before = 0;
    for (size_t i = 0; i < ranked.size(); ++i) {
        if (double(before) >= wanted) {
            ranked.resize(i);
            return true;
        }
        before += weight(scale.score(values[uint32_t(ranked[i])]));
    }
    return double(before) >= wanted;
}

// Ranks what top-k and top-p leave.
void rank_kept(const Tokens& tokens, Scale scale, int top_k, double top_p,
               std::vector<uint64_t>& ranked) {
    const int n = tokens.count;
    const float best = float(scale.best);
    if (top_k < n) {
        rank_best(tokens.values, n, top_k, best, ranked);
        int64_t total = 0;
        for (uint64_t key : ranked) total += weight(scale.score(tokens.values[uint32_t(key)]));
        if (top_p < 1) cut_at_mass(ranked, tokens.values, scale, top_p, total);
        return;
    }
    const int64_t total = total_weight(tokens.values, n, scale);
    for (int64_t m = 64;; m *= 8) {
        const int take = int(std::min<int64_t>(m, n));
        rank_best(tokens.values, n, take, best, ranked);
        if (cut_at_mass(ranked, tokens.values, scale, top_p, total) || take == n) return;
    }
}

// What top-k, then top-p, then min-p leave of the tokens, ascending.
Tokens filtered(const SampleRequest& q, int64_t r, const Tokens& tokens, Scale scale,
                Scratch& scratch) {
    const int top_k = q.top_k[r] > 0 ? std::min(q.top_k[r], tokens.count) : tokens.count;
    const bool ranks = top_k < tokens.count || q.top_p[r] < 1;
    if (!ranks && !(q.min_p[r] > 0)) return tokens;
    auto& ids = scratch.kept_ids;
    auto& values = scratch.kept_values;
    ids.clear();
    values.clear();
    const double least = q.min_p[r] * double(int64_t(1) << kWeightBits);
    const auto keep = [&](int i) {
        if (double(weight(scale.score(tokens.values[i]))) < least) return;
        ids.push_back(tokens.id(i));
        values.push_back(tokens.values[i]);
    };
    if (ranks) {
        rank_kept(tokens, scale, top_k, q.top_p[r], scratch.ranked);
        for (uint64_t& key : scratch.ranked) key = uint32_t(key);
        std::sort(scratch.ranked.begin(), scratch.ranked.end());
        for (uint64_t index : scratch.ranked) keep(int(index));
    } else {
        for (int i = 0; i < tokens.count; ++i) keep(i);
    }
    return {ids.data(), values.data(), int(ids.size())};
}

// ---- the draw

#if defined(SGRT_ISA_AVX512)
using Lane = uint64_t;  // one register for a product and its halves; elsewhere words are faster
#else
using Lane = uint32_t;
#endif

// Marks tokens of a block that may reach a score of `top`. A token with score d and uniform u can
// only reach it where -log u <= exp(d - top), and 1 - u <= -log u. The test compares the upper 32
// bits of 1 - u, rounded down, with a power of two above exp(d - top): 0.01 covers the rounding of
// all floats here (together below 1e-4).
void mark_contenders(const NoiseKey& key, const int32_t* ids, int first, const float* values,
                     int count, float best, float slope, double top, uint8_t* marks) {
    uint32_t words[kBlock];
    for (int i = 0; i < count; ++i) {
        words[i] = uint32_t(key.philox<Lane>(ids ? ids[first + i] : first + i).c0);
    }
    const float shift = float(128.0 + 0.01 - top * 1.4426950408889634);
    for (int i = 0; i < count; ++i) {
        float exponent = (values[first + i] - best) * slope + shift;
        exponent = exponent < 28.0f ? 28.0f : exponent;
        exponent = exponent > 129.0f ? 129.0f : exponent;
        const int32_t bits = int32_t(exponent) << 23;  // of 2^(floor(exponent - 128) + 1)
        float bound;
        std::memcpy(&bound, &bits, 4);
        marks[i] = float(int32_t(~words[i] >> 1)) * 0x1p-31f <= bound;
    }
}

// Index of the highest score + noise; ties go to the lowest id. `best` has the highest value.
int draw(const NoiseKey& key, const Tokens& tokens, int best, Scale scale) {
    int winner = best;
    double top = gumbel(key, tokens.id(best));
    const float slope = float(std::min(1.0 / scale.temperature, 1e30) * 1.4426950408889634);
    for (int first = 0; first < tokens.count; first += kBlock) {
        uint8_t marks[kBlock] = {};
        mark_contenders(key, tokens.ids, first, tokens.values,
                        std::min(kBlock, tokens.count - first), float(scale.best), slope, top,
                        marks);
        for (int i = 0; i < kBlock; ++i) {
            if (!marks[i]) continue;
            const int at = first + i;
            const double score = scale.score(tokens.values[at]) + gumbel(key, tokens.id(at));
            if (score > top || (score == top && at < winner)) top = score, winner = at;
        }
    }
    return winner;
}

int32_t take_token(const SampleRequest& q, int64_t r, const Tokens& tokens, Scratch& scratch) {
    const int best = best_index(tokens.values, tokens.count);
    if (q.temperature[r] == 0) return tokens.id(best);
    const Scale scale{double(tokens.values[best]), double(q.temperature[r])};
    const Tokens kept = filtered(q, r, tokens, scale, scratch);
    const int kept_best = kept.find(tokens.id(best));
    return kept.id(draw(NoiseKey(q.seed[r], q.position[r]), kept, kept_best, scale));
}

// ---- log-probabilities

void report(const SampleRequest& q, int64_t r, const Tokens& tokens, Scratch& scratch,
            const SampleResult& result) {
    const double best = tokens.values[best_index(tokens.values, tokens.count)];
    const int64_t total = total_weight(tokens.values, tokens.count, Scale{best, 1.0});
    const double log_total = best + std::log(double(total)) - kWeightBits * std::log(2.0);
    const int taken = tokens.find(result.token_ids[r]);
    result.logprobs[r] = taken < 0 ? -INFINITY : float(tokens.values[taken] - log_total);
    const int num_top = std::min(q.num_top[r], tokens.count);
    if (num_top <= 0) return;
    rank_best(tokens.values, tokens.count, num_top, float(best), scratch.ranked);
    for (int k = 0; k < num_top; ++k) {
        const int i = int(uint32_t(scratch.ranked[size_t(k)]));
        result.top_ids[r * q.max_top + k] = tokens.id(i);
        result.top_logprobs[r * q.max_top + k] = float(tokens.values[i] - log_total);
    }
}

}  // namespace

void sample_row(const SampleRequest& q, int64_t r, RowLogits logits, const SampleResult& result) {
    Scratch& scratch = Scratch::mine();
    const Tokens allowed = allowed_tokens(q, r, logits, scratch);
    const Tokens all{nullptr, logits.all, int(q.vocab_size)};
    const bool unmasked = q.wants_unmasked(r);
    result.status[r] = kNoAllowedToken;
    if (allowed.count == 0) return;
    Tokens adjusted = allowed;
    result.status[r] = kBadLogits;
    if (!all_finite(allowed.values, allowed.count)) return;
    if (unmasked && !all_finite(all.values, all.count)) return;
    if (!adjust(q, r, scratch, adjusted)) return;
    result.status[r] = kDrawn;
    const bool draws = q.target[r] < 0;
    result.token_ids[r] = draws ? take_token(q, r, adjusted, scratch) : q.target[r];
    if (q.wants_logprob(r)) report(q, r, unmasked ? all : allowed, scratch, result);
}

}  // namespace sgrt
