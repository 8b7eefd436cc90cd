// Causal attention over paged keys and values.
//
// Law: a query's result depends on its vector and on the keys and values it sees, never on the
// other queries, on how a prompt was cut into chunks, or on which pages hold the positions. Every
// query folds in spans of 64 positions from the first one it sees to its own, each span by the
// same operations; sharing a page between queries only changes who converts it.
#pragma once

#include <cstdint>
#include <vector>

#include "simd.h"

namespace sgrt {

constexpr int kSpan = 64;  // positions that are folded in together

// The pages of one layer: k [P, K, C, S], v [P, K, S, C], float16 or float.
struct KvPages {
    void* k = nullptr;
    void* v = nullptr;
    bool half = true;
    int num_kv_heads = 0, head_dim = 0, page_size = 0;

    int64_t head_elements() const { return int64_t(head_dim) * page_size; }
    int64_t offset(int32_t page, int kv_head) const {
        return (int64_t(page) * num_kv_heads + kv_head) * head_elements();
    }
};

// Write one position of one kv head. Values beyond the range of float16 are clamped to it: an
// infinity would spoil what other queries fold in with weight 0.
void write_kv(const KvPages& pages, int32_t page, int kv_head, int slot, const float* k, const float* v);

// One query token: which sequence, which row of the query matrix, at which position.
struct QueryToken {
    int32_t sequence;
    int32_t row;
    int32_t position;
};

// Work for one thread and one kv head: tokens [first, first + count), of which all read the same
// pages for their first `shared_spans` spans.
struct AttentionUnit {
    int32_t first = 0;
    int32_t count = 0;
    int32_t shared_spans = 0;
};

struct AttentionPlan {
    std::vector<QueryToken> tokens;  // in the order of the units
    std::vector<AttentionUnit> units;
};

struct PageTable {
    const int32_t* pages = nullptr;  // [sequences, width]
    int64_t width = 0;
    const int32_t* row(int sequence) const { return pages + sequence * width; }
};

// Groups tokens (ordered by sequence, then position) into units: tokens of one sequence, or of
// sequences whose page tables begin alike.
void plan_attention(const std::vector<QueryToken>& tokens, const PageTable& table, int page_size,
                    int heads_per_kv, AttentionPlan* plan);

struct AttentionShape {
    int num_heads = 0;
    int window = 0;    // positions seen, the query's own included; 0 for all
    float scale = 1;   // of q·k; above 0
};

// q and out: [rows] of `stride` floats, heads side by side; out rows are indexed like q rows.
void attention(const AttentionPlan& plan, const PageTable& table, const KvPages& pages,
               const AttentionShape& shape, const float* q, float* out, int64_t stride);

}  // namespace sgrt
