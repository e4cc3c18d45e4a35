// The walks of int8_high over tiles and of int8_logits over rows.
// SPDX-License-Identifier: Apache-2.0
//
// Either plane is read once, strictly forward. Everything is `static`, so that each object compiled
// for an instruction set keeps its own copy.
#pragma once

#include "base/limits.h"
#include "kernels/int8_rows.h"
#include "kernels/tile_walk.h"

namespace bitnet::kernels {

/// sum(code * x), code = 16 * h + l - 128. The terms can pass int32 where the sum does not.
static inline int32_t join_planes(int32_t high, int32_t low, int32_t activations) {
  return static_cast<int32_t>(16u * static_cast<uint32_t>(high) + static_cast<uint32_t>(low) -
                              128u * static_cast<uint32_t>(activations));
}

/// One tile of the high plane; `hi` and `lo` are row 0 of the tile.
using HighTile = void (*)(const uint8_t* high, uint32_t cols_padded, const SplitState& x,
                          int32_t* hi, int32_t* lo);

static inline void walk_high_tiles(const HighTiles& tiles, const SplitState& x, HighTile multiply,
                                   const PlaneSums& sums) {
  for (size_t tile = 0; tile < tiles.tile_count; ++tile) {
    multiply(tiles.high + tile * (size_t{tiles.cols_padded} * kTileRows / 2), tiles.cols_padded, x,
             sums.hi + tile * kTileRows, sums.lo + tile * kTileRows);
  }
}

/// So many rows of the low plane that follow each other; gives their sums, [row].
using LowRowBlock = void (*)(const uint8_t* low, uint32_t cols_padded, const SplitState& x,
                             int32_t* hi, int32_t* lo);

/// Computes all rows; multiply[n - 1] is for n rows, n <= kRowBlock, which share the activations.
template <uint32_t kRowBlock>
static inline void walk_low_rows(const LowRows& rows, const SplitState& x,
                                 const LowRowBlock (&multiply)[kRowBlock], const PlaneSums& high,
                                 float* y) {
  const size_t row_bytes = low_row_bytes(rows.cols_padded);
  for (size_t row = 0; row < rows.row_count; row += kRowBlock) {
    const size_t left = rows.row_count - row;
    const size_t count = left < kRowBlock ? left : kRowBlock;
    int32_t hi[kRowBlock];
    int32_t lo[kRowBlock];
    multiply[count - 1](rows.low + row * row_bytes, rows.cols_padded, x, hi, lo);
    for (size_t i = 0; i < count; ++i) {
      const int32_t hi_sum = join_planes(high.hi[row + i], hi[i], x.hi_sum);
      const int32_t lo_sum = join_planes(high.lo[row + i], lo[i], x.lo_sum);
      y[row + i] = (static_cast<float>(hi_sum) * 128.0f + static_cast<float>(lo_sum)) *
                   (rows.row_scales[row + i] * x.scale);
    }
  }
}

}  // namespace bitnet::kernels
