// f32 rows times f32 vectors: the output head of models whose head is kept in float.
// SPDX-License-Identifier: Apache-2.0
//
// Contract: `f32_matmul` in table.h; definition: docs/numerics.md, `dot16` and step 4;
// layout of the weights: docs/formats/model.md, kind 4. Ordered float: sixteen lanes and a tree.
// Each y[t][r] depends on row r and token t alone; other rows of y are not touched.
#pragma once

#include "kernels/lanes_simd.h"

namespace bitnet::kernels {
namespace {

/// kRows rows from `row` on times all tokens; the rows stay in the nearest cache meanwhile.
template <uint32_t kRows>
inline void multiply_rows(const float* weights, uint32_t cols_padded, uint32_t row, const float* x,
                          size_t x_stride, uint32_t token_count, float* y, size_t y_stride) {
  const float* first = weights + size_t{row} * cols_padded;
  for (uint32_t token = 0; token < token_count; ++token) {
    float sums[kRows];
    dot16_rows<kRows>(x + token * x_stride, first, cols_padded, cols_padded, sums);
    for (uint32_t i = 0; i < kRows; ++i) y[token * y_stride + row + i] = sums[i];
  }
}

void f32_matmul(const float* weights, uint32_t cols_padded, uint32_t row_begin, uint32_t row_end,
                const float* x, size_t x_stride, uint32_t token_count, float* y, size_t y_stride) {
  constexpr uint32_t kRows = 4;
  uint32_t row = row_begin;
  for (; row_end - row >= kRows; row += kRows) {
    multiply_rows<kRows>(weights, cols_padded, row, x, x_stride, token_count, y, y_stride);
  }
  for (; row < row_end; ++row) {
    multiply_rows<1>(weights, cols_padded, row, x, x_stride, token_count, y, y_stride);
  }
}

}  // namespace
}  // namespace bitnet::kernels
