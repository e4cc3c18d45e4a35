// One leaf at a time, on any processor.
// SPDX-License-Identifier: Apache-2.0
//
// Flags: none.
#define KECCAK_LANES 1
#define KECCAK_NAME leaf_digests_ref

#include "crypto/keccak_lanes.h"
