// Which tokens a mask allows, where they are few.
#include <cstdint>

#include "api.h"

namespace {

constexpr int64_t kBlock = 8;  // words looked at together: most of a narrow mask is zero

// Ids of one mask, ascending; -1 where there are more than `few`.
int64_t list_one(const uint32_t* words, int64_t vocab_size, int64_t few, int32_t* ids) {
    const int64_t num_words = (vocab_size + 31) / 32;
    int64_t count = 0;
    for (int64_t block = 0; block < num_words; block += kBlock) {
        const int64_t end = block + kBlock < num_words ? block + kBlock : num_words;
        uint32_t any = 0;
        for (int64_t w = block; w < end; ++w) any |= words[w];
        if (!any) continue;
        for (int64_t w = block; w < end; ++w) {
            uint32_t word = words[w];
            const int64_t beyond = (w + 1) * 32 - vocab_size;  // bits that name no token
            if (beyond > 0) word &= 0xffffffffu >> beyond;
            if (count + __builtin_popcount(word) > few) return -1;
            for (; word; word &= word - 1) ids[count++] = int32_t(w * 32 + __builtin_ctz(word));
        }
    }
    return count;
}

}  // namespace

// Lists the tokens of masks [num_masks, stride]. counts[i] is how many mask i allows, or -1 where
// they are more than `few`; ids, room for num_masks * few, get those of the others one after the
// other. Returns how many were written.
SGRT_API int64_t sgrt_list_masks(const uint32_t* masks, int64_t num_masks, int64_t stride,
                                 int64_t vocab_size, int64_t few, int32_t* counts, int32_t* ids) {
    int64_t total = 0;
    for (int64_t i = 0; i < num_masks; ++i) {
        const int64_t count = list_one(masks + i * stride, vocab_size, few, ids + total);
        counts[i] = int32_t(count);
        if (count > 0) total += count;
    }
    return total;
}
