// Philox4x64-10, the counter-based generator of Salmon, Moraes, Dror and Shaw, "Parallel random
// numbers: as easy as 1, 2, 3" (SC 2011). Stateless: the draw of a token depends on the seed and
// the token's index alone, so recomputing or speculating cannot change it.
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace bitnet::sampler {

/// First output word of the block with key (seed, 0) and counter (index, 0, 0, 0).
inline uint64_t philox4x64(uint64_t seed, uint64_t index) {
  constexpr uint64_t kMultiplierA = 0xD2E7470EE14C6C93u;
  constexpr uint64_t kMultiplierB = 0xCA5A826395121157u;
  constexpr uint64_t kWeylA = 0x9E3779B97F4A7C15u;
  constexpr uint64_t kWeylB = 0xBB67AE8584CAA73Bu;
  uint64_t c0 = index, c1 = 0, c2 = 0, c3 = 0, k0 = seed, k1 = 0;
  for (int round = 0; round < 10; ++round) {
    const auto a = static_cast<unsigned __int128>(kMultiplierA) * c0;
    const auto b = static_cast<unsigned __int128>(kMultiplierB) * c2;
    const uint64_t n0 = static_cast<uint64_t>(b >> 64) ^ c1 ^ k0;
    const uint64_t n2 = static_cast<uint64_t>(a >> 64) ^ c3 ^ k1;
    c1 = static_cast<uint64_t>(b);
    c3 = static_cast<uint64_t>(a);
    c0 = n0;
    c2 = n2;
    k0 += kWeylA;
    k1 += kWeylB;
  }
  return c0;
}

/// A binary64 in [0, 1): the upper 53 bits.
inline double uniform(uint64_t seed, uint64_t index) {
  return static_cast<double>(philox4x64(seed, index) >> 11) * 0x1p-53;
}

}  // namespace bitnet::sampler
