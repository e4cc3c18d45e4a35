// Attention of one query head over the cache, and the exponentials it shares with the sampler.
// SPDX-License-Identifier: Apache-2.0
//
// Contract: `Attention` and `ExpSum` in table.h; definition: docs/numerics.md, `exp` and step 2.5.
// Ordered float: positions are summed in order, the normaliser in sixteen lanes and a tree.
// position_count >= 1. On return `scores` holds the unnormalised weights e[t], then +0.
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

using ExpSumFunction = std::remove_pointer_t<ExpSum>;
ExpSumFunction exp_sum_ref;
ExpSumFunction exp_sum_avx2;
ExpSumFunction exp_sum_avx512vnni;
ExpSumFunction exp_sum_neon;

}  // namespace bitnet::kernels
