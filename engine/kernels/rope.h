// Rotary position embedding: the angles of a position and the rotation of a head.
// SPDX-License-Identifier: Apache-2.0
//
// Contract: `Rope` and `RopeAngles` in table.h; definition: docs/numerics.md, `sincos`, step 2.4.
// The head and its angles have any length, so these two are the only operations with a tail.
// `rope`: y does not overlap x. `rope_angles`: position * inv_freq[i] is below 2^20.
#pragma once

#include <type_traits>

#include "kernels/table.h"

namespace bitnet::kernels {

using RopeFunction = std::remove_pointer_t<Rope>;
RopeFunction rope_ref;
RopeFunction rope_avx2;
RopeFunction rope_avx512vnni;
RopeFunction rope_neon;

using RopeAnglesFunction = std::remove_pointer_t<RopeAngles>;
RopeAnglesFunction rope_angles_ref;
RopeAnglesFunction rope_angles_avx2;
RopeAnglesFunction rope_angles_avx512vnni;
RopeAnglesFunction rope_angles_neon;

}  // namespace bitnet::kernels
