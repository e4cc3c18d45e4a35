// int8 rows, kept as two planes of four bits, times a hidden state split in two int8 parts: the
// output head.
// SPDX-License-Identifier: Apache-2.0
//
// Contract: `int8_high` and `int8_low` in table.h; definition: docs/numerics.md, forward pass,
// step 4, and "The screened head"; layout of the weights: docs/formats/model.md, kind 3.
//
// Layout    A row's stored byte code + 128 is 16 * h + l. The high plane is read for all rows: a
//           block of 64 bytes holds 16 rows x 8 columns, byte 4 * row + b has column b in its low
//           and column 4 + b in its high nibble, so a 32-bit lane is a row. The low plane is read
//           for single rows: a block of 64 bytes holds 128 columns of one row, byte j has column j
//           in its low and column 64 + j in its high nibble.
// Exact     All sums are the same in any order: totals are int32, and base/limits.h asserts that
//           they fit; partial sums are widened before a lane is full (WeightCodes, bytes_simd.h).
// Requires  hi in [-127, 127] and lo in [-64, 63], as `quantize_split` makes them, and 0 from
//           cols_padded up to the next multiple of 128; cols_padded at most kHiddenSizeMax.
// Padding   Columns: byte 128, activation 0. Rows: byte 128.
#pragma once

#include "kernels/bytes_simd.h"

namespace bitnet::kernels {
namespace {

using Nibbles = WeightCodes<4, 15>;
constexpr uint32_t kHighBlockCols = 8;
static_assert(Nibbles::kBlockBytes * 2 == kTileRows * kHighBlockCols);
static_assert(Nibbles::kBlockBytes * 2 == kLowBlockCols);

/// The high plane is read once, strictly forward.
void int8_high(const HighTiles& tiles, const SplitState& x, const PlaneSums& sums) {
  const uint32_t blocks = tiles.cols_padded / kHighBlockCols;
  for (size_t tile = 0; tile < tiles.tile_count; ++tile) {
    i32x16 totals[2] = {};
    multiply_rows<Nibbles>(tiles.high + tile * blocks * Nibbles::kBlockBytes, blocks, kWeightsAhead,
                           {x.hi, x.lo}, totals);
    store_lanes(sums.hi + tile * kTileRows, totals[0] << 4);
    store_lanes(sums.lo + tile * kTileRows, totals[1] << 4);
  }
}

/// How many rows ahead of its loads int8_low asks for weights, into the second cache: requests of
/// the first one are too few to keep memory busy with rows that no prefetcher foresees.
/// Measured  docs/lab_notes.md, 2026-11-25.
constexpr uint32_t kRowsAhead = 16;

/// Rows [first, first + kRows) of the list.
template <uint32_t kRows>
inline void multiply_low(const LowRows& rows, uint32_t first, const SplitState& x,
                         const PlaneSums& sums) {
  const uint8_t* at[kRows];
  const uint8_t* ahead[kRows];
  for (uint32_t i = 0; i < kRows; ++i) {
    const uint32_t later = first + i + kRowsAhead;
    at[i] = rows.low + rows.rows[first + i] * rows.row_bytes;
    ahead[i] =
        rows.low + rows.rows[later < rows.row_count ? later : rows.row_count - 1] * rows.row_bytes;
  }
  i32x16 totals[2][kRows] = {};
  CodeSums<Nibbles> parts[2][kRows];
  size_t block = 0;
  for (uint32_t done = 0; done < rows.block_count;) {
    const size_t byte = block * Nibbles::kBlockBytes;
    for (const uint8_t* row : ahead) __builtin_prefetch(row + byte, 0, 2);
#pragma unroll
    for (uint32_t p = 0; p < 2; ++p) {
      const u8x64 hi = load_bytes(x.hi + 2 * byte + 64 * p);
      const u8x64 lo = load_bytes(x.lo + 2 * byte + 64 * p);
#pragma unroll
      for (uint32_t i = 0; i < kRows; ++i) {
        const u8x64 codes = Nibbles::load(at[i] + byte, p);
        parts[0][i].add(p, codes, hi);
        parts[1][i].add(p, codes, lo);
      }
    }
    block += rows.block_step;
    if (block >= rows.block_count) block -= rows.block_count;
    if (Nibbles::full(++done) || done == rows.block_count) {
      for (uint32_t i = 0; i < kRows; ++i) {
        parts[0][i].move_to(totals[0][i]);
        parts[1][i].move_to(totals[1][i]);
      }
    }
  }
  for (uint32_t i = 0; i < kRows; ++i) {
    sums.hi[rows.rows[first + i]] += __builtin_reduce_add(totals[0][i]);
    sums.lo[rows.rows[first + i]] += __builtin_reduce_add(totals[1][i]);
  }
}

void int8_low(const LowRows& rows, const SplitState& x, const PlaneSums& sums) {
  each_rows<kRowsAside>(0, rows.row_count, [&](auto count, uint32_t first) {
    multiply_low<count.value>(rows, first, x, sums);
  });
}

}  // namespace
}  // namespace bitnet::kernels
