// The walks of int8_high over tiles and of int8_low over rows.
// SPDX-License-Identifier: Apache-2.0
//
// The high plane is read once, strictly forward. Everything is `static`, so that each object
// compiled for an instruction set keeps its own copy.
#pragma once

#include "base/limits.h"
#include "kernels/int8_rows.h"
#include "kernels/tile_walk.h"

namespace bitnet::kernels {

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

/// How many rows ahead of its loads int8_low asks for weights, into the second cache: requests of
/// the first one are too few to keep memory busy with rows that no prefetcher foresees.
/// Measured  docs/lab_notes.md, 2026-11-25.
inline constexpr uint32_t kRowsAhead = 16;

/// The columns of a block of rows in the order that `block_step` wants, and what comes later.
struct LowBlock {
  const uint8_t* const* rows;
  const uint8_t* const* ahead;
  uint32_t count;
  uint32_t step;

  uint32_t next(uint32_t block) const {
    block += step;
    return block < count ? block : block - count;
  }
  /// Block `block` of a row.
  const uint8_t* load(uint32_t row, uint32_t block) const {
    const size_t at = size_t{block} * kPlaneBlockBytes;
    __builtin_prefetch(ahead[row] + at, 0, 2);
    return rows[row] + at;
  }
};

/// The sums of so many rows, [row].
using LowRowBlock = void (*)(const LowBlock& block, const SplitState& x, int32_t* hi, int32_t* lo);

/// Computes all rows; multiply[n - 1] is for n rows, n <= kRowBlock, which share the activations.
template <uint32_t kRowBlock>
static inline void walk_low_rows(const LowRows& rows, const SplitState& x,
                                 const LowRowBlock (&multiply)[kRowBlock], const PlaneSums& sums) {
  const auto place = [&rows](uint32_t i) {
    return rows.low + rows.rows[i < rows.row_count ? i : rows.row_count - 1] * rows.row_bytes;
  };
  for (uint32_t first = 0; first < rows.row_count; first += kRowBlock) {
    const uint32_t left = rows.row_count - first;
    const uint32_t count = left < kRowBlock ? left : kRowBlock;
    const uint8_t* at[kRowBlock];
    const uint8_t* ahead[kRowBlock];
    for (uint32_t i = 0; i < kRowBlock; ++i) {
      at[i] = place(first + i);
      ahead[i] = place(first + i + kRowsAhead);
    }
    int32_t hi[kRowBlock];
    int32_t lo[kRowBlock];
    multiply[count - 1]({at, ahead, rows.block_count, rows.block_step}, x, hi, lo);
    for (uint32_t i = 0; i < count; ++i) {
      sums.hi[rows.rows[first + i]] += hi[i];
      sums.lo[rows.rows[first + i]] += lo[i];
    }
  }
}

}  // namespace bitnet::kernels
