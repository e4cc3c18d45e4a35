// Digests from the standard library of the pinned compiler, through a C interface.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#define BITNET_DIGEST_384_BYTES 48
#define BITNET_DIGEST_STATE_BYTES 384

/// Bytes of a SHA-384 or SHA3-384 digest.
inline constexpr size_t kDigest384Bytes = BITNET_DIGEST_384_BYTES;

/// State of a digest under way, opaque and of a fixed size (crypto.zig asserts that it is enough).
/// Set up by `_init`, fed by `_update` any number of times, used up by `_final`.
struct alignas(16) BitnetDigestState {
  uint8_t opaque[BITNET_DIGEST_STATE_BYTES];
};

extern "C" {

/// SHA3-384 (FIPS 202). `data` may be null where `bytes` is 0. None of these can fail.
void bitnet_sha3_384_init(BitnetDigestState* state);
void bitnet_sha3_384_update(BitnetDigestState* state, const uint8_t* data, size_t bytes);
void bitnet_sha3_384_final(BitnetDigestState* state, uint8_t digest[BITNET_DIGEST_384_BYTES]);
void bitnet_sha3_384(const uint8_t* data, size_t bytes, uint8_t digest[BITNET_DIGEST_384_BYTES]);

/// SHA-384 (FIPS 180-4).
void bitnet_sha384_init(BitnetDigestState* state);
void bitnet_sha384_update(BitnetDigestState* state, const uint8_t* data, size_t bytes);
void bitnet_sha384_final(BitnetDigestState* state, uint8_t digest[BITNET_DIGEST_384_BYTES]);
void bitnet_sha384(const uint8_t* data, size_t bytes, uint8_t digest[BITNET_DIGEST_384_BYTES]);

}  // extern "C"
