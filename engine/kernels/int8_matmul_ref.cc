// The definition of int8_matmul, written to be read.
// SPDX-License-Identifier: Apache-2.0
#include "kernels/int8_matmul.h"

namespace bitnet::kernels {
namespace {

/// sums[row] += sum of code[row][col] * x[col] over the 4 columns of one block; x is at the first.
void add_block(const uint8_t* block, const int8_t* x, int32_t (&sums)[kTileRows]) {
  for (uint32_t row = 0; row < kTileRows; ++row) {
    for (uint32_t b = 0; b < kInt8BlockCols; ++b) {
      sums[row] += (block[4 * row + b] - 128) * x[b];
    }
  }
}

}  // namespace

void int8_matmul_ref(const TileRange& tiles, const float* row_scales, const SplitTokens& x,
                     float* y, size_t y_stride) {
  const size_t tile_bytes = size_t{tiles.cols_padded} * kTileRows;
  for (uint32_t tile = tiles.tile_begin; tile < tiles.tile_end; ++tile) {
    const uint8_t* weights = tiles.weights + tile * tile_bytes;
    for (uint32_t token = 0; token < x.token_count; ++token) {
      int32_t hi[kTileRows] = {};
      int32_t lo[kTileRows] = {};
      for (uint32_t k = 0; k < tiles.cols_padded / kInt8BlockCols; ++k) {
        const size_t at = token * x.stride + k * kInt8BlockCols;
        add_block(weights + k * kInt8BlockBytes, x.hi + at, hi);
        add_block(weights + k * kInt8BlockBytes, x.lo + at, lo);
      }
      for (uint32_t i = 0; i < kTileRows; ++i) {
        const size_t row = size_t{tile} * kTileRows + i;
        y[token * y_stride + row] =
            (static_cast<float>(hi[i]) * 128.0f + static_cast<float>(lo[i])) *
            (row_scales[row] * x.scales[token]);
      }
    }
  }
}

}  // namespace bitnet::kernels
