// int8 rows, kept as two planes of four bits, times a hidden state split in two int8 parts: the
// output head.
// SPDX-License-Identifier: Apache-2.0
//
// Contract: `Int8High` and `Int8Low` in table.h; definition: docs/numerics.md, forward pass,
// step 4, and "The screened head"; layout of the weights: docs/formats/model.md, kind 3.
//
// Layout    A row's stored byte code + 128 is 16 * h + l. The high plane is read for all rows: a
//           block of 64 bytes holds 16 rows x 8 columns, byte 4 * row + b has column b in its low
//           and column 4 + b in its high nibble, so a 32-bit lane is a row. The low plane is read
//           for single rows: a block of 64 bytes holds 128 columns of one row, byte j has column j
//           in its low and column 64 + j in its high nibble.
// Exact     All sums are int32 and the same in any order; base/limits.h asserts that they fit.
// Requires  hi in [-127, 127] and lo in [-64, 63], as `quantize_split` makes them, and 0 from
//           cols_padded up to the next multiple of 128; cols_padded at most kHiddenSizeMax.
// Padding   Columns: byte 128, activation 0. Rows: byte 128.
#pragma once

#include <type_traits>

#include "base/limits.h"
#include "kernels/table.h"

namespace bitnet::kernels {

using Int8HighFunction = std::remove_pointer_t<Int8High>;
Int8HighFunction int8_high_ref;
Int8HighFunction int8_high_avx2;
Int8HighFunction int8_high_avx512vnni;
Int8HighFunction int8_high_neon;
Int8HighFunction int8_high_dotprod;

using Int8LowFunction = std::remove_pointer_t<Int8Low>;
Int8LowFunction int8_low_ref;
Int8LowFunction int8_low_avx2;
Int8LowFunction int8_low_avx512vnni;
Int8LowFunction int8_low_neon;
Int8LowFunction int8_low_dotprod;

inline constexpr uint32_t kPlaneBlockBytes = 64;
inline constexpr uint32_t kHighBlockCols = 8;
static_assert(2 * kPlaneBlockBytes == kTileRows * kHighBlockCols);
static_assert(2 * kPlaneBlockBytes == kLowBlockCols);

}  // namespace bitnet::kernels
