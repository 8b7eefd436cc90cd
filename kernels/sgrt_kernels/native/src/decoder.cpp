#include "decoder.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "api.h"
#include "threads.h"

namespace sgrt {
namespace {

// y = x / sqrt(mean(x^2) + eps) * weight. x and y may be the same.
void rms_norm(const float* x, const float* weight, int n, float eps, float* y) {
    V squares = vzero();
    int i = 0;
    for (; i + kLanes <= n; i += kLanes) squares = vfma(vload(x + i), vload(x + i), squares);
    float sum = vsum(squares);
    for (; i < n; ++i) sum += x[i] * x[i];
    const float inverse = 1.0f / std::sqrt(sum / float(n) + eps);
    for (i = 0; i + kLanes <= n; i += kLanes) {
        vstore(y + i, vload(x + i) * vset(inverse) * vload(weight + i));
    }
    for (; i < n; ++i) y[i] = x[i] * inverse * weight[i];
}

// Turns channel i with channel i + half.
void rotate(float* x, const float* cos, const float* sin, int half) {
    for (int i = 0; i < half; ++i) {
        const float a = x[i], b = x[i + half];
        x[i] = a * cos[i] - b * sin[i];
        x[i + half] = b * cos[i] + a * sin[i];
    }
}

V silu(V x) { return x / (vset(1.0f) + vexp(vzero() - x)); }

void store_tile(const float* tile, const float* bias, int n, float* to) {
    V sum = vload(tile);
    if (bias != nullptr) {
        float padded[kTileRows] = {};
        std::memcpy(padded, bias, sizeof(float) * size_t(n));
        sum = sum + vload(padded);
    }
    vstore(to, sum);
}

int64_t pages_needed(int64_t positions, int page_size) {
    return round_up(positions, page_size) / page_size;
}

}  // namespace

void Decoder::Rows::reserve(int rows) {
    if (rows <= capacity) return;
    memory = allocate_aligned(size_t(rows) * size_t(stride) * sizeof(float));
    capacity = rows;
}

Decoder::Decoder(const DecoderSpec& spec)
    : spec_(spec),
      inv_freq_(spec.inv_freq, spec.inv_freq + spec.head_dim / 2),
      layers_(size_t(spec.num_layers)),
      residual_(spec.hidden),
      normed_(spec.hidden),
      q_(spec.num_heads * spec.head_dim),
      k_(spec.num_kv_heads * spec.head_dim),
      v_(spec.num_kv_heads * spec.head_dim),
      attended_(spec.num_heads * spec.head_dim),
      activated_(spec.intermediate) {
    for (int i = 0; i < spec.num_layers; ++i) layers_[size_t(i)].window = spec.windows[i];
}

void Decoder::set_matrix(int layer, Matrix which, PackedLinear weight) {
    layers_[size_t(layer)].matrix[which] = std::move(weight);
}

void Decoder::set_vector(int layer, Vector which, const float* values, int n) {
    auto& to = which == kFinalNorm ? final_norm_ : layers_[size_t(layer)].vector[which];
    to.assign(values, values + n);
}

void Decoder::set_embedding(Format format, const uint8_t* raw) {
    embed_format_ = format;
    embed_ = raw;
}

// ---------------------------------------------------------------- one step

Complaint Decoder::check(const DecoderBatch& batch, const KvPool& kv) const {
    if (batch.query_start[0] != 0) return {Fault::query_start, 0, batch.query_start[0]};
    if (batch.query_start[batch.num_sequences] != batch.num_tokens) {
        return {Fault::query_start, batch.num_sequences, batch.query_start[batch.num_sequences]};
    }
    for (int b = 0; b < batch.num_sequences; ++b) {
        const int64_t n = int64_t(batch.query_start[b + 1]) - batch.query_start[b];
        const int64_t context = batch.context_len[b];
        if (n < 1) return {Fault::query_start, b + 1, batch.query_start[b + 1]};
        if (context < n || context > int64_t(batch.table_width) * kv.page_size) {
            return {Fault::context_len, b, context};
        }
        const int32_t* pages = batch.page_table + int64_t(b) * batch.table_width;
        for (int64_t i = 0; i < pages_needed(context, kv.page_size); ++i) {
            if (pages[i] < 0 || pages[i] >= kv.num_pages) return {Fault::page, b, pages[i]};
        }
    }
    for (int i = 0; i < batch.num_tokens; ++i) {
        const int32_t id = batch.token_ids[i];
        if (id < 0 || id >= spec_.vocab_size) return {Fault::token_id, i, id};
    }
    for (int i = 0; i < batch.num_out; ++i) {
        const int32_t row = batch.out_rows[i];
        if (row < 0 || row >= batch.num_tokens) return {Fault::out_row, i, row};
    }
    return {};
}

Complaint Decoder::forward(const DecoderBatch& batch, const KvPool& kv, float* out) {
    const std::lock_guard<std::mutex> lock(busy_);
    const Complaint complaint = check(batch, kv);
    if (complaint.fault != Fault::none || batch.num_tokens == 0) return complaint;
    set_num_threads(spec_.num_threads);
    prepare(batch, kv);
    embed(batch);
    KvPages pages{kv.k, kv.v, kv.half != 0, spec_.num_kv_heads, spec_.head_dim, kv.page_size};
    const int64_t layer_bytes = int64_t(kv.num_pages) * pages.num_kv_heads * pages.head_elements() *
                                (pages.half ? 2 : 4);
    for (int i = 0; i < spec_.num_layers; ++i) {
        run_layer(layers_[size_t(i)], pages, i + 1 == spec_.num_layers ? &batch : nullptr);
        pages.k = static_cast<uint8_t*>(pages.k) + layer_bytes;
        pages.v = static_cast<uint8_t*>(pages.v) + layer_bytes;
    }
    write_out(batch, out);
    return {};
}

void Decoder::prepare(const DecoderBatch& batch, const KvPool& kv) {
    for (Rows* rows : {&residual_, &normed_, &q_, &k_, &v_, &attended_, &activated_}) {
        rows->reserve(batch.num_tokens);
    }
    table_ = {batch.page_table, batch.table_width};
    tokens_.clear();
    for (int b = 0; b < batch.num_sequences; ++b) {
        const int end = batch.query_start[b + 1];
        for (int row = batch.query_start[b]; row < end; ++row) {
            tokens_.push_back({b, row, batch.context_len[b] - (end - row)});
        }
    }
    rows_.resize(size_t(batch.num_tokens));
    for (int row = 0; row < batch.num_tokens; ++row) rows_[size_t(row)] = row;
    plan_attention(tokens_, table_, kv.page_size, spec_.num_heads / spec_.num_kv_heads, &plan_);
    const int half = spec_.head_dim / 2;
    cos_.resize(size_t(batch.num_tokens) * size_t(half));
    sin_.resize(cos_.size());
    for_rows([&](int row) {
        for (int i = 0; i < half; ++i) {
            // The angle is a float product: what the models were trained with.
            const double angle = float(tokens_[size_t(row)].position) * inv_freq_[size_t(i)];
            cos_[size_t(row * half + i)] = float(std::cos(angle)) * spec_.rope_scale;
            sin_[size_t(row * half + i)] = float(std::sin(angle)) * spec_.rope_scale;
        }
    });
}

void Decoder::embed(const DecoderBatch& batch) {
    const size_t bytes = row_bytes(embed_format_, spec_.hidden);
    for_rows([&](int row) {
        float* x = residual_.row(row);
        dequantize_row(embed_format_, embed_ + size_t(batch.token_ids[row]) * bytes, spec_.hidden, x);
        if (spec_.embed_scale != 1.0f) {
            for (int i = 0; i < spec_.hidden; ++i) x[i] *= spec_.embed_scale;
        }
    });
}

// In the last layer all tokens leave their keys and values, but only the rows that `last` wants go
// on from there.
void Decoder::run_layer(const Layer& layer, const KvPages& pages, const DecoderBatch* last) {
    const PackedLinear* m = layer.matrix;
    normalize(layer.vector[kAttnNorm], m[kQ].quantized() || m[kK].quantized() || m[kV].quantized());
    project_qkv(layer);
    rotate_and_store(layer, pages);
    if (last != nullptr) keep_rows(*last, pages.page_size);
    attend(layer, pages);
    normalize(layer.vector[kMlpNorm], m[kGate].quantized() || m[kUp].quantized());
    gate_and_up(layer);
    add_product(m[kDown], quantized_activated_.view(activated_.row(0), activated_.stride), nullptr);
}

void Decoder::keep_rows(const DecoderBatch& batch, int page_size) {
    rows_.assign(batch.out_rows, batch.out_rows + batch.num_out);
    std::sort(rows_.begin(), rows_.end());
    rows_.erase(std::unique(rows_.begin(), rows_.end()), rows_.end());
    std::vector<QueryToken> kept;
    for (const int32_t row : rows_) kept.push_back(tokens_[size_t(row)]);
    plan_attention(kept, table_, page_size, spec_.num_heads / spec_.num_kv_heads, &plan_);
}

// normed = rms_norm(residual) * weight, and its int8 form
void Decoder::normalize(const std::vector<float>& weight, bool quantize) {
    if (quantize) quantized_.resize(int(tokens_.size()), spec_.hidden);
    for_rows([&](int row) {
        float* to = normed_.row(row);
        rms_norm(residual_.row(row), weight.data(), spec_.hidden, spec_.rms_eps, to);
        if (quantize) quantized_.set_row(row, to);
    });
}

void Decoder::project_qkv(const Layer& layer) {
    struct Part {
        const PackedLinear& w;
        const float* bias;
        const Rows& to;
    };
    const Part parts[] = {{layer.matrix[kQ], layer.optional(kQBias), q_},
                          {layer.matrix[kK], layer.optional(kKBias), k_},
                          {layer.matrix[kV], layer.optional(kVBias), v_}};
    const Activations a = quantized_.view(normed_.row(0), normed_.stride);
    for_tiles(parts[0].w.tiles + parts[1].w.tiles + parts[2].w.tiles,
              [&](int tile, const int32_t* rows, int n) {
                  const Part* part = parts;
                  for (; tile >= part->w.tiles; ++part) tile -= part->w.tiles;
                  const int column = tile * kTileRows;
                  const float* bias = part->bias ? part->bias + column : nullptr;
                  const int width = std::min(kTileRows, part->w.rows - column);
                  alignas(64) float out[kRowChunk * kTileRows];
                  linear_tile(part->w, a, tile, rows, n, out);
                  for (int i = 0; i < n; ++i) {
                      store_tile(out + i * kTileRows, bias, width, part->to.row(rows[i]) + column);
                  }
              });
}

void Decoder::rotate_and_store(const Layer& layer, const KvPages& pages) {
    const int head_dim = spec_.head_dim, half = head_dim / 2;
    const float *q_norm = layer.optional(kQNorm), *k_norm = layer.optional(kKNorm);
    for_rows([&](int row) {
        const QueryToken& token = tokens_[size_t(row)];
        const float *cos = cos_.data() + row * half, *sin = sin_.data() + row * half;
        const auto turn = [&](float* x, const float* norm) {
            if (norm != nullptr) rms_norm(x, norm, head_dim, spec_.rms_eps, x);
            rotate(x, cos, sin, half);
        };
        for (int h = 0; h < spec_.num_heads; ++h) turn(q_.row(row) + h * head_dim, q_norm);
        const int32_t page = table_.row(token.sequence)[token.position / pages.page_size];
        for (int h = 0; h < spec_.num_kv_heads; ++h) {
            float* k = k_.row(row) + h * head_dim;
            turn(k, k_norm);
            write_kv(pages, page, h, token.position % pages.page_size, k, v_.row(row) + h * head_dim);
        }
    });
}

void Decoder::attend(const Layer& layer, const KvPages& pages) {
    const AttentionShape shape{spec_.num_heads, layer.window, spec_.softmax_scale};
    attention(plan_, table_, pages, shape, q_.row(0), attended_.row(0), attended_.stride);
    const PackedLinear& o = layer.matrix[kO];
    if (o.quantized()) {
        quantized_.resize(int(tokens_.size()), o.cols);
        for_rows([&](int row) { quantized_.set_row(row, attended_.row(row)); });
    }
    add_product(o, quantized_.view(attended_.row(0), attended_.stride), layer.optional(kOBias));
}

// residual += a @ w.T + bias
void Decoder::add_product(const PackedLinear& w, const Activations& a, const float* bias) {
    for_tiles(w.tiles, [&](int tile, const int32_t* rows, int n) {
        const int column = tile * kTileRows, width = std::min(kTileRows, w.rows - column);
        alignas(64) float out[kRowChunk * kTileRows];
        linear_tile(w, a, tile, rows, n, out);
        for (int i = 0; i < n; ++i) {
            float* tile_out = out + i * kTileRows;
            if (bias != nullptr) store_tile(tile_out, bias + column, width, tile_out);
            float* x = residual_.row(rows[i]) + column;
            vstore(x, vload(x) + vload(tile_out));
        }
    });
}

// activated = silu(gate) * up, and its int8 form: two tiles at a time make up one group
void Decoder::gate_and_up(const Layer& layer) {
    const PackedLinear &gate = layer.matrix[kGate], &up = layer.matrix[kUp];
    const bool quantize = layer.matrix[kDown].quantized();
    if (quantize) quantized_activated_.resize(int(tokens_.size()), spec_.intermediate);
    const Activations a = quantized_.view(normed_.row(0), normed_.stride);
    constexpr int kPair = kGroup / kTileRows;
    for_tiles((gate.tiles + kPair - 1) / kPair, [&](int group, const int32_t* rows, int n) {
        alignas(64) float gates[kRowChunk * kTileRows], ups[kRowChunk * kTileRows];
        for (int tile = kPair * group; tile < std::min(kPair * (group + 1), gate.tiles); ++tile) {
            linear_tile(gate, a, tile, rows, n, gates);
            linear_tile(up, a, tile, rows, n, ups);
            for (int i = 0; i < n; ++i) {
                const V value = silu(vload(gates + i * kTileRows)) * vload(ups + i * kTileRows);
                vstore(activated_.row(rows[i]) + tile * kTileRows, value);
            }
        }
        if (!quantize) return;
        for (int i = 0; i < n; ++i) {
            quantized_activated_.set_group(rows[i], group, activated_.row(rows[i]) + group * kGroup);
        }
    });
}

void Decoder::write_out(const DecoderBatch& batch, float* out) const {
    for (int i = 0; i < batch.num_out; ++i) {
        rms_norm(residual_.row(batch.out_rows[i]), final_norm_.data(), spec_.hidden, spec_.rms_eps,
                 out + int64_t(i) * spec_.hidden);
    }
}

// Calls fn(row) for every wanted row.
template <class Fn>
void Decoder::for_rows(Fn&& fn) const {
    constexpr int64_t kChunk = 8;
    const int64_t count = int64_t(rows_.size());
    parallel_for(round_up(count, kChunk) / kChunk, [&](int64_t chunk) {
        const int64_t end = std::min(count, (chunk + 1) * kChunk);
        for (int64_t i = chunk * kChunk; i < end; ++i) fn(rows_[size_t(i)]);
    });
}

// Calls fn(tile, rows, n) for every chunk of wanted rows and every tile.
template <class Fn>
void Decoder::for_tiles(int tiles, Fn&& fn) const {
    const int64_t count = int64_t(rows_.size()), chunks = round_up(count, kRowChunk) / kRowChunk;
    parallel_for(tiles * chunks, [&](int64_t task) {
        const int64_t begin = task / tiles * kRowChunk;
        fn(int(task % tiles), rows_.data() + begin, int(std::min<int64_t>(kRowChunk, count - begin)));
    });
}

}  // namespace sgrt

// ---------------------------------------------------------------- C interface

using namespace sgrt;

SGRT_API void* sgrt_decoder_new(const DecoderSpec* spec) {
    try {
        return new Decoder(*spec);
    } catch (const std::bad_alloc&) {
        return nullptr;
    }
}

SGRT_API void sgrt_decoder_free(void* decoder) { delete static_cast<Decoder*>(decoder); }

// 0, 1 where memory runs out, 2 where the matrix cannot be packed.
SGRT_API int sgrt_decoder_set_matrix(void* decoder, int layer, int which, int format, int rows,
                                     int cols, const void* raw) {
    if (!can_pack(format, rows, cols)) return 2;
    try {
        static_cast<Decoder*>(decoder)->set_matrix(
            layer, Matrix(which),
            pack_linear(Format(format), rows, cols, static_cast<const uint8_t*>(raw)));
    } catch (const std::bad_alloc&) {
        return 1;
    }
    return 0;
}

SGRT_API void sgrt_decoder_set_vector(void* decoder, int layer, int which, const float* values, int n) {
    static_cast<Decoder*>(decoder)->set_vector(layer, Vector(which), values, n);
}

SGRT_API void sgrt_decoder_set_embedding(void* decoder, int format, const void* raw) {
    static_cast<Decoder*>(decoder)->set_embedding(Format(format), static_cast<const uint8_t*>(raw));
}

// A Fault; complaint[2] receives its index and value.
SGRT_API int sgrt_decoder_forward(void* decoder, const DecoderBatch* batch, const KvPool* kv,
                                  float* out, int64_t* complaint) {
    try {
        const Complaint c = static_cast<Decoder*>(decoder)->forward(*batch, *kv, out);
        complaint[0] = c.index;
        complaint[1] = c.value;
        return int(c.fault);
    } catch (const std::bad_alloc&) {
        return int(Fault::out_of_memory);
    }
}
