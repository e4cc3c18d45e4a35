// Activations to integers: int8 for the matrices of a layer, 15 bits as two int8 for the head.
// SPDX-License-Identifier: Apache-2.0
//
// Contract: `QuantizeInt8` and `QuantizeSplit` in table.h; definition: docs/numerics.md, steps 2.2
// and 4. max|x| is exact in any order, everything else is one operation an element.
//
// Range     |x * s| <= 127 (16256) up to one rounding, so the nearest integer is within [-127, 127]
//           ([-16256, 16256]); hi = (q + 64) >> 7 is within [-127, 127] and lo within [-64, 63].
// Padding   x is +0 there, so the codes are 0. Sums are over the padded length.
#pragma once

#include <type_traits>

#include "kernels/table.h"

namespace bitnet::kernels {

using QuantizeInt8Function = std::remove_pointer_t<QuantizeInt8>;
QuantizeInt8Function quantize_int8_ref;
QuantizeInt8Function quantize_int8_avx2;
QuantizeInt8Function quantize_int8_avx512vnni;
QuantizeInt8Function quantize_int8_neon;

using QuantizeSplitFunction = std::remove_pointer_t<QuantizeSplit>;
QuantizeSplitFunction quantize_split_ref;
QuantizeSplitFunction quantize_split_avx2;
QuantizeSplitFunction quantize_split_avx512vnni;
QuantizeSplitFunction quantize_split_neon;

/// An amax below this is taken as this, so that a vector of zeros has a scale.
inline constexpr float kAmaxMin = 1e-5f;
inline constexpr float kInt8CodeMax = 127.0f;
inline constexpr float kSplitCodeMax = 16256.0f;
static_assert((static_cast<int>(kSplitCodeMax) + 64) >> 7 == 127);

}  // namespace bitnet::kernels
