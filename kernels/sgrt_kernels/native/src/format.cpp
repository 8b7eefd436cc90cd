#include "format.h"

#include <cstring>

#include "simd.h"

namespace sgrt {
namespace {

uint16_t u16(const uint8_t* p) {
    uint16_t value;
    std::memcpy(&value, p, 2);
    return value;
}

float half_at(const uint8_t* p) { return half_to_float(u16(p)); }

void read_nibbles(const uint8_t* packed, int8_t* quant) {
    for (int i = 0; i < 16; ++i) {
        quant[i] = int8_t(packed[i] & 15);
        quant[i + 16] = int8_t(packed[i] >> 4);
    }
}

Group32 read_q4_0(const uint8_t* block) {
    Group32 out;
    read_nibbles(block + 2, out.quant);
    out.scale[0] = out.scale[1] = half_at(block);
    out.offset = 0;
    return out;
}

Group32 read_q4_1(const uint8_t* block) {
    Group32 out;
    read_nibbles(block + 4, out.quant);
    out.scale[0] = out.scale[1] = half_at(block);
    out.offset = half_at(block + 2);
    return out;
}

Group32 read_q8_0(const uint8_t* block) {
    Group32 out;
    std::memcpy(out.quant, block + 2, kGroup);
    out.scale[0] = out.scale[1] = half_at(block);
    out.offset = 0;
    return out;
}

Group32 read_q4_k(const uint8_t* block, int j) {  // j: which 32 of the 256
    const uint8_t* s = block + 4;                  // twelve bytes of 6-bit scales and minima
    const int scale = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
    const int minimum = j < 4 ? s[j + 4] & 63 : s[j + 4] >> 4 | (s[j] >> 6) << 4;
    const uint8_t* packed = block + 16 + 32 * (j / 2);
    Group32 out;
    for (int i = 0; i < kGroup; ++i) out.quant[i] = int8_t(j % 2 ? packed[i] >> 4 : packed[i] & 15);
    out.scale[0] = out.scale[1] = half_at(block) * float(scale);
    out.offset = -(half_at(block + 2) * float(minimum));
    return out;
}

Group32 read_q6_k(const uint8_t* block, int j) {
    const int half = j / 4, quarter = j % 4;  // 128 columns share 64 low and 32 high bytes
    const uint8_t* low = block + 64 * half + 32 * (quarter % 2);
    const uint8_t* high = block + 128 + 32 * half;
    const int8_t* scales = reinterpret_cast<const int8_t*>(block + 192) + 2 * j;
    Group32 out;
    for (int i = 0; i < kGroup; ++i) {
        const int four = quarter < 2 ? low[i] & 15 : low[i] >> 4;
        out.quant[i] = int8_t((four | (high[i] >> 2 * quarter & 3) << 4) - 32);
    }
    for (int i = 0; i < 2; ++i) out.scale[i] = half_at(block + 208) * float(scales[i]);
    out.offset = 0;
    return out;
}

void dequantize_group(Format format, const Group32& group, float* out) {
    const int zero = format == Format::Q4_0 ? 8 : 0;
    for (int i = 0; i < kGroup; ++i) {
        out[i] = group.scale[i / 16] * float(group.quant[i] - zero) + group.offset;
    }
}

}  // namespace

bool is_known(int32_t format) {
    switch (Format(format)) {
        case Format::F32:
        case Format::F16:
        case Format::BF16:
        case Format::Q4_0:
        case Format::Q4_1:
        case Format::Q8_0:
        case Format::Q4_K:
        case Format::Q6_K:
            return true;
    }
    return false;
}

bool is_quantized(Format format) { return block_size(format) > 1; }

int block_size(Format format) {
    switch (format) {
        case Format::Q4_0:
        case Format::Q4_1:
        case Format::Q8_0:
            return 32;
        case Format::Q4_K:
        case Format::Q6_K:
            return 256;
        default:
            return 1;
    }
}

size_t row_bytes(Format format, int64_t cols) {
    const size_t blocks = size_t(cols) / size_t(block_size(format));
    switch (format) {
        case Format::F32:
            return blocks * 4;
        case Format::F16:
        case Format::BF16:
            return blocks * 2;
        case Format::Q4_0:
            return blocks * 18;
        case Format::Q4_1:
            return blocks * 20;
        case Format::Q8_0:
            return blocks * 34;
        case Format::Q4_K:
            return blocks * 144;
        case Format::Q6_K:
            return blocks * 210;
    }
    return 0;
}

Group32 read_group(Format format, const uint8_t* row, int64_t g) {
    switch (format) {
        case Format::Q4_0:
            return read_q4_0(row + 18 * g);
        case Format::Q4_1:
            return read_q4_1(row + 20 * g);
        case Format::Q8_0:
            return read_q8_0(row + 34 * g);
        case Format::Q4_K:
            return read_q4_k(row + 144 * (g / 8), int(g % 8));
        default:
            return read_q6_k(row + 210 * (g / 8), int(g % 8));
    }
}

void dequantize_row(Format format, const uint8_t* row, int64_t cols, float* out) {
    switch (format) {
        case Format::F32:
            std::memcpy(out, row, size_t(cols) * 4);
            return;
        case Format::F16:
            for (int64_t i = 0; i < cols; ++i) out[i] = half_at(row + 2 * i);
            return;
        case Format::BF16:
            for (int64_t i = 0; i < cols; ++i) out[i] = bfloat_to_float(u16(row + 2 * i));
            return;
        default:
            for (int64_t g = 0; g < cols / kGroup; ++g) {
                dequantize_group(format, read_group(format, row, g), out + kGroup * g);
            }
    }
}

}  // namespace sgrt
