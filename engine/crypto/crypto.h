// Digests, signatures and zstd from the standard library of the pinned compiler, through a C
// interface.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#define BITNET_DIGEST_384_BYTES 48
#define BITNET_DIGEST_STATE_BYTES 384
#define BITNET_ED25519_KEY_BYTES 32
#define BITNET_ED25519_SIGNATURE_BYTES 64
#define BITNET_MLDSA87_KEY_BYTES 2592
#define BITNET_MLDSA87_SIGNATURE_BYTES 4627
#define BITNET_ZSTD_WINDOW_BYTES_MAX 8388608
#define BITNET_ZSTD_MEMORY_BYTES 12582912

/// Bytes of a SHA-384 or SHA3-384 digest.
inline constexpr size_t kDigest384Bytes = BITNET_DIGEST_384_BYTES;
inline constexpr size_t kEd25519KeyBytes = BITNET_ED25519_KEY_BYTES;
inline constexpr size_t kEd25519SignatureBytes = BITNET_ED25519_SIGNATURE_BYTES;
inline constexpr size_t kMldsa87KeyBytes = BITNET_MLDSA87_KEY_BYTES;
inline constexpr size_t kMldsa87SignatureBytes = BITNET_MLDSA87_SIGNATURE_BYTES;
inline constexpr size_t kZstdMemoryBytes = BITNET_ZSTD_MEMORY_BYTES;

/// State of a digest under way, opaque and of a fixed size (crypto.zig asserts that it is enough).
/// Set up by `_init`, fed by `_update` any number of times, used up by `_final`.
struct alignas(16) BitnetDigestState {
  uint8_t opaque[BITNET_DIGEST_STATE_BYTES];
};

/// A decompression under way, inside the memory that the caller gave.
struct BitnetZstd;

/// Fills `buffer` with up to `bytes` bytes and returns their count, 0 at the end, or
/// BITNET_ZSTD_SOURCE_FAILED.
using BitnetZstdSource = size_t (*)(void* context, uint8_t* buffer, size_t bytes);
#define BITNET_ZSTD_SOURCE_FAILED SIZE_MAX

/// Negative results of bitnet_zstd_read.
enum BitnetZstdResult : int32_t {
  kZstdMalformed = -1,  ///< not one frame as docs/formats/release.md wants it, or damaged
  kZstdTrailing = -2,   ///< something stands behind the frame
  kZstdSource = -3,     ///< the source failed
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

/// Ed25519 (RFC 8032), strict: without the cofactor, canonical encodings only.
bool bitnet_ed25519_verify(const uint8_t key[BITNET_ED25519_KEY_BYTES],
                           const uint8_t signature[BITNET_ED25519_SIGNATURE_BYTES],
                           const uint8_t* message, size_t bytes);

/// ML-DSA-87 (FIPS 204), pure, empty context.
bool bitnet_mldsa87_verify(const uint8_t key[BITNET_MLDSA87_KEY_BYTES],
                           const uint8_t signature[BITNET_MLDSA87_SIGNATURE_BYTES],
                           const uint8_t* message, size_t bytes);

/// Opens one zstd frame with a window of at most BITNET_ZSTD_WINDOW_BYTES_MAX and a content size.
/// `memory` (kZstdMemoryBytes, aligned to 64) holds everything until the last read. Returns null
/// where the frame's head is not so (nothing else has to be undone).
BitnetZstd* bitnet_zstd_open(uint8_t* memory, BitnetZstdSource source, void* context,
                             uint64_t* content_bytes);

/// Reads up to `bytes` (above 0) bytes; returns their count, 0 at the end of the frame and of the
/// source, or a BitnetZstdResult. The frame's checksum is not compared: the caller has the digests
/// of everything.
int64_t bitnet_zstd_read(BitnetZstd* stream, uint8_t* out, size_t bytes);

}  // extern "C"
