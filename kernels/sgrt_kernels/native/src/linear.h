// Products of activation rows with weight matrices that stay in their storage format.
//
// Laws: an output's bits depend on its activation row and the weights only, never on the number
// of rows, their order, the tile or the thread. Integer parts are exact; floats accumulate in
// column order, one group of 32 columns after the other.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "format.h"

namespace sgrt {

constexpr int kTileRows = 16;  // output rows that are interleaved in memory and computed together

constexpr int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// A weight matrix [rows, cols], repacked in tiles of 16 rows. The last tile is filled up with rows
// of zeros, so outputs beyond `rows` are exactly 0.
//
// Tile of a quantised format, G = cols / 32:
//   G times the 16 scales of a group (then 16 offsets, or 16 scales of its second half),
//   G times the quants of a group: for each 4 columns, 16 rows x 4 bytes;
//   4-bit quants hold columns 0..15 in the low and 16..31 in the high halves of the bytes.
// Tile of a float format: for each column, 16 values.
struct PackedLinear {
    Format format = Format::F32;
    int rows = 0;
    int cols = 0;
    int tiles = 0;
    size_t scale_bytes = 0;  // of a tile, before its quants
    size_t tile_bytes = 0;
    std::shared_ptr<uint8_t> data;

    const uint8_t* tile(int t) const { return data.get() + size_t(t) * tile_bytes; }
    bool quantized() const { return is_quantized(format); }
};

// Whether pack_linear can take it: known format, rows and cols >= 1, cols a multiple of the block.
bool can_pack(int32_t format, int64_t rows, int64_t cols);

// Copies a matrix out of its file bytes (row-major, rows one after another).
PackedLinear pack_linear(Format format, int rows, int cols, const uint8_t* raw);

// 32 activations of a row as int8, with what a weight kernel needs to know of them: one cache line.
struct alignas(64) ActivationGroup {
    int8_t q[kGroup];         // x = scale * q
    float scale;
    float scaled_sum;         // scale * (sum of q)
    int32_t zero8;            // -8 * sum of q: what a zero point of 8 adds to an integer product
    int32_t zero128;          // -128 * sum of q
    int32_t zero128_half[2];  // -128 * sum of each 16
};

// Rows of activations: floats (for float weights), int8 with scales (for quantised weights), or both.
struct Activations {
    int rows = 0;
    int cols = 0;
    const float* x = nullptr;  // [rows] of x_stride floats
    int64_t x_stride = 0;
    const ActivationGroup* groups = nullptr;  // [rows, cols / 32]

    // The rows from `row` on.
    Activations from(int row) const {
        Activations rest = *this;
        rest.rows -= row;
        if (x) rest.x += row * x_stride;
        if (groups) rest.groups += int64_t(row) * (cols / kGroup);
        return rest;
    }
};

// Quantises 32 values (symmetric, scale = max / 127, half to even). A group whose largest value is
// below 1e-30 becomes zeros; one that holds NaN or infinity gets the scale NaN.
void quantize_group(const float* x, ActivationGroup* group);

// Owner of the int8 form of some rows; grows, never shrinks.
class QuantizedRows {
  public:
    void resize(int rows, int cols);  // contents are undefined afterwards
    // Quantises row `row` from cols floats (a multiple of 32).
    void set_row(int row, const float* x);
    void set_group(int row, int group, const float* x);
    // The rows as they are now, with the floats they came from, if wanted.
    Activations view(const float* x = nullptr, int64_t x_stride = 0) const;

  private:
    int rows_ = 0, cols_ = 0;
    std::vector<ActivationGroup> groups_;
};

// Quantises rows [n, cols] that lie `stride` floats apart, in parallel.
void quantize_rows(const float* x, int n, int cols, int64_t stride, QuantizedRows* out);

// Products of some rows with one tile: out[i][0..15] for rows row_idx[0..num_rows), or rows
// 0..num_rows where row_idx is null. Activations need `groups` for quantised and `x` for float formats.
void linear_tile(const PackedLinear& w, const Activations& a, int tile, const int32_t* row_idx,
                 int num_rows, float* out);

// Rows that go through all tiles before the next ones do: their activations stay in a near cache
// and the results of a tile in the nearest, while the weights of a tile pass through.
constexpr int kRowChunk = 64;

// The same for all rows and tiles, in parallel: out[row * out_stride + output]. Writes 16 * tiles
// floats of each row.
void linear(const PackedLinear& w, const Activations& a, float* out, int64_t out_stride);

// Zeroed memory that suits streaming: 64-byte aligned, in huge pages where the system has them.
std::shared_ptr<uint8_t> allocate_aligned(size_t bytes);

}  // namespace sgrt
