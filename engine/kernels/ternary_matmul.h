// Ternary matrix times int8 activations: exact integer sums, then one conversion and one product.
// SPDX-License-Identifier: Apache-2.0
//
// Contract: `TernaryMatmul` in table.h; definition: docs/numerics.md, forward pass, step 2.3;
// layout of the weights: docs/formats/model.md, kind 1.
//
// Layout    A block of 64 bytes holds 16 rows x 16 columns: byte 4 * row + b holds, in bits 2p and
//           2p + 1, code (weight + 1) of column 4p + b. So a 32-bit lane is a row, and the four
//           activations of columns 4p ... 4p + 3 are the same for every lane (one broadcast).
// Exact     Kernels sum code * activation, code = weight + 1, and subtract the sum of the
//           activations of the token once a row. Both stay in int32 (base/limits.h asserts it), and
//           the difference is below 2^24, so its conversion to float does not round.
// Requires  activations in [-127, 127], as `quantize_int8` makes them; code 3 does not occur.
// Padding   Columns at and after `cols` have code 1 and activation 0. Padded rows have code 1
//           everywhere: their integer sum is 0 and they get +0.
#pragma once

#include <type_traits>

#include "base/limits.h"
#include "kernels/table.h"

namespace bitnet::kernels {

using TernaryMatmulFunction = std::remove_pointer_t<TernaryMatmul>;
TernaryMatmulFunction ternary_matmul_ref;
TernaryMatmulFunction ternary_matmul_avx2;
TernaryMatmulFunction ternary_matmul_avx512vnni;
TernaryMatmulFunction ternary_matmul_neon;
TernaryMatmulFunction ternary_matmul_dotprod;
TernaryMatmulFunction ternary_matmul_i8mm;

inline constexpr uint32_t kTernaryBlockBytes = 64;
inline constexpr uint32_t kTernaryBlockCols = 16;
static_assert(kTernaryBlockBytes * 4 == kTileRows * kTernaryBlockCols);

}  // namespace bitnet::kernels
