// The two gates of the feed-forward part and the residual sum: one result an element.
// SPDX-License-Identifier: Apache-2.0
//
// Contract: `Gate` and `AddInPlace` in table.h; definition: docs/numerics.md, steps 2.7, 2.9, 2.10.
#pragma once

#include <type_traits>

#include "kernels/table.h"

namespace bitnet::kernels {

using GateFunction = std::remove_pointer_t<Gate>;
GateFunction relu2_gate_ref;
GateFunction relu2_gate_avx2;
GateFunction relu2_gate_avx512vnni;
GateFunction relu2_gate_neon;
GateFunction silu_gate_ref;
GateFunction silu_gate_avx2;
GateFunction silu_gate_avx512vnni;
GateFunction silu_gate_neon;

using AddInPlaceFunction = std::remove_pointer_t<AddInPlace>;
AddInPlaceFunction add_in_place_ref;
AddInPlaceFunction add_in_place_avx2;
AddInPlaceFunction add_in_place_avx512vnni;
AddInPlaceFunction add_in_place_neon;

}  // namespace bitnet::kernels
