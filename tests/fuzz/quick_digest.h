// A stand-in for what engine/crypto does with SHA3-384, where a harness looks at what is done with
// digests: an instrumented SHA3 would take nine tenths of the time, and the comparisons of its
// loops those of the parser's place. Equal inputs alone have equal digests here too, as far as
// mutations go.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <cstring>

#include "crypto/crypto.h"
#include "crypto/leaf_digests.h"

#define FUZZ_UNSEEN __attribute__((no_sanitize("coverage")))

namespace quick {

/// What an opaque state holds: two lanes, and the bytes that do not make a word yet.
struct State {
  uint64_t a, b, bytes, pending;
};
static_assert(sizeof(State) <= sizeof(BitnetDigestState));

FUZZ_UNSEEN inline void mix(State* state, uint64_t word) {
  state->a = (state->a ^ word) * 0x9e3779b97f4a7c15u;
  state->a ^= state->a >> 29;
  state->b = (state->b << 7 | state->b >> 57) + state->a;
}

}  // namespace quick

extern "C" {

FUZZ_UNSEEN inline __attribute__((used)) void bitnet_sha3_384_init(BitnetDigestState* opaque) {
  auto* state = reinterpret_cast<quick::State*>(opaque);
  *state = {1, 2, 0, 0};
}

FUZZ_UNSEEN inline __attribute__((used)) void bitnet_sha3_384_update(BitnetDigestState* opaque,
                                                                     const uint8_t* data,
                                                                     size_t bytes) {
  auto* state = reinterpret_cast<quick::State*>(opaque);
  for (size_t at = 0; at < bytes;) {
    if (state->bytes % 8 == 0 && bytes - at >= 8) {
      uint64_t word;
      __builtin_memcpy(&word, data + at, 8);
      quick::mix(state, word);
      state->bytes += 8;
      at += 8;
      continue;
    }
    state->pending |= uint64_t{data[at++]} << (8 * (state->bytes % 8));
    if (++state->bytes % 8 != 0) continue;
    quick::mix(state, state->pending);
    state->pending = 0;
  }
}

FUZZ_UNSEEN inline __attribute__((used)) void bitnet_sha3_384_final(BitnetDigestState* opaque,
                                                                    uint8_t digest[kDigestBytes]) {
  auto* state = reinterpret_cast<quick::State*>(opaque);
  quick::mix(state, state->pending);
  quick::mix(state, state->bytes);
  for (size_t i = 0; i < kDigestBytes / 8; ++i) {
    quick::mix(state, i);
    const uint64_t word = state->a ^ state->b;
    std::memcpy(digest + 8 * i, &word, 8);
  }
}

}  // extern "C"

namespace quick {

/// As docs/formats/model.md, Digests, says.
FUZZ_UNSEEN inline void leaf_digests(const uint8_t* data, size_t leaf_bytes, uint64_t index,
                                     uint32_t count, uint8_t* digests) {
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t head[3] = {0, index + i, leaf_bytes};
    BitnetDigestState state;
    bitnet_sha3_384_init(&state);
    bitnet_sha3_384_update(&state, reinterpret_cast<const uint8_t*>(head), sizeof head);
    bitnet_sha3_384_update(&state, data + i * leaf_bytes, leaf_bytes);
    bitnet_sha3_384_final(&state, digests + i * kDigestBytes);
  }
}

inline bitnet::crypto::LeafHash leaf_hash{"quick", 8, leaf_digests, nullptr};

}  // namespace quick

namespace bitnet::crypto {
inline __attribute__((used)) const LeafHash& choose_leaf_hash(const Processor&) {
  return quick::leaf_hash;
}
}  // namespace bitnet::crypto
