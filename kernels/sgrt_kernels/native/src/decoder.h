// The Llama-family decoder: one call computes one step of a batch. What it computes is described
// by DecoderSpec in sgrt_kernels/decoder/types.py; the laws of linear.h and attention.h make every
// row's result independent of the batch around it.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "attention.h"
#include "linear.h"

namespace sgrt {

// These three are part of the C interface: plain data, mirrored in decoder/native.py.
struct DecoderSpec {
    int32_t num_layers, hidden, num_heads, num_kv_heads, head_dim, intermediate, vocab_size;
    int32_t num_threads;
    float rms_eps, rope_scale, softmax_scale, embed_scale;
    const float* inv_freq;   // [head_dim / 2]
    const int32_t* windows;  // [num_layers], 0 for none
};

struct DecoderBatch {
    const int32_t* token_ids;    // [T]
    const int32_t* query_start;  // [B + 1]
    const int32_t* context_len;  // [B]
    const int32_t* page_table;   // [B, table_width]
    const int32_t* out_rows;     // [R]
    int32_t num_tokens, num_sequences, table_width, num_out;
};

struct KvPool {
    void* k;  // [L, P, K, C, S]
    void* v;  // [L, P, K, S, C]
    int32_t half, num_pages, page_size;
};

// Which matrix or vector of a layer; values are part of the C interface.
enum Matrix : int { kQ, kK, kV, kO, kGate, kUp, kDown, kNumMatrices };
enum Vector : int {
    kAttnNorm,
    kMlpNorm,
    kQBias,
    kKBias,
    kVBias,
    kOBias,
    kQNorm,
    kKNorm,
    kFinalNorm,  // of the model; the layer is ignored
    kNumVectors
};

// What is wrong with a batch; `index` and `value` say where and what.
enum class Fault : int { none, out_of_memory, query_start, token_id, context_len, page, out_row };
struct Complaint {
    Fault fault = Fault::none;
    int64_t index = 0;
    int64_t value = 0;
};

class Decoder {
  public:
    explicit Decoder(const DecoderSpec& spec);

    void set_matrix(int layer, Matrix which, PackedLinear weight);
    void set_vector(int layer, Vector which, const float* values, int n);
    // `raw` must outlive the decoder: rows are read as tokens ask for them.
    void set_embedding(Format format, const uint8_t* raw);

    // out [R, hidden]: states after the final norm. Mutates the KV pages of the new positions.
    Complaint forward(const DecoderBatch& batch, const KvPool& kv, float* out);

  private:
    // Floats [rows, stride], grown on demand. Columns from the width to the stride stay 0.
    struct Rows {
        int width = 0;
        int64_t stride = 0;
        std::shared_ptr<uint8_t> memory;
        int capacity = 0;

        explicit Rows(int columns) : width(columns), stride(round_up(columns, kTileRows)) {}
        void reserve(int rows);
        float* row(int64_t i) const { return reinterpret_cast<float*>(memory.get()) + i * stride; }
    };

    struct Layer {
        PackedLinear matrix[kNumMatrices];
        std::vector<float> vector[kNumVectors];
        int window = 0;

        const float* optional(Vector which) const {
            return vector[which].empty() ? nullptr : vector[which].data();
        }
    };

    Complaint check(const DecoderBatch& batch, const KvPool& kv) const;
    void prepare(const DecoderBatch& batch, const KvPool& kv);
    void embed(const DecoderBatch& batch);
    void run_layer(const Layer& layer, const KvPages& pages, const DecoderBatch* last);
    void keep_rows(const DecoderBatch& batch, int page_size);
    void normalize(const std::vector<float>& weight, bool quantize);
    void project_qkv(const Layer& layer);
    void rotate_and_store(const Layer& layer, const KvPages& pages);
    void attend(const Layer& layer, const KvPages& pages);
    void add_product(const PackedLinear& w, const Activations& a, const float* bias);
    void gate_and_up(const Layer& layer);
    void write_out(const DecoderBatch& batch, float* out) const;
    template <class Fn>
    void for_rows(Fn&& fn) const;
    template <class Fn>
    void for_tiles(int tiles, Fn&& fn) const;

    DecoderSpec spec_;
    std::vector<float> inv_freq_;
    std::vector<Layer> layers_;
    std::vector<float> final_norm_;
    Format embed_format_ = Format::F32;
    const uint8_t* embed_ = nullptr;

    // State of the step that runs; one at a time.
    std::mutex busy_;
    Rows residual_, normed_, q_, k_, v_, attended_, activated_;
    QuantizedRows quantized_, quantized_activated_;
    std::vector<QueryToken> tokens_;
    std::vector<float> cos_, sin_;  // [T, head_dim / 2]
    std::vector<int32_t> rows_;     // rows of the step that are still wanted
    PageTable table_;
    AttentionPlan plan_;
};

}  // namespace sgrt
