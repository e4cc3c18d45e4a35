// f32 rows times a f32 vector: the output head of models whose head is kept in float.
// SPDX-License-Identifier: Apache-2.0
//
// Contract: `f32_matmul` in table.h; definition: docs/numerics.md, `dot16` and step 4;
// layout of the weights: docs/formats/model.md, kind 4. Ordered float: sixteen lanes and a tree.
// Each y[r] depends on row r alone; other rows of y are not touched.
#pragma once

#include "kernels/lanes_simd.h"

namespace bitnet::kernels {
namespace {

void f32_matmul(const float* weights, uint32_t cols_padded, uint32_t row_begin, uint32_t row_end,
                const float* x, float* y) {
  constexpr uint32_t kRows = 4;
  uint32_t row = row_begin;
  for (; row_end - row >= kRows; row += kRows) {
    dot16_rows<kRows>(x, weights + size_t{row} * cols_padded, cols_padded, cols_padded, y + row);
  }
  for (; row < row_end; ++row) {
    dot16_rows<1>(x, weights + size_t{row} * cols_padded, cols_padded, cols_padded, y + row);
  }
}

}  // namespace
}  // namespace bitnet::kernels
