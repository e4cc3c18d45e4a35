// Digests, signatures and zstd from the standard library of the pinned compiler, through a C
// interface.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

/// Bytes of a SHA-384 or SHA3-384 digest.
inline constexpr size_t kDigestBytes = 48;
inline constexpr size_t kDigestStateBytes = 384;
inline constexpr size_t kEd25519KeyBytes = 32;
inline constexpr size_t kEd25519SignatureBytes = 64;
inline constexpr size_t kMldsa87KeyBytes = 2592;
inline constexpr size_t kMldsa87SignatureBytes = 4627;
inline constexpr size_t kZstdWindowBytesMax = 8388608;
inline constexpr size_t kZstdMemoryBytes = 12582912;

/// State of a digest under way, opaque and of a fixed size (crypto.zig asserts that it is enough).
/// Set up by `_init`, fed by `_update` any number of times, used up by `_final`.
struct alignas(16) BitnetDigestState {
  uint8_t opaque[kDigestStateBytes];
};

/// A decompression under way, inside the memory that the caller gave.
struct BitnetZstd;

/// Fills `buffer` with up to `bytes` bytes and returns their count, 0 at the end, or
/// kZstdSourceFailed.
using BitnetZstdSource = size_t (*)(void* context, uint8_t* buffer, size_t bytes);
inline constexpr size_t kZstdSourceFailed = SIZE_MAX;

extern "C" {

/// SHA3-384 (FIPS 202). `data` may be null where `bytes` is 0. None of these can fail.
void bitnet_sha3_384_init(BitnetDigestState* state);
void bitnet_sha3_384_update(BitnetDigestState* state, const uint8_t* data, size_t bytes);
void bitnet_sha3_384_final(BitnetDigestState* state, uint8_t digest[kDigestBytes]);

/// SHA-384 (FIPS 180-4).
void bitnet_sha384_init(BitnetDigestState* state);
void bitnet_sha384_update(BitnetDigestState* state, const uint8_t* data, size_t bytes);
void bitnet_sha384_final(BitnetDigestState* state, uint8_t digest[kDigestBytes]);

/// Ed25519 (RFC 8032), strict: without the cofactor, canonical encodings only.
bool bitnet_ed25519_verify(const uint8_t key[kEd25519KeyBytes],
                           const uint8_t signature[kEd25519SignatureBytes], const uint8_t* message,
                           size_t bytes);

/// ML-DSA-87 (FIPS 204), pure, empty context.
bool bitnet_mldsa87_verify(const uint8_t key[kMldsa87KeyBytes],
                           const uint8_t signature[kMldsa87SignatureBytes], const uint8_t* message,
                           size_t bytes);

/// Opens one zstd frame with a window of at most kZstdWindowBytesMax and a content size.
/// `memory` (kZstdMemoryBytes, aligned to 64) holds everything until the last read. Returns null
/// where the frame's head is not so (nothing else has to be undone).
BitnetZstd* bitnet_zstd_open(uint8_t* memory, BitnetZstdSource source, void* context,
                             uint64_t* content_bytes);

/// Reads up to `bytes` (above 0) bytes; returns their count, 0 at the end of the frame and of the
/// source; below 0 where it is not one frame as docs/formats/release.md wants it, where something
/// stands behind it, or where the source failed. The frame's checksum is not compared: the caller
/// has the digests of everything.
int64_t bitnet_zstd_read(BitnetZstd* stream, uint8_t* out, size_t bytes);

}  // extern "C"

namespace bitnet {

using Digest = std::array<uint8_t, kDigestBytes>;

/// A digest of pieces, one behind the other.
template <auto begin, auto update, auto end>
class Hash {
 public:
  Hash() { begin(&state_); }
  Hash& add(std::span<const uint8_t> bytes) {
    update(&state_, bytes.data(), bytes.size());
    return *this;
  }
  /// Ends it.
  Digest digest() {
    Digest out;
    end(&state_, out.data());
    return out;
  }

 private:
  BitnetDigestState state_;
};
using Sha384 = Hash<bitnet_sha384_init, bitnet_sha384_update, bitnet_sha384_final>;
using Sha3 = Hash<bitnet_sha3_384_init, bitnet_sha3_384_update, bitnet_sha3_384_final>;

}  // namespace bitnet
