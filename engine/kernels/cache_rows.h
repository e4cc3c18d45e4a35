// A key or value row as the KV cache keeps it: in binary16, or in int8 with a scale.
// SPDX-License-Identifier: Apache-2.0
//
// Contract: `StoreF16` and `StoreInt8` in table.h; definition: docs/numerics.md, "The KV cache".
// binary16 is rounded to nearest even, subnormals kept. What is too large becomes infinity; a NaN
// becomes the quiet NaN with the upper bits of its payload, as the processors have it.
// A row with a NaN or an infinity has NaN or infinity as its int8 scale, whatever its codes are.
#pragma once

#include <type_traits>

#include "kernels/table.h"

namespace bitnet::kernels {

/// The largest magnitude of a code.
inline constexpr float kCacheCodeMax = 127.0f;
/// Stands in for the largest magnitude of a row that is (almost) zero.
inline constexpr float kCacheAmaxMin = 1e-5f;

using StoreF16Function = std::remove_pointer_t<StoreF16>;
StoreF16Function store_f16_ref;
StoreF16Function store_f16_avx2;
StoreF16Function store_f16_avx512vnni;
StoreF16Function store_f16_neon;

using StoreInt8Function = std::remove_pointer_t<StoreInt8>;
StoreInt8Function store_int8_ref;
StoreInt8Function store_int8_avx2;
StoreInt8Function store_int8_avx512vnni;
StoreInt8Function store_int8_neon;

}  // namespace bitnet::kernels
