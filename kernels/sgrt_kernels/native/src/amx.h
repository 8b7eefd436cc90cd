// Tiles of 16 x 16 products on processors with AMX (8-bit integers), behind the same interface and
// with the same results as the vector kernels, to the last bit: integer sums are exact, and the
// float operations that follow are the same in the same order.
#pragma once

#include <cstdint>

#include "linear.h"

namespace sgrt::amx {

// Whether the processor has it and the system lets this process use it.
bool available();

// Tests turn it off to compare; on from the start where it is available.
void set_enabled(bool enabled);

// Products of one tile with as many leading rows as come in consecutive blocks of 16: `out` as in
// linear_tile. Returns how many rows were done, 0 where AMX cannot do it.
int multiply(const PackedLinear& w, const Activations& a, int tile, const int32_t* row_idx,
             int num_rows, float* out);

}  // namespace sgrt::amx
