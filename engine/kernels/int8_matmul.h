// int8 rows times a hidden state split in two int8 parts: the output head.
// SPDX-License-Identifier: Apache-2.0
//
// Contract: `Int8Matmul` in table.h; definition: docs/numerics.md, forward pass, step 4;
// layout of the weights: docs/formats/model.md, kind 3.
//
// Layout    A block of 64 bytes holds 16 rows x 4 columns: byte 4 * row + b is code + 128 of
//           column b, so a 32-bit lane is a row.
// Exact     The two sums are int32 and the same in any order. A kernel that multiplies the stored
//           byte subtracts 128 * the sum of the activations (base/limits.h asserts that it fits).
// Requires  hi in [-127, 127] and lo in [-64, 63], as `quantize_split` makes them; cols_padded
//           at most kHiddenSizeMax.
// Padding   Columns: byte 128, activation 0. Rows: byte 128, row scale 0; they get +0.
#pragma once

#include <type_traits>

#include "base/limits.h"
#include "kernels/table.h"

namespace bitnet::kernels {

using Int8MatmulFunction = std::remove_pointer_t<Int8Matmul>;
Int8MatmulFunction int8_matmul_ref;
Int8MatmulFunction int8_matmul_avx2;
Int8MatmulFunction int8_matmul_avx512vnni;
Int8MatmulFunction int8_matmul_neon;
Int8MatmulFunction int8_matmul_dotprod;

inline constexpr uint32_t kInt8BlockBytes = 64;
inline constexpr uint32_t kInt8BlockCols = 4;
static_assert(kInt8BlockBytes == kTileRows * kInt8BlockCols);

}  // namespace bitnet::kernels
