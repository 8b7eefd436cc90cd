// Weight formats as files store them. Layouts: see sgrt_kernels/quant/reference.py, the definition.
#pragma once

#include <cstddef>
#include <cstdint>

namespace sgrt {

// Values are GGUF type ids.
enum class Format : int32_t {
    F32 = 0,
    F16 = 1,
    Q4_0 = 2,
    Q4_1 = 3,
    Q8_0 = 8,
    Q4_K = 12,
    Q6_K = 14,
    BF16 = 30,
};

constexpr int kGroup = 32;  // columns that share an activation scale

bool is_known(int32_t format);
bool is_quantized(Format format);
int block_size(Format format);
size_t row_bytes(Format format, int64_t cols);

// 32 columns of one row: value[i] = scale[i / 16] * quant[i] + offset.
struct Group32 {
    int8_t quant[kGroup];
    float scale[2];
    float offset;
};

// Group g of a row of a quantised format. 4-bit quants are 0..15, the zero point not subtracted.
Group32 read_group(Format format, const uint8_t* row, int64_t g);

// A row as floats: the same values as the reference, bit for bit.
void dequantize_row(Format format, const uint8_t* row, int64_t cols, float* out);

}  // namespace sgrt
