// SPDX-License-Identifier: Apache-2.0
#include "crypto/leaf_digests.h"

namespace bitnet::crypto {
namespace {

constexpr LeafHash kHashes[] = {
    {"ref", 1, leaf_digests_ref, &Processor::ref},
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
  const LeafHash* best = std::end(kHashes) - 1;
  while (!(processor.*best->available)) --best;
  return *best;
}

}  // namespace bitnet::crypto
