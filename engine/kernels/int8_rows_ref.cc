// The definition of int8_high and int8_logits, written to be read.
// SPDX-License-Identifier: Apache-2.0
#include "kernels/int8_rows.h"
#include "kernels/int8_walk.h"

namespace bitnet::kernels {
namespace {

int32_t high_nibble(const uint8_t* tile, uint32_t row, uint32_t col) {
  const uint8_t* block = tile + col / kHighBlockCols * kPlaneBlockBytes;
  const uint32_t inside = col % kHighBlockCols;
  return block[4 * row + inside % 4] >> (inside / 4 * 4) & 15;
}

int32_t low_nibble(const uint8_t* row, uint32_t col) {
  const uint8_t* block = row + col / kLowBlockCols * kPlaneBlockBytes;
  const uint32_t inside = col % kLowBlockCols;
  return block[inside % 64] >> (inside / 64 * 4) & 15;
}

void multiply_tile(const uint8_t* high, uint32_t cols_padded, const SplitState& x, int32_t* hi,
                   int32_t* lo) {
  for (uint32_t row = 0; row < kTileRows; ++row) {
    hi[row] = 0;
    lo[row] = 0;
    for (uint32_t col = 0; col < cols_padded; ++col) {
      hi[row] += high_nibble(high, row, col) * x.hi[col];
      lo[row] += high_nibble(high, row, col) * x.lo[col];
    }
  }
}

void multiply_row(const uint8_t* low, uint32_t cols_padded, const SplitState& x, int32_t* hi,
                  int32_t* lo) {
  *hi = 0;
  *lo = 0;
  for (uint32_t col = 0; col < cols_padded; ++col) {
    *hi += low_nibble(low, col) * x.hi[col];
    *lo += low_nibble(low, col) * x.lo[col];
  }
}

}  // namespace

void int8_high_ref(const HighTiles& tiles, const SplitState& x, const PlaneSums& sums) {
  walk_high_tiles(tiles, x, multiply_tile, sums);
}

void int8_logits_ref(const LowRows& rows, const SplitState& x, const PlaneSums& high, float* y) {
  static constexpr LowRowBlock kMultiply[] = {multiply_row};
  walk_low_rows(rows, x, kMultiply, high, y);
}

}  // namespace bitnet::kernels
