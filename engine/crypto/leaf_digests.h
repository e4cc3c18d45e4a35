// SHA3-384 over the leaves of a model, several at once (docs/formats/model.md, Digests).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/processor.h"
#include "crypto/crypto.h"

namespace bitnet::crypto {

/// Writes the digests of `count` (1 … lanes) neighbouring leaves of `leaf_bytes` each, the first
/// with number `index`: SHA3-384(0x00 ‖ u64 index ‖ u64 leaf_bytes ‖ data). Every implementation
/// gives the same bytes, takes the same time whatever `count`, and keeps nothing.
using LeafDigests = void (*)(const uint8_t* data, size_t leaf_bytes, uint64_t index, uint32_t count,
                             uint8_t* digests);

void leaf_digests_ref(const uint8_t*, size_t, uint64_t, uint32_t, uint8_t*);
void leaf_digests_avx2(const uint8_t*, size_t, uint64_t, uint32_t, uint8_t*);
void leaf_digests_avx512(const uint8_t*, size_t, uint64_t, uint32_t, uint8_t*);
void leaf_digests_neon(const uint8_t*, size_t, uint64_t, uint32_t, uint8_t*);
void leaf_digests_sha3(const uint8_t*, size_t, uint64_t, uint32_t, uint8_t*);

struct LeafHash {
  const char* name;
  uint32_t lanes;
  LeafDigests digests;
  bool Processor::* available;
};
inline constexpr uint32_t kLeafLanesMax = 8;

/// The implementations of this architecture, slowest first.
std::span<const LeafHash> leaf_hashes();
/// The fastest that the processor can execute.
const LeafHash& choose_leaf_hash(const Processor& processor);

}  // namespace bitnet::crypto
