// Four leaves at a time.
// SPDX-License-Identifier: Apache-2.0
//
// Flags: -mavx2.
#define KECCAK_LANES 4
#define KECCAK_NAME leaf_digests_avx2

#include "crypto/keccak_lanes.h"
