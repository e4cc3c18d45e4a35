// SPDX-License-Identifier: Apache-2.0
#include "crypto/leaf_digests.h"

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

}  // namespace

std::span<const LeafHash> leaf_hashes() { return kHashes; }

const LeafHash& choose_leaf_hash(const Processor& processor) {
  size_t best = std::size(kHashes) - 1;
  while (kHashes[best].available != nullptr && !(processor.*kHashes[best].available)) --best;
  return kHashes[best];
}

}  // namespace bitnet::crypto
