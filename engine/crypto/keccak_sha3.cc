// Two leaves at a time with eor3, rax1, xar and bcax.
// SPDX-License-Identifier: Apache-2.0
//
// Flags: -mcpu=generic+sha3.
#define KECCAK_LANES 2
#define KECCAK_NAME leaf_digests_sha3

#include "crypto/keccak_lanes.h"
