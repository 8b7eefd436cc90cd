// Takes one token of a row from its logits. Computing the logits: sample_head.cpp.
#include "sample.h"

#include <algorithm>
#include <cmath>
#include <memory>
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

// Memory that only grows and is not cleared.
template <class T>
class Buffer {
  public:
    T* need(int64_t n) {
        if (n > size_) data_.reset(new T[size_t(size_ = n)]);
        return data_.get();
    }

  private:
    std::unique_ptr<T[]> data_;
    int64_t size_ = 0;
};

// Memory of one thread for one row at a time.
struct Scratch {
    Buffer<int32_t> ids, kept_ids, buckets;
    Buffer<float> values, adjusted, kept_values;
    Buffer<int64_t> weights;
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

// Removes the banned tokens; returns how many are left.
int remove_banned(const SampleRequest& q, int64_t r, int32_t* ids, float* values, int count) {
    const int32_t* ban = q.banned_ids + q.banned_start[r];
    const int32_t* ban_end = q.banned_ids + q.banned_start[r + 1];
    int kept = 0;
    for (int i = 0; i < count; ++i) {
        while (ban != ban_end && *ban < ids[i]) ++ban;
        if (ban != ban_end && *ban == ids[i]) continue;
        ids[kept] = ids[i];
        values[kept++] = values[i];
    }
    return kept;
}

int unpack_bitmask(const uint32_t* words, int64_t vocab_size, int32_t* ids) {
    int32_t* out = ids;
    const int64_t num_words = (vocab_size + 31) / 32;
    for (int64_t w = 0; w < num_words; ++w) {
        uint32_t word = words[w];
        const int64_t beyond = (w + 1) * 32 - vocab_size;  // bits that name no token
        if (beyond > 0) word &= 0xffffffffu >> beyond;
        for (; word; word &= word - 1) *out++ = int32_t(w * 32 + __builtin_ctz(word));
    }
    return int(out - ids);
}

// Ids that the mask allows; returns how many.
int masked_ids(const SampleRequest& q, int64_t r, int32_t* ids) {
    if (q.kind[r] == kBitmask) {
        return unpack_bitmask(q.mask(r), q.vocab_size, ids);
    }
    if (q.kind[r] == kFree) {
        for (int64_t i = 0; i < q.vocab_size; ++i) ids[i] = int32_t(i);
        return int(q.vocab_size);
    }
    const int32_t begin = SampleRequest::begin(q.few_start, r);
    const int32_t count = SampleRequest::begin(q.few_start, r + 1) - begin;
    std::copy_n(q.few_ids + begin, count, ids);
    return count;
}

// The mask less the banned tokens, with the model's logits (zeros where it was not asked).
Tokens allowed_tokens(const SampleRequest& q, int64_t r, RowLogits logits, Scratch& scratch) {
    const int num_banned =
        SampleRequest::begin(q.banned_start, r + 1) - SampleRequest::begin(q.banned_start, r);
    if (q.kind[r] == kFree && !num_banned) return {nullptr, logits.all, int(q.vocab_size)};
    int32_t* ids = scratch.ids.need(q.vocab_size);
    int count = masked_ids(q, r, ids);
    float* values = scratch.values.need(q.vocab_size);
    for (int i = 0; i < count; ++i) {
        values[i] = logits.all ? logits.all[ids[i]] : logits.listed ? logits.listed[i] : 0.0f;
    }
    if (num_banned) count = remove_banned(q, r, ids, values, count);
    return {ids, values, count};
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
    const int32_t history = SampleRequest::begin(q.history_start, r);
    const int32_t history_end = SampleRequest::begin(q.history_start, r + 1);
    const int32_t bias = SampleRequest::begin(q.bias_start, r);
    const int32_t bias_end = SampleRequest::begin(q.bias_start, r + 1);
    if (history == history_end && bias == bias_end) return true;
    float* values = scratch.adjusted.need(tokens.count);
    std::copy_n(tokens.values, tokens.count, values);
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

// Fixed-point exp(score) of each token; returns their sum.
int64_t weigh(const float* values, int n, Scale scale, int64_t* weights) {
    int64_t total = 0;
    for (int i = 0; i < n; ++i) total += weights[i] = weight(scale.score(values[i]));
    return total;
}

// Order of tokens: value, then lowest id (as index).
inline uint64_t rank_key(float value, int index) {
    const uint32_t falling = ~(uint32_t(ordered(value)) ^ 0x80000000u);
    return uint64_t(falling) << 32 | uint32_t(index);
}

// The smallest set of best tokens whose amounts reach `wanted` (amounts null: each counts 1), as
// the key of its last token.
//
// Amounts are summed by bucket of value first, so only the bucket where the sum passes `wanted` is
// sorted. Buckets reach from the best value down to `depth` below; the last takes the rest.
uint64_t last_of_smallest(const Tokens& tokens, const int64_t* amounts, double wanted, float best,
                          float depth, Scratch& scratch) {
    constexpr int kBuckets = 1024, kCopies = 4;  // copies: successive additions do not wait
    // within bounds that keep 0 * infinity away
    const float scale = float(kBuckets) / std::clamp(depth, 1e-27f, 1e38f);
    const float* values = tokens.values;
    int32_t* bucket_of = scratch.buckets.need(tokens.count);
    for (int i = 0; i < tokens.count; ++i) {
        float bucket = (best - values[i]) * scale;
        bucket = bucket > float(kBuckets - 1) ? float(kBuckets - 1) : bucket;
        bucket_of[i] = int32_t(bucket);
    }
    int64_t sums[kBuckets][kCopies] = {};
    for (int i = 0; i < tokens.count; ++i) sums[bucket_of[i]][i % kCopies] += amounts ? amounts[i] : 1;
    const auto sum = [&](int b) { return sums[b][0] + sums[b][1] + sums[b][2] + sums[b][3]; };
    int64_t before = 0;
    int bucket = 0;
    for (; bucket < kBuckets - 1 && double(before + sum(bucket)) < wanted; ++bucket) {
        before += sum(bucket);
    }
    std::vector<uint64_t>& ranked = scratch.ranked;
    ranked.clear();
    for (int i = 0; i < tokens.count; ++i) {
        if (bucket_of[i] == bucket) ranked.push_back(rank_key(values[i], i));
    }
    std::sort(ranked.begin(), ranked.end());
    uint64_t last = 0;
    for (uint64_t key : ranked) {
        if (double(before) >= wanted) break;
        before += amounts ? amounts[uint32_t(key)] : 1;
        last = key;
    }
    return last;
}

// The tokens for which keep(index) holds, ascending.
template <class Keep>
Tokens select(const Tokens& tokens, Scratch& scratch, Keep keep) {
    int32_t* ids = scratch.kept_ids.need(tokens.count);
    float* values = scratch.kept_values.need(tokens.count);
    int count = 0;
    for (int i = 0; i < tokens.count; ++i) {
        const int32_t id = tokens.id(i);
        const float value = tokens.values[i];
        ids[count] = id;  // count <= i: works in place; no branch, as the outcome is anybody's guess
        values[count] = value;
        count += keep(i);
    }
    return {ids, values, count};
}

float depth_of(const Tokens& tokens, double best) {
    int32_t lowest = INT32_MAX;
    for (int i = 0; i < tokens.count; ++i) lowest = std::min(lowest, ordered(tokens.values[i]));
    const int32_t bits = lowest ^ (lowest >> 31 & 0x7fffffff);
    float value;
    std::memcpy(&value, &bits, 4);
    return float(best) - value;
}

Tokens keep_top_k(const Tokens& tokens, int k, Scale scale, Scratch& scratch) {
    const float depth = depth_of(tokens, scale.best);
    const uint64_t last =
        last_of_smallest(tokens, nullptr, k, float(scale.best), depth, scratch);
    return select(tokens, scratch, [&](int i) { return rank_key(tokens.values[i], i) <= last; });
}

Tokens keep_top_p(const Tokens& tokens, double p, Scale scale, Scratch& scratch) {
    int64_t* weights = scratch.weights.need(tokens.count);
    const int64_t total = weigh(tokens.values, tokens.count, scale, weights);
    const double weightless = 32.0 * scale.temperature;  // scores below have no weight
    const float depth = float(std::min(weightless, double(depth_of(tokens, scale.best))));
    const uint64_t last = last_of_smallest(tokens, weights, p * double(total), float(scale.best),
                                           depth, scratch);
    return select(tokens, scratch, [&](int i) { return rank_key(tokens.values[i], i) <= last; });
}

Tokens keep_min_p(const Tokens& tokens, double p, Scale scale, Scratch& scratch) {
    int64_t* weights = scratch.weights.need(tokens.count);
    weigh(tokens.values, tokens.count, scale, weights);
    const double least = p * double(int64_t(1) << kWeightBits);
    return select(tokens, scratch, [&](int i) { return double(weights[i]) >= least; });
}

Tokens filtered(const SampleRequest& q, int64_t r, Tokens tokens, Scale scale, Scratch& scratch) {
    const int top_k = q.top_k[r];
    if (top_k > 0 && top_k < tokens.count) tokens = keep_top_k(tokens, top_k, scale, scratch);
    if (q.top_p[r] < 1) tokens = keep_top_p(tokens, q.top_p[r], scale, scratch);
    if (q.min_p[r] > 0) tokens = keep_min_p(tokens, q.min_p[r], scale, scratch);
    return tokens;
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
void mark_contenders(const NoiseKey& key, const int32_t* ids, const float* values, int count,
                     float best, float slope, double top, uint8_t* marks) {
    uint32_t words[kBlock];
    for (int i = 0; i < count; ++i) words[i] = uint32_t(key.philox<Lane>(ids[i]).c0);
    const float shift = float(128.0 + 0.01 - top * 1.4426950408889634);
    for (int i = 0; i < count; ++i) {
        float exponent = (values[i] - best) * slope + shift;
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
        const int count = std::min(kBlock, tokens.count - first);
        int32_t ids[kBlock];
        for (int i = 0; i < count; ++i) ids[i] = tokens.id(first + i);
        uint8_t marks[kBlock] = {};
        mark_contenders(key, ids, tokens.values + first, count, float(scale.best), slope, top,
                        marks);
        if (std::memchr(marks, 1, kBlock) == nullptr) continue;
        for (int i = 0; i < count; ++i) {
            if (!marks[i]) continue;
            const int at = first + i;
            const double score = scale.score(tokens.values[at]) + gumbel(key, ids[i]);
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
    int64_t* weights = scratch.weights.need(tokens.count);
    const int64_t total = weigh(tokens.values, tokens.count, Scale{best, 1.0}, weights);
    const double log_total = best + std::log(double(total)) - kWeightBits * std::log(2.0);
    const auto logprob = [&](int32_t token) {
        const int at = tokens.find(token);
        return at < 0 ? -INFINITY : float(tokens.values[at] - log_total);
    };
    if (!q.has_targets(r)) result.logprobs[r] = logprob(result.token_ids[r]);
    for (int32_t i = q.begin(q.target_start, r); i < q.begin(q.target_start, r + 1); ++i) {
        result.target_logprobs[i] = logprob(q.target_ids[i]);
    }
    const int num_top = std::min(q.num_top[r], tokens.count);
    if (num_top <= 0) return;
    const uint64_t last = last_of_smallest(tokens, nullptr, num_top, float(best),
                                           depth_of(tokens, best), scratch);
    std::vector<uint64_t>& ranked = scratch.ranked;
    ranked.clear();
    for (int i = 0; i < tokens.count; ++i) {
        const uint64_t key = rank_key(tokens.values[i], i);
        if (key <= last) ranked.push_back(key);
    }
    std::sort(ranked.begin(), ranked.end());
    for (int k = 0; k < num_top; ++k) {
        const int i = int(uint32_t(ranked[size_t(k)]));
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
    if (!q.has_targets(r)) result.token_ids[r] = take_token(q, r, adjusted, scratch);
    if (q.wants_logprob(r)) report(q, r, unmasked ? all : allowed, scratch, result);
}

}  // namespace sgrt
