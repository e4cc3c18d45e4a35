// Attention of the query heads of a group over the cache, and the exponentials that the sampler
// shares with it.
// SPDX-License-Identifier: Apache-2.0
//
// Contract: `Attention`, `AttentionF16`, `AttentionInt8` and `ExpSum` in table.h; definition:
// docs/numerics.md, `exp`, step 2.5 and "The KV cache".
// Ordered float: a score is summed in sixteen lanes and a tree, as is the normaliser; positions are
// summed in order. So a row does not depend on which other rows are in the call.
// On return row r of `scores` holds the weights of its n positions (e[t], for int8 times the scale
// of the value), then +0 up to pad_lanes(n) where the scales are finite.
// `exp_sum` reads nothing at and after `n`: what lies there may be anything, NaN included.
#pragma once

#include <type_traits>

#include "kernels/table.h"

namespace bitnet::kernels {

using AttentionFunction = std::remove_pointer_t<Attention>;
AttentionFunction attention_ref;
AttentionFunction attention_avx2;
AttentionFunction attention_avx512vnni;
AttentionFunction attention_neon;

using AttentionF16Function = std::remove_pointer_t<AttentionF16>;
AttentionF16Function attention_f16_ref;
AttentionF16Function attention_f16_avx2;
AttentionF16Function attention_f16_avx512vnni;
AttentionF16Function attention_f16_neon;

using AttentionInt8Function = std::remove_pointer_t<AttentionInt8>;
AttentionInt8Function attention_int8_ref;
AttentionInt8Function attention_int8_avx2;
AttentionInt8Function attention_int8_avx512vnni;
AttentionInt8Function attention_int8_neon;

using ExpSumFunction = std::remove_pointer_t<ExpSum>;
ExpSumFunction exp_sum_ref;
ExpSumFunction exp_sum_avx2;
ExpSumFunction exp_sum_avx512vnni;
ExpSumFunction exp_sum_neon;

}  // namespace bitnet::kernels
