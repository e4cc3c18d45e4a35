// Two leaves at a time.
// SPDX-License-Identifier: Apache-2.0
//
// Flags: none.
#define KECCAK_LANES 2
#define KECCAK_NAME leaf_digests_neon

#include "crypto/keccak_lanes.h"
