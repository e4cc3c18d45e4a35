// SPDX-License-Identifier: Apache-2.0
#include "crypto/leaf_digests.h"

#include "base/check.h"

namespace bitnet::crypto {
namespace {

constexpr LeafHash kHashes[] = {
    {"ref", 1, leaf_digests_ref, nullptr},
#if defined(__x86_64__)
    {"avx2", 4, leaf_digests_avx2, &Processor::avx2},
    {"avx512", 8, leaf_digests_avx512, &Processor::avx512},
#else
    {"neon", 2, leaf_digests_neon, &Processor::neon},
    {"sha3", 2, leaf_digests_sha3, &Processor::sha3},
#endif
};
constexpr uint32_t kHashCount = sizeof kHashes / sizeof kHashes[0];

}  // namespace

uint32_t leaf_hash_count() { return kHashCount; }

const LeafHash& leaf_hash(uint32_t index) {
  ENGINE_CHECK(index < kHashCount);
  return kHashes[index];
}

const LeafHash& choose_leaf_hash(const Processor& processor) {
  uint32_t best = kHashCount - 1;
  while (kHashes[best].available != nullptr && !(processor.*kHashes[best].available)) --best;
  return kHashes[best];
}

}  // namespace bitnet::crypto
