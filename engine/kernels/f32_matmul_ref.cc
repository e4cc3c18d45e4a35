// The definition of f32_matmul, written to be read.
// SPDX-License-Identifier: Apache-2.0
#include "kernels/building_blocks_ref.h"
#include "kernels/f32_matmul.h"

namespace bitnet::kernels {

void f32_matmul_ref(const float* weights, uint32_t cols_padded, uint32_t row_begin,
                    uint32_t row_end, const float* x, size_t x_stride, uint32_t token_count,
                    float* y, size_t y_stride) {
  for (uint32_t row = row_begin; row < row_end; ++row) {
    const float* weight_row = weights + size_t{row} * cols_padded;
    for (uint32_t token = 0; token < token_count; ++token) {
      y[token * y_stride + row] = dot16(weight_row, x + token * x_stride, cols_padded);
    }
  }
}

}  // namespace bitnet::kernels
