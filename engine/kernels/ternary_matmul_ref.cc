// The definition of ternary_matmul, written to be read.
// SPDX-License-Identifier: Apache-2.0
#include "kernels/ternary_matmul.h"

namespace bitnet::kernels {
namespace {

/// sums[row] += sum of w[row][col] * x[col] over the 16 columns of one block; x is at the first.
void add_block(const uint8_t* block, const int8_t* x, int32_t (&sums)[kTileRows]) {
  for (uint32_t row = 0; row < kTileRows; ++row) {
    for (uint32_t p = 0; p < 4; ++p) {
      for (uint32_t b = 0; b < 4; ++b) {
        const int32_t weight = ((block[4 * row + b] >> (2 * p)) & 3) - 1;
        sums[row] += weight * x[4 * p + b];
      }
    }
  }
}

}  // namespace

void ternary_matmul_ref(const TileRange& tiles, const Int8Tokens& x, float* y, size_t y_stride) {
  const size_t tile_bytes = size_t{tiles.cols_padded} * kTileRows / 4;
  for (uint32_t tile = tiles.tile_begin; tile < tiles.tile_end; ++tile) {
    const uint8_t* weights = tiles.weights + tile * tile_bytes;
    for (uint32_t token = 0; token < x.token_count; ++token) {
      const int8_t* codes = x.codes + token * x.stride;
      int32_t sums[kTileRows] = {};
      for (uint32_t k = 0; k < tiles.cols_padded / kTernaryBlockCols; ++k) {
        add_block(weights + k * kTernaryBlockBytes, codes + k * kTernaryBlockCols, sums);
      }
      for (uint32_t row = 0; row < kTileRows; ++row) {
        y[token * y_stride + tile * kTileRows + row] =
            static_cast<float>(sums[row]) * x.multipliers[token];
      }
    }
  }
}

}  // namespace bitnet::kernels
