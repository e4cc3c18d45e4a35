// The definition of int8_high and int8_low, written to be read.
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

int32_t low_nibble(const uint8_t* block, uint32_t col) {
  return block[col % 64] >> (col / 64 * 4) & 15;
}

void multiply_tile(const uint8_t* high, uint32_t cols_padded, const SplitState& x, int32_t* hi,
                   int32_t* lo) {
  for (uint32_t row = 0; row < kTileRows; ++row) {
    hi[row] = 0;
    lo[row] = 0;
    for (uint32_t col = 0; col < cols_padded; ++col) {
      hi[row] += 16 * high_nibble(high, row, col) * x.hi[col];
      lo[row] += 16 * high_nibble(high, row, col) * x.lo[col];
    }
  }
}

void multiply_row(const LowBlock& row, const SplitState& x, int32_t* hi, int32_t* lo) {
  *hi = 0;
  *lo = 0;
  for (uint32_t i = 0, at = 0; i < row.count; ++i, at = row.next(at)) {
    const uint8_t* bytes = row.load(0, at);
    for (uint32_t col = 0; col < kLowBlockCols; ++col) {
      *hi += low_nibble(bytes, col) * x.hi[at * kLowBlockCols + col];
      *lo += low_nibble(bytes, col) * x.lo[at * kLowBlockCols + col];
    }
  }
}

}  // namespace

void int8_high_ref(const HighTiles& tiles, const SplitState& x, const PlaneSums& sums) {
  walk_high_tiles(tiles, x, multiply_tile, sums);
}

void int8_low_ref(const LowRows& rows, const SplitState& x, const PlaneSums& sums) {
  static constexpr LowRowBlock kMultiply[] = {multiply_row};
  walk_low_rows(rows, x, kMultiply, sums);
}

}  // namespace bitnet::kernels
