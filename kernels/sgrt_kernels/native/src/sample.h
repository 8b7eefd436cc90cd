// head_sample: one token per row from hidden states, under a mask.
//
// The definition is sgrt_kernels/head_sample/reference.py. Given the same logits, tokens are equal
// to its, bit for bit. `head_sample/native.py` mirrors the two structs with ctypes.
#pragma once

#include <cstdint>

namespace sgrt {

// Of the two structs; counted up with every change of them.
constexpr int64_t kSampleLayout = 4;

enum RowKind : uint8_t { kFree = 0, kBitmask = 1, kFew = 2, kForced = 3 };
enum RowStatus : uint8_t { kDrawn = 0, kNoAllowedToken = 1, kBadLogits = 2 };

// Arrays over R rows, checked by the caller. Lists: row r owns [start[r], start[r + 1]), token ids
// ascending; a null start means that no row has a list.
struct SampleRequest {
    int64_t num_rows;
    int64_t vocab_size;
    const int32_t* hidden_row;
    // which tokens
    const uint8_t* kind;
    const uint32_t* bitmask;  // [M, mask_words]
    int64_t mask_words;
    const int32_t* mask_row;  // [R]: where the mask of a kBitmask row stands; null: row r
    const int32_t* few_ids;
    const int32_t* few_start;
    const int32_t* banned_ids;
    const int32_t* banned_start;
    // how one is taken
    const int32_t* history_ids;
    const int32_t* history_prompt_counts;
    const int32_t* history_output_counts;
    const int32_t* history_start;
    const int32_t* bias_ids;
    const float* bias_values;
    const int32_t* bias_start;
    const int32_t* target_ids;
    const int32_t* target_start;
    const float* temperature;
    const int32_t* top_k;
    const double* top_p;
    const double* min_p;
    const uint64_t* seed;
    const int64_t* position;
    const float* repetition;
    const float* presence;
    const float* frequency;
    // what is reported
    const int32_t* num_top;
    const uint8_t* unmasked;
    int64_t max_top;  // stride of top_ids and top_logprobs

    // Such a row takes no token.
    bool has_targets(int64_t r) const { return begin(target_start, r) < begin(target_start, r + 1); }
    bool wants_logprob(int64_t r) const { return num_top[r] >= 0 || has_targets(r); }
    bool wants_unmasked(int64_t r) const { return unmasked[r] && wants_logprob(r); }
    // More of the head than the listed rows.
    bool needs_all(int64_t r) const { return kind[r] <= kBitmask || wants_unmasked(r); }
    bool needs_listed(int64_t r) const { return kind[r] == kFew && !wants_unmasked(r); }
    const uint32_t* mask(int64_t r) const {
        return bitmask + (mask_row ? mask_row[r] : r) * mask_words;
    }
    // Where the list of row r begins; that of the row before ends there.
    static int32_t begin(const int32_t* start, int64_t r) { return start ? start[r] : 0; }
};

// Left as they are where a row has nothing to say.
struct SampleResult {
    uint8_t* status;      // [R] RowStatus
    int32_t* token_ids;   // [R]
    float* logprobs;      // [R]
    int32_t* top_ids;     // [R, max_top]
    float* top_logprobs;  // [R, max_top]
    float* target_logprobs;  // like target_ids
};

// The model's logits of row r: all of them, or those of its listed tokens in order; at most one of
// the two is set (none for a forced row without unmasked log-probabilities).
struct RowLogits {
    const float* all = nullptr;     // [vocab_size]; of a kBitmask row only the allowed ones are set
    const float* listed = nullptr;  // [few_start[r + 1] - few_start[r]]
};

// Takes the token of row r and reports on it. Thread-safe for different rows.
void sample_row(const SampleRequest& request, int64_t r, RowLogits logits,
                const SampleResult& result);

}  // namespace sgrt
