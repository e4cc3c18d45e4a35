// SHA3-384 of several leaves side by side; included by keccak_<isa>.cc, which says how many
// (KECCAK_LANES) and names the function (KECCAK_NAME).
// SPDX-License-Identifier: Apache-2.0
//
// One vector holds the same 64-bit word of the state of every leaf, so the permutation is the
// scalar one written on vectors: no shuffle, and the compiler finds rotates and three-way logic
// where the instruction set has them. Source: FIPS 202, sections 3.2 (step mappings), 4
// (sponge), 6.1 (suffix 01, padding 10*1).
#include <cstring>

#include "crypto/leaf_digests.h"

namespace bitnet::crypto {
namespace {

#if KECCAK_LANES == 1
using Word = uint64_t;
#else
using Word = uint64_t __attribute__((vector_size(8 * KECCAK_LANES)));
#endif

constexpr size_t kRateBytes = 104;
constexpr size_t kRateWords = kRateBytes / 8;
constexpr size_t kPrefixBytes = 17;  // 0x00, u64 index, u64 length

constexpr uint64_t kRoundConstants[24] = {
    0x0000000000000001, 0x0000000000008082, 0x800000000000808a, 0x8000000080008000,
    0x000000000000808b, 0x0000000080000001, 0x8000000080008081, 0x8000000000008009,
    0x000000000000008a, 0x0000000000000088, 0x0000000080008009, 0x000000008000000a,
    0x000000008000808b, 0x800000000000008b, 0x8000000000008089, 0x8000000000008003,
    0x8000000000008002, 0x8000000000000080, 0x000000000000800a, 0x800000008000000a,
    0x8000000080008081, 0x8000000000008080, 0x0000000080000001, 0x8000000080008008};
// Word x + 5y is turned by kRotations[x + 5y] and goes to place y + 5 * (2x + 3y mod 5).
constexpr int kRotations[25] = {0,  1,  62, 28, 27, 36, 44, 6,  55, 20, 3,  10, 43,
                                25, 39, 41, 45, 15, 21, 8,  18, 2,  61, 56, 14};

inline Word rotate(Word word, int bits) {
  return bits == 0 ? word : word << bits | word >> (64 - bits);
}

inline void permute(Word* state) {
  Word a[25];
  for (int i = 0; i < 25; ++i) a[i] = state[i];
#pragma clang loop unroll(disable)
  for (const uint64_t constant : kRoundConstants) {
    Word c[5], d[5], b[25];
#pragma clang loop unroll(full)
    for (int x = 0; x < 5; ++x) c[x] = a[x] ^ a[x + 5] ^ a[x + 10] ^ a[x + 15] ^ a[x + 20];
#pragma clang loop unroll(full)
    for (int x = 0; x < 5; ++x) d[x] = c[(x + 4) % 5] ^ rotate(c[(x + 1) % 5], 1);
#pragma clang loop unroll(full)
    for (int i = 0; i < 25; ++i) {
      const int x = i % 5;
      const int y = i / 5;
      b[y + 5 * ((2 * x + 3 * y) % 5)] = rotate(a[i] ^ d[x], kRotations[i]);
    }
#pragma clang loop unroll(full)
    for (int i = 0; i < 25; ++i) {
      const int row = i / 5 * 5;
      a[i] = b[i] ^ (~b[row + (i + 1) % 5] & b[row + (i + 2) % 5]);
    }
    a[0] ^= constant;
  }
  for (int i = 0; i < 25; ++i) state[i] = a[i];
}

/// Adds one block of each leaf to the state; the blocks stand `strides` apart.
inline void absorb(Word* state, const uint8_t* const* blocks) {
  for (size_t i = 0; i < kRateWords; ++i) {
    uint64_t words[KECCAK_LANES];
    for (int lane = 0; lane < KECCAK_LANES; ++lane)
      std::memcpy(&words[lane], blocks[lane] + 8 * i, 8);
    Word word;
    std::memcpy(&word, words, sizeof word);
    state[i] ^= word;
  }
  permute(state);
}

/// The block that begins at byte `begin` of a leaf's message and holds more than its data: the
/// prefix, the data's end with the suffix, or both.
inline void compose(uint8_t* block, const uint8_t* data, size_t bytes, uint64_t index,
                    size_t begin) {
  uint8_t prefix[kPrefixBytes] = {};
  const uint64_t length = bytes;
  std::memcpy(prefix + 1, &index, 8);
  std::memcpy(prefix + 9, &length, 8);
  for (size_t i = 0; i < kRateBytes; ++i) {
    const size_t at = begin + i;
    block[i] = at < kPrefixBytes            ? prefix[at]
               : at - kPrefixBytes < bytes  ? data[at - kPrefixBytes]
               : at - kPrefixBytes == bytes ? 0x06
                                            : 0;
  }
  if (begin + kRateBytes > kPrefixBytes + bytes) block[kRateBytes - 1] |= 0x80;
}

}  // namespace

void KECCAK_NAME(const uint8_t* data, size_t leaf_bytes, uint64_t index, uint32_t count,
                 uint8_t* digests) {
  Word state[25] = {};
  uint8_t composed[KECCAK_LANES][kRateBytes];
  const uint8_t* leaves[KECCAK_LANES];
  const uint8_t* blocks[KECCAK_LANES];
  for (uint32_t lane = 0; lane < KECCAK_LANES; ++lane) {
    leaves[lane] = data + (lane < count ? lane : count - 1) * leaf_bytes;
  }
  for (size_t begin = 0; begin <= kPrefixBytes + leaf_bytes; begin += kRateBytes) {
    const bool plain = begin > 0 && begin + kRateBytes <= kPrefixBytes + leaf_bytes;
    for (uint32_t lane = 0; lane < KECCAK_LANES; ++lane) {
      blocks[lane] = plain ? leaves[lane] + (begin - kPrefixBytes) : composed[lane];
      if (!plain) compose(composed[lane], leaves[lane], leaf_bytes, index + lane, begin);
    }
    absorb(state, blocks);
  }
  uint64_t words[kDigestBytes / 8][KECCAK_LANES];
  std::memcpy(words, state, sizeof words);
  for (uint32_t lane = 0; lane < KECCAK_LANES && lane < count; ++lane) {
    for (size_t i = 0; i < kDigestBytes / 8; ++i) {
      std::memcpy(digests + lane * kDigestBytes + 8 * i, &words[i][lane], 8);
    }
  }
}

}  // namespace bitnet::crypto
