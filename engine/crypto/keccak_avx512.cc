// Eight leaves at a time: vprolq turns, vpternlogq does three-way logic.
// SPDX-License-Identifier: Apache-2.0
//
// Flags: -mavx512f.
#define KECCAK_LANES 8
#define KECCAK_NAME leaf_digests_avx512

#include "crypto/keccak_lanes.h"
