#include "attention.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "linear.h"
#include "threads.h"

namespace sgrt {
namespace {

constexpr int kBlocks = kSpan / kLanes;
constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

// Queries that are computed together, and how many vectors each of them keeps in registers.
constexpr int kQueries = 6;
#if defined(SGRT_ISA_AVX512)
constexpr int kVectors = 4;
#else
constexpr int kVectors = 1;
#endif

// Sixteen positions as the kernels read them: k[channel * k_stride + position],
// v[position * v_stride + channel].
template <class T>
struct Block {
    const T* k;
    const T* v;
};

template <class T>
struct Span {
    Block<T> block[kBlocks];
    int64_t k_stride, v_stride;
    int num_blocks;
};

// scores[i * kSpan + position] = q[i] . k[position]
template <int N, class T>
void score(const Span<T>& span, const float* const* q, int head_dim, float* scores) {
    for (int b = 0; b < span.num_blocks; b += kVectors) {
        V sum[N][kVectors];
        for (int i = 0; i < N; ++i) {
            for (int j = 0; j < kVectors; ++j) sum[i][j] = vzero();
        }
        for (int c = 0; c < head_dim; ++c) {
            V k[kVectors];
            for (int j = 0; j < kVectors; ++j) k[j] = vload(span.block[b + j].k + c * span.k_stride);
            for (int i = 0; i < N; ++i) {
                const V qc = vset(q[i][c]);
                for (int j = 0; j < kVectors; ++j) sum[i][j] = vfma(qc, k[j], sum[i][j]);
            }
        }
        for (int i = 0; i < N; ++i) {
            for (int j = 0; j < kVectors; ++j) {
                vstore(scores + i * kSpan + (b + j) * kLanes, sum[i][j]);
            }
        }
    }
}

// sums[i][channel] += weights[i][position] * v[position][channel], position in [begin, end)
template <int N, int J, class T>
void accumulate_channels(const Span<T>& span, const float* weights, int begin, int end, int channel,
                         float* const* sums) {
    V sum[N][J];
    for (int i = 0; i < N; ++i) {
        for (int j = 0; j < J; ++j) sum[i][j] = vload(sums[i] + channel + j * kLanes);
    }
    for (int p = begin; p < end; ++p) {
        const T* v = span.block[p / kLanes].v + (p % kLanes) * span.v_stride + channel;
        V value[J];
        for (int j = 0; j < J; ++j) value[j] = vload(v + j * kLanes);
        for (int i = 0; i < N; ++i) {
            const V weight = vset(weights[i * kSpan + p]);
            for (int j = 0; j < J; ++j) sum[i][j] = vfma(weight, value[j], sum[i][j]);
        }
    }
    for (int i = 0; i < N; ++i) {
        for (int j = 0; j < J; ++j) vstore(sums[i] + channel + j * kLanes, sum[i][j]);
    }
}

template <int N, class T>
void accumulate(const Span<T>& span, const float* weights, int begin, int end, int channels,
                float* const* sums) {
    int channel = 0;
    for (; channel + kVectors * kLanes <= channels; channel += kVectors * kLanes) {
        accumulate_channels<N, kVectors>(span, weights, begin, end, channel, sums);
    }
    for (; channel < channels; channel += kLanes) {
        accumulate_channels<N, 1>(span, weights, begin, end, channel, sums);
    }
}

// A query on its way through its spans.
struct State {
    const float* q;
    float* sum;        // [channels]: weighted values
    float* normalizer; // [kLanes]: sums of weights
    float best;        // highest score so far
    int begin, end;    // positions that it sees
};

// Turn a query's scores of a span into weights e^(score - best), 0 where it does not see.
void fold_scores(State* state, int first, int num_blocks, float scale, int channels, float* scores) {
    const int begin = std::max(state->begin - first, 0);
    const int end = std::min(state->end - first, kSpan);
    const auto fill_unseen = [&](float value) {
        std::fill(scores, scores + begin, value);
        std::fill(scores + end, scores + num_blocks * kLanes, value);
    };
    fill_unseen(kMinusInfinity);
    V highest = vset(kMinusInfinity);
    for (int b = 0; b < num_blocks; ++b) highest = vmax(highest, vload(scores + b * kLanes));
    const float best = std::max(state->best, vmaximum(highest));
    V normalizer = vload(state->normalizer);
    if (best > state->best) {
        const V shrink =
            state->best == kMinusInfinity ? vzero() : vexp(vset((state->best - best) * scale));
        for (int c = 0; c < channels; c += kLanes) vstore(state->sum + c, vload(state->sum + c) * shrink);
        normalizer = normalizer * shrink;
        state->best = best;
    }
    const V top = vset(state->best), s = vset(scale);
    for (int b = 0; b < num_blocks; ++b) {
        vstore(scores + b * kLanes, vexp((vload(scores + b * kLanes) - top) * s));
    }
    fill_unseen(0.0f);
    for (int b = 0; b < num_blocks; ++b) normalizer = normalizer + vload(scores + b * kLanes);
    vstore(state->normalizer, normalizer);
}

// Memory of a thread, kept from task to task.
struct Scratch {
    std::vector<State> states;
    std::vector<State*> active;
    std::vector<float> sums, k, v;
};

// The work of one unit and one kv head, with its memory.
class Worker {
  public:
    Worker(const AttentionPlan& plan, const PageTable& table, const KvPages& pages,
           const AttentionShape& shape, Scratch* scratch)
        : plan_(plan),
          table_(table),
          pages_(pages),
          shape_(shape),
          group_(shape.num_heads / pages.num_kv_heads),
          channels_(int(round_up(pages.head_dim, kLanes))),
          states_(scratch->states),
          active_(scratch->active),
          sums_(scratch->sums),
          k_(scratch->k),
          v_(scratch->v) {}

    template <class T>
    void run(const AttentionUnit& unit, int kv_head, const float* q, float* out, int64_t stride);

  private:
    void start(const AttentionUnit& unit, int kv_head, const float* q, int64_t stride);
    template <class T>
    void fold(int sequence, int kv_head, int span, int first_query, int last_query);
    template <class T>
    void fold_group(const Span<T>& span, int first, State** states, int n);
    template <class T>
    void prefetch(const int32_t* table, int kv_head, int first, int end) const;
    template <class T>
    Span<T> in_place(const int32_t* table, int kv_head, int first, int end) const;
    template <class T>
    Span<float> copied(const int32_t* table, int kv_head, int first, int end);
    void finish(const AttentionUnit& unit, int kv_head, float* out, int64_t stride) const;

    const AttentionPlan& plan_;
    const PageTable& table_;
    const KvPages& pages_;
    const AttentionShape& shape_;
    const int group_;     // query heads per kv head
    const int channels_;  // head_dim, rounded up to whole vectors
    std::vector<State>& states_;
    std::vector<State*>& active_;
    std::vector<float>&sums_, &k_, &v_;
};

void Worker::start(const AttentionUnit& unit, int kv_head, const float* q, int64_t stride) {
    const size_t n = size_t(unit.count) * size_t(group_), width = size_t(channels_ + kLanes);
    states_.resize(n);
    sums_.assign(n * width, 0.0f);
    for (size_t i = 0; i < n; ++i) {
        const QueryToken& token = plan_.tokens[size_t(unit.first) + i / size_t(group_)];
        const int head = kv_head * group_ + int(i % size_t(group_));
        State& state = states_[i];
        state.q = q + token.row * stride + int64_t(head) * pages_.head_dim;
        state.sum = sums_.data() + i * width;
        state.normalizer = state.sum + channels_;
        state.best = kMinusInfinity;
        state.end = token.position + 1;
        state.begin = shape_.window > 0 ? std::max(0, state.end - shape_.window) : 0;
    }
}

// Ask for the pages of the span that begins at `first`; positions from `end` on are not needed.
template <class T>
void Worker::prefetch(const int32_t* table, int kv_head, int first, int end) const {
    constexpr int64_t kLine = 64;
    const int64_t bytes = pages_.head_elements() * int64_t(sizeof(T));
    end = std::min(end, first + kSpan);
    for (int position = first; position < end; position += pages_.page_size) {
        const int64_t at = pages_.offset(table[position / pages_.page_size], kv_head);
        const char* k = reinterpret_cast<const char*>(static_cast<const T*>(pages_.k) + at);
        const char* v = reinterpret_cast<const char*>(static_cast<const T*>(pages_.v) + at);
        for (int64_t i = 0; i < bytes; i += kLine) {
            __builtin_prefetch(k + i);
            __builtin_prefetch(v + i);
        }
    }
}

// Positions [first, end) of a span, read where they lie; pages must hold whole blocks.
template <class T>
Span<T> Worker::in_place(const int32_t* table, int kv_head, int first, int end) const {
    Span<T> span;
    span.k_stride = pages_.page_size;
    span.v_stride = pages_.head_dim;
    span.num_blocks = (end - first + kLanes - 1) / kLanes;
    for (int b = 0; b < kBlocks; ++b) {
        // Registers are filled four blocks at a time: where fewer are needed, read one twice.
        const int position = first + (b < span.num_blocks ? b : 0) * kLanes;
        const int64_t at = pages_.offset(table[position / pages_.page_size], kv_head);
        const int slot = position % pages_.page_size;
        span.block[b].k = static_cast<const T*>(pages_.k) + at + slot;
        span.block[b].v = static_cast<const T*>(pages_.v) + at + int64_t(slot) * pages_.head_dim;
    }
    return span;
}

inline float to_float(float x) { return x; }
inline float to_float(uint16_t x) { return half_to_float(x); }

// The same positions converted to floats, k transposed to [channel][position].
template <class T>
Span<float> Worker::copied(const int32_t* table, int kv_head, int first, int end) {
    const int head_dim = pages_.head_dim, size = pages_.page_size;
    k_.resize(size_t(head_dim) * kSpan);
    v_.resize(size_t(kSpan) * size_t(channels_));
    const bool whole = size % kLanes == 0 && head_dim % kLanes == 0;
    for (int position = first; position < end; position += whole ? kLanes : 1) {
        const int64_t at = pages_.offset(table[position / size], kv_head);
        const int slot = position % size;
        const T* k = static_cast<const T*>(pages_.k) + at + slot;
        const T* v = static_cast<const T*>(pages_.v) + at + int64_t(slot) * head_dim;
        float* k_to = k_.data() + (position - first);
        float* v_to = v_.data() + size_t(position - first) * size_t(channels_);
        if (whole) {
            for (int c = 0; c < head_dim; ++c) vstore(k_to + c * kSpan, vload(k + int64_t(c) * size));
            for (int c = 0; c < head_dim * kLanes; c += kLanes) vstore(v_to + c, vload(v + c));
        } else {
            for (int c = 0; c < head_dim; ++c) k_to[c * kSpan] = to_float(k[int64_t(c) * size]);
            for (int c = 0; c < head_dim; ++c) v_to[c] = to_float(v[c]);
            std::fill(v_to + head_dim, v_to + channels_, 0.0f);
        }
    }
    Span<float> span;
    span.k_stride = kSpan;
    span.v_stride = channels_;
    span.num_blocks = (end - first + kLanes - 1) / kLanes;
    for (int b = 0; b < kBlocks; ++b) {
        span.block[b] = {k_.data() + b * kLanes, v_.data() + size_t(b) * kLanes * size_t(channels_)};
    }
    return span;
}

template <class T>
void Worker::fold_group(const Span<T>& span, int first, State** states, int n) {
    alignas(64) float scores[kQueries * kSpan];
    const float* q[kQueries];
    float* sums[kQueries];
    int begin = kSpan, end = 0;
    for (int i = 0; i < n; ++i) {
        q[i] = states[i]->q;
        sums[i] = states[i]->sum;
        begin = std::min(begin, std::max(states[i]->begin - first, 0));
        end = std::max(end, std::min(states[i]->end - first, kSpan));
    }
    with_count<kQueries>(n, [&](auto count) { score<count.value>(span, q, pages_.head_dim, scores); });
    for (int i = 0; i < n; ++i) {
        fold_scores(states[i], first, span.num_blocks, shape_.scale, channels_, scores + i * kSpan);
    }
    with_count<kQueries>(n, [&](auto count) {
        accumulate<count.value>(span, scores, begin, end, channels_, sums);
    });
}

// Queries [first_query, last_query) take in one span.
template <class T>
void Worker::fold(int sequence, int kv_head, int span, int first_query, int last_query) {
    const int first = span * kSpan;
    int end = first;
    active_.clear();
    for (int i = first_query; i < last_query; ++i) {
        State& state = states_[size_t(i)];
        if (state.end <= first || state.begin >= first + kSpan) continue;
        active_.push_back(&state);
        end = std::max(end, std::min(state.end, first + kSpan));
    }
    const int n = int(active_.size());
    if (n == 0) return;
    const int32_t* table = table_.row(sequence);
    // One group converts as it reads; for more it pays to convert once, into memory that stays hot.
    if (n <= kQueries && pages_.page_size % kLanes == 0 && pages_.head_dim % kLanes == 0) {
        prefetch<T>(table, kv_head, first + kSpan, active_.back()->end);
        fold_group(in_place<T>(table, kv_head, first, end), first, active_.data(), n);
        return;
    }
    const Span<float> floats = copied<T>(table, kv_head, first, end);
    for (int i = 0; i < n; i += kQueries) {
        fold_group(floats, first, active_.data() + i, std::min(kQueries, n - i));
    }
}

void Worker::finish(const AttentionUnit& unit, int kv_head, float* out, int64_t stride) const {
    for (size_t i = 0; i < states_.size(); ++i) {
        const QueryToken& token = plan_.tokens[size_t(unit.first) + i / size_t(group_)];
        const int head = kv_head * group_ + int(i % size_t(group_));
        float* to = out + token.row * stride + int64_t(head) * pages_.head_dim;
        const State& state = states_[i];
        const V total = vset(vsum(vload(state.normalizer)));
        for (int c = 0; c < channels_; c += kLanes) vstore(state.sum + c, vload(state.sum + c) / total);
        std::memcpy(to, state.sum, sizeof(float) * size_t(pages_.head_dim));
    }
}

template <class T>
void Worker::run(const AttentionUnit& unit, int kv_head, const float* q, float* out, int64_t stride) {
    start(unit, kv_head, q, stride);
    const QueryToken* tokens = plan_.tokens.data() + unit.first;
    for (int span = 0; span < unit.shared_spans; ++span) {
        fold<T>(tokens[0].sequence, kv_head, span, 0, int(states_.size()));
    }
    for (int i = 0, next; i < unit.count; i = next) {
        for (next = i + 1; next < unit.count && tokens[next].sequence == tokens[i].sequence;) ++next;
        const int end = tokens[next - 1].position + 1;
        for (int span = unit.shared_spans; span * kSpan < end; ++span) {
            fold<T>(tokens[i].sequence, kv_head, span, i * group_, next * group_);
        }
    }
    finish(unit, kv_head, out, stride);
}

// ---------------------------------------------------------------- planning

// Spans at the start of two page tables that lie in the same pages, at most `limit`.
int common_spans(const int32_t* a, const int32_t* b, int limit, int page_size) {
    int span = 0;
    for (; span < limit; ++span) {
        const int first = span * kSpan / page_size, last = (span * kSpan + kSpan - 1) / page_size;
        for (int page = first; page <= last; ++page) {
            if (a[page] != b[page]) return span;
        }
    }
    return span;
}

struct Run {  // consecutive tokens of one sequence
    int32_t first, count;
};

std::vector<Run> runs_of(const std::vector<QueryToken>& tokens, int max_count) {
    std::vector<Run> runs;
    for (int32_t i = 0; i < int32_t(tokens.size()); ++i) {
        const bool joins = !runs.empty() && runs.back().count < max_count &&
                           tokens[size_t(i)].sequence == tokens[size_t(runs.back().first)].sequence;
        if (joins) {
            ++runs.back().count;
        } else {
            runs.push_back({i, 1});
        }
    }
    return runs;
}

}  // namespace

void plan_attention(const std::vector<QueryToken>& tokens, const PageTable& table, int page_size,
                    int heads_per_kv, AttentionPlan* plan) {
    constexpr int kMaxQueries = 48;  // their sums and a converted span fit the first-level cache
    const int max_count = std::max(1, kMaxQueries / heads_per_kv);
    std::vector<Run> runs = runs_of(tokens, max_count);
    const auto pages = [&](const Run& run) { return table.row(tokens[size_t(run.first)].sequence); };
    // Whole spans that every token of the run has behind or under it.
    const auto spans = [&](const Run& run) { return (tokens[size_t(run.first)].position + 1) / kSpan; };
    std::stable_sort(runs.begin(), runs.end(), [&](const Run& a, const Run& b) {
        const int32_t *pa = pages(a), *pb = pages(b);
        const int64_t n = std::min(spans(a), spans(b)) * int64_t(kSpan) / page_size;
        for (int64_t i = 0; i < n; ++i) {
            if (pa[i] != pb[i]) return pa[i] < pb[i];
        }
        return spans(a) < spans(b);
    });
    plan->tokens.clear();
    plan->units.clear();
    for (const Run& run : runs) {
        AttentionUnit* last = plan->units.empty() ? nullptr : &plan->units.back();
        int shared = 0;
        if (last != nullptr && last->count + run.count <= max_count) {
            const QueryToken& leader = plan->tokens[size_t(last->first)];
            const int limit = std::min({last->shared_spans, spans(run), (leader.position + 1) / kSpan});
            shared = common_spans(table.row(leader.sequence), pages(run), limit, page_size);
        }
        // Join only where most of what is shared stays shared.
        if (shared > 0 && 2 * shared >= last->shared_spans) {
            last->shared_spans = shared;
            last->count += run.count;
        } else {
            plan->units.push_back({int32_t(plan->tokens.size()), run.count, spans(run)});
        }
        plan->tokens.insert(plan->tokens.end(), tokens.begin() + run.first,
                            tokens.begin() + run.first + run.count);
    }
}

void write_kv(const KvPages& pages, int32_t page, int kv_head, int slot, const float* k,
              const float* v) {
    const int64_t at = pages.offset(page, kv_head);
    const int size = pages.page_size, head_dim = pages.head_dim;
    const int64_t v_at = at + int64_t(slot) * head_dim;
    if (!pages.half) {
        float* to = static_cast<float*>(pages.k) + at + slot;
        for (int c = 0; c < head_dim; ++c) to[int64_t(c) * size] = k[c];
        std::memcpy(static_cast<float*>(pages.v) + v_at, v, sizeof(float) * size_t(head_dim));
        return;
    }
    constexpr float kLimit = 65504.0f;
    uint16_t* k_to = static_cast<uint16_t*>(pages.k) + at + slot;
    uint16_t* v_to = static_cast<uint16_t*>(pages.v) + v_at;
    for (int c = 0; c < head_dim; c += kLanes) {
        const int n = std::min(kLanes, head_dim - c);
        float in[2][kLanes] = {};
        uint16_t half[2][kLanes];
        for (int i = 0; i < n; ++i) in[0][i] = std::min(std::max(k[c + i], -kLimit), kLimit);
        for (int i = 0; i < n; ++i) in[1][i] = std::min(std::max(v[c + i], -kLimit), kLimit);
        vstore(half[0], vload(in[0]));
        vstore(half[1], vload(in[1]));
        for (int i = 0; i < n; ++i) k_to[int64_t(c + i) * size] = half[0][i];
        std::memcpy(v_to + c, half[1], sizeof(uint16_t) * size_t(n));
    }
}

void attention(const AttentionPlan& plan, const PageTable& table, const KvPages& pages,
               const AttentionShape& shape, const float* q, float* out, int64_t stride) {
    // Late units of a prompt have the most to read: begin with them.
    const int64_t num_units = int64_t(plan.units.size());
    parallel_for(num_units * pages.num_kv_heads, [&](int64_t task) {
        const AttentionUnit& unit = plan.units[size_t(num_units - 1 - task / pages.num_kv_heads)];
        const int kv_head = int(task % pages.num_kv_heads);
        thread_local Scratch scratch;
        Worker worker(plan, table, pages, shape, &scratch);
        if (pages.half) {
            worker.run<uint16_t>(unit, kv_head, q, out, stride);
        } else {
            worker.run<float>(unit, kv_head, q, out, stride);
        }
    });
}

}  // namespace sgrt
