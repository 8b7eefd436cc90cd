// The logits that a batch of masked rows needs, tile by tile of the head, and the C entry points.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <new>
#include <vector>

#include "api.h"
#include "linear.h"
#include "sample.h"
#include "threads.h"

namespace sgrt {
namespace {

constexpr int64_t kRowsAtOnce = 64;  // bounds the logits held: 64 rows of the vocabulary
constexpr int64_t kTilesPerTask = 8;

// Listed tokens [begin, end) of a row that lie in one tile.
struct Piece {
    int32_t row, begin, end;
};

// The logits of rows [first, last), and which tiles of the head they come from.
class Chunk {
  public:
    Chunk(const SampleRequest& request, const PackedLinear& head, int64_t first, int64_t last)
        : q_(request), head_(head), first_(first), last_(last) {
        find_slots();
        sort_listed();
        find_tiles();
    }

    // Dot products computed.
    int64_t compute(const Activations& hidden) {
        std::atomic<int64_t> computed{0};
        const int64_t tasks = (int64_t(tiles_.size()) + kTilesPerTask - 1) / kTilesPerTask;
        parallel_for(tasks, [&](int64_t task) {
            const size_t begin = size_t(task * kTilesPerTask);
            const size_t end = std::min(tiles_.size(), begin + size_t(kTilesPerTask));
            int64_t rows = 0;
            for (size_t i = begin; i < end; ++i) rows += compute_tile(hidden, tiles_[i]);
            computed += rows * kTileRows;
        });
        return computed;
    }

    void sample(const SampleResult& result) const {
        parallel_for(last_ - first_, [&](int64_t i) {
            const int64_t r = first_ + i;
            RowLogits logits;
            if (q_.needs_all(r)) logits.all = full_row(r);
            if (q_.needs_listed(r)) logits.listed = listed_.data() + (SampleRequest::begin(q_.few_start, r) - base());
            sample_row(q_, r, logits, result);
        });
    }

  private:
    int32_t base() const { return SampleRequest::begin(q_.few_start, first_); }
    float* full_row(int64_t r) const { return full_ + slot_[size_t(r - first_)] * stride(); }
    int64_t stride() const { return int64_t(head_.tiles) * kTileRows; }

    void find_slots() {
        int64_t slots = 0;
        for (int64_t r = first_; r < last_; ++r) slot_.push_back(q_.needs_all(r) ? slots++ : -1);
        thread_local std::vector<float> memory;  // kept between calls: it is large
        if (memory.size() < size_t(slots * stride())) memory.resize(size_t(slots * stride()));
        full_ = memory.data();
    }

    // Pieces of all rows with lists, sorted by tile (by counting).
    void sort_listed() {
        listed_.resize(size_t(SampleRequest::begin(q_.few_start, last_) - base()));
        std::vector<Piece> pieces;
        piece_start_.assign(size_t(head_.tiles) + 1, 0);
        for (int64_t r = first_; r < last_; ++r) {
            if (!q_.needs_listed(r)) continue;
            const int32_t end = SampleRequest::begin(q_.few_start, r + 1);
            for (int32_t i = SampleRequest::begin(q_.few_start, r); i < end;) {
                const int32_t tile = q_.few_ids[i] / kTileRows, begin = i;
                while (i < end && q_.few_ids[i] / kTileRows == tile) ++i;
                pieces.push_back({int32_t(r), begin, i});
                ++piece_start_[size_t(tile) + 1];
            }
        }
        if (pieces.empty()) return;
        for (int t = 0; t < head_.tiles; ++t) piece_start_[size_t(t) + 1] += piece_start_[size_t(t)];
        pieces_.resize(pieces.size());
        std::vector<int32_t> next(piece_start_.begin(), piece_start_.end() - 1);
        for (const Piece& piece : pieces) {
            pieces_[size_t(next[size_t(q_.few_ids[piece.begin] / kTileRows)]++)] = piece;
        }
    }

    bool mask_touches(int64_t r, int tile) const {
        const uint32_t word = q_.mask(r)[tile / 2];
        return word >> (tile % 2 * kTileRows) & 0xffffu;
    }

    bool touches(int64_t r, int tile) const {
        if (!q_.needs_all(r)) return false;
        return q_.kind[r] != kBitmask || q_.wants_unmasked(r) || mask_touches(r, tile);
    }

    void find_tiles() {
        const int tiles = int((q_.vocab_size + kTileRows - 1) / kTileRows);
        for (int t = 0; t < tiles; ++t) {
            bool used = piece_start_[size_t(t)] < piece_start_[size_t(t) + 1];
            for (int64_t r = first_; r < last_ && !used; ++r) used = touches(r, t);
            if (used) tiles_.push_back(t);
        }
    }

    int compute_tile(const Activations& hidden, int tile) {
        int32_t source[kRowsAtOnce];
        float* target[kRowsAtOnce];
        int count = 0;
        for (int64_t r = first_; r < last_; ++r) {
            if (!touches(r, tile)) continue;
            target[count] = full_row(r) + int64_t(tile) * kTileRows;
            source[count++] = q_.hidden_row[r];
        }
        const int full = count;
        const int32_t begin = piece_start_[size_t(tile)], end = piece_start_[size_t(tile) + 1];
        for (int32_t p = begin; p < end; ++p) source[count++] = q_.hidden_row[pieces_[size_t(p)].row];
        float out[kRowsAtOnce * kTileRows];
        linear_tile(head_, hidden, tile, source, count, out);
        for (int i = 0; i < full; ++i) std::memcpy(target[i], out + i * kTileRows, 4 * kTileRows);
        for (int32_t p = begin; p < end; ++p) {
            const Piece& piece = pieces_[size_t(p)];
            const float* from = out + (full + p - begin) * kTileRows;
            for (int32_t i = piece.begin; i < piece.end; ++i) {
                listed_[size_t(i - base())] = from[q_.few_ids[i] % kTileRows];
            }
        }
        return count;
    }

    const SampleRequest& q_;
    const PackedLinear& head_;
    const int64_t first_, last_;
    float* full_ = nullptr;         // [slots, stride]
    std::vector<int64_t> slot_;     // per row, or -1
    std::vector<float> listed_;     // like few_ids of these rows
    std::vector<Piece> pieces_;     // sorted by tile
    std::vector<int32_t> piece_start_;  // [tiles + 1]
    std::vector<int> tiles_;        // with work, ascending
};

Activations activations(const PackedLinear& head, const float* hidden, int64_t num_hidden,
                        QuantizedRows& quantized) {
    const int n = int(num_hidden), cols = head.cols;
    if (!head.quantized()) return {n, cols, hidden, cols, nullptr};
    quantized.resize(n, cols);
    quantize_rows(hidden, n, cols, cols, &quantized);
    return quantized.view(hidden, cols);
}

int64_t head_sample(const PackedLinear& head, const float* hidden, int64_t num_hidden,
                    const SampleRequest& q, const SampleResult& result) {
    bool needs_head = false;
    for (int64_t r = 0; r < q.num_rows; ++r) needs_head |= q.needs_all(r) || q.needs_listed(r);
    thread_local QuantizedRows quantized;
    Activations x;
    if (needs_head) x = activations(head, hidden, num_hidden, quantized);
    int64_t computed = 0;
    for (int64_t first = 0; first < q.num_rows; first += kRowsAtOnce) {
        Chunk chunk(q, head, first, std::min(q.num_rows, first + kRowsAtOnce));
        computed += chunk.compute(x);
        chunk.sample(result);
    }
    return computed;
}

}  // namespace
}  // namespace sgrt

using namespace sgrt;

SGRT_API int64_t sgrt_sample_layout() { return kSampleLayout; }

// Draws a token per row from hidden states [num_hidden, cols]. Returns the dot products computed,
// or -1 for no memory.
SGRT_API int64_t sgrt_head_sample(const void* head, const float* hidden, int64_t num_hidden,
                                  const SampleRequest* request, const SampleResult* result) {
    try {
        return head_sample(*static_cast<const PackedLinear*>(head), hidden, num_hidden, *request,
                           *result);
    } catch (const std::bad_alloc&) {
        return -1;
    }
}

// Draws a token per row from given logits: row r at logits + r * stride.
SGRT_API int64_t sgrt_sample_logits(const float* logits, int64_t stride,
                                    const SampleRequest* request, const SampleResult* result) {
    parallel_for(request->num_rows, [&](int64_t r) {
        sample_row(*request, r, RowLogits{logits + r * stride, nullptr}, *result);
    });
    return 0;
}
