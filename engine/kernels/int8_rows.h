// int8 rows, kept as two planes of four bits, times a hidden state split in two int8 parts: the
// output head.
// SPDX-License-Identifier: Apache-2.0
//
// Contract: `Int8High` and `Int8Logits` in table.h; definition: docs/numerics.md, forward pass,
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
// Padding   Columns: byte 128, activation 0. Rows: byte 128, row scale 0; they get +0.
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

using Int8LogitsFunction = std::remove_pointer_t<Int8Logits>;
Int8LogitsFunction int8_logits_ref;
Int8LogitsFunction int8_logits_avx2;
Int8LogitsFunction int8_logits_avx512vnni;
Int8LogitsFunction int8_logits_neon;
Int8LogitsFunction int8_logits_dotprod;

inline constexpr uint32_t kPlaneBlockBytes = 64;
inline constexpr uint32_t kHighBlockCols = 8;
static_assert(2 * kPlaneBlockBytes == kTileRows * kHighBlockCols);
static_assert(2 * kPlaneBlockBytes == kLowBlockCols);

}  // namespace bitnet::kernels
