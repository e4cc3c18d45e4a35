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

/// One row of the low plane; gives its sums.
using LowRow = void (*)(const uint8_t* low, uint32_t cols_padded, const SplitState& x, int32_t* hi,
                        int32_t* lo);

static inline void walk_low_rows(const LowRows& rows, const SplitState& x, LowRow multiply,
                                 const PlaneSums& high, float* y) {
  for (size_t row = 0; row < rows.row_count; ++row) {
    int32_t hi;
    int32_t lo;
    multiply(rows.low + row * low_row_bytes(rows.cols_padded), rows.cols_padded, x, &hi, &lo);
    hi = join_planes(high.hi[row], hi, x.hi_sum);
    lo = join_planes(high.lo[row], lo, x.lo_sum);
    y[row] = (static_cast<float>(hi) * 128.0f + static_cast<float>(lo)) *
             (rows.row_scales[row] * x.scale);
  }
}

}  // namespace bitnet::kernels
