// Sixty-four bytes as one value, and exact sums of products of bytes: what the integer kernels are
// made of.
// SPDX-License-Identifier: Apache-2.0
//
// Weights are codes, unsigned and small; activations are int8. All that depends on the instruction
// set is how a code is multiplied with an activation and what the products are added up in.
#pragma once

#if defined(__aarch64__)
#include <arm_neon.h>
#else
#include <immintrin.h>
#endif

#include <bit>

#include "kernels/lanes_simd.h"

namespace bitnet::kernels {
namespace {

typedef uint8_t u8x64 __attribute__((vector_size(64)));

inline u8x64 load_bytes(const void* from) {
  u8x64 value;
  __builtin_memcpy(&value, from, sizeof value);
  return value;
}

// Sums          of products, in lanes of 32 or 16 bits.
// kSumMax       the largest magnitude that a lane holds.
// kSumProducts  products of neighbours that multiply_add() adds to a lane.
// kBitsInPlace  of a byte of packed codes this many low bits need not be shifted down: what stands
//               in them is multiplied in its place, with a bound that multiply_add() still takes.
// kTokensAside  tokens whose sums registers have room for beside each other.
// kRowsAside    the same for single rows with both parts of a state.
#if defined(__AVX512VNNI__)
typedef i32x16 Sums;
constexpr uint64_t kSumMax = INT32_MAX;
constexpr uint32_t kSumProducts = 4;
constexpr uint32_t kBitsInPlace = 8;
constexpr uint32_t kTokensAside = 4;
constexpr uint32_t kRowsAside = 4;

/// sums + the products of four neighbours in each lane.
inline Sums multiply_add(Sums sums, u8x64 codes, u8x64 x) {
  const __m512i sum = __builtin_bit_cast(__m512i, sums);
  return __builtin_bit_cast(Sums, _mm512_dpbusd_epi32(sum, __builtin_bit_cast(__m512i, codes),
                                                      __builtin_bit_cast(__m512i, x)));
}

#elif defined(__AVX2__)
struct Sums {
  __m256i half[2];
};
constexpr uint64_t kSumMax = INT16_MAX;
constexpr uint32_t kSumProducts = 2;
constexpr uint32_t kBitsInPlace = 4;
constexpr uint32_t kTokensAside = 4;
constexpr uint32_t kRowsAside = 1;

/// sums + the products of two neighbours in each lane; vpmaddubsw does not saturate here.
inline Sums multiply_add(Sums sums, u8x64 codes, u8x64 x) {
  const auto a = __builtin_bit_cast(Sums, codes);
  const auto b = __builtin_bit_cast(Sums, x);
  for (uint32_t i = 0; i < 2; ++i) {
    sums.half[i] = _mm256_add_epi16(sums.half[i], _mm256_maddubs_epi16(a.half[i], b.half[i]));
  }
  return sums;
}

#elif defined(__ARM_FEATURE_DOTPROD)
typedef i32x16 Sums;
constexpr uint64_t kSumMax = INT32_MAX;
constexpr uint32_t kSumProducts = 4;
constexpr uint32_t kBitsInPlace = 6;
constexpr uint32_t kTokensAside = 4;
constexpr uint32_t kRowsAside = 1;

/// sums + the products of four neighbours in each lane; codes are below 128, as sdot reads them.
inline Sums multiply_add(Sums sums, u8x64 codes, u8x64 x) {
  struct Quarters {
    int32x4_t quarter[4];
  };
  auto to = __builtin_bit_cast(Quarters, sums);
  const auto a = __builtin_bit_cast(Quarters, codes);
  const auto b = __builtin_bit_cast(Quarters, x);
  for (uint32_t i = 0; i < 4; ++i) {
    to.quarter[i] = vdotq_s32(to.quarter[i], vreinterpretq_s8_s32(a.quarter[i]),
                              vreinterpretq_s8_s32(b.quarter[i]));
  }
  return __builtin_bit_cast(Sums, to);
}

#else
typedef int8_t i8x64 __attribute__((vector_size(64)));
typedef int16_t i16x64 __attribute__((vector_size(128)));
typedef i16x64 Sums;
constexpr uint64_t kSumMax = INT16_MAX;
constexpr uint32_t kSumProducts = 1;
constexpr uint32_t kBitsInPlace = 0;
constexpr uint32_t kTokensAside = 2;
constexpr uint32_t kRowsAside = 1;

/// sums + one product in each lane; codes are below 128.
inline Sums multiply_add(Sums sums, u8x64 codes, u8x64 x) {
  return sums + __builtin_convertvector(__builtin_bit_cast(i8x64, codes), Sums) *
                    __builtin_convertvector(__builtin_bit_cast(i8x64, x), Sums);
}
#endif

/// Lane i is the sum of the products of bytes 4i ... 4i + 3.
inline i32x16 widen(Sums sums) {
#if defined(__AVX512VNNI__) || defined(__ARM_FEATURE_DOTPROD)
  return sums;
#elif defined(__AVX2__)
  for (__m256i& half : sums.half) half = _mm256_madd_epi16(half, _mm256_set1_epi16(1));
  return __builtin_bit_cast(i32x16, sums);
#else
  const auto both = __builtin_bit_cast(i32x32, sums);
  const i32x32 pairs = ((both << 16) >> 16) + (both >> 16);
  return even_lanes(pairs) + odd_lanes(pairs);
#endif
}

/// Blocks of 64 bytes with 8 / kBits codes in a byte, each at most kMax; or the same with a byte
/// for each code.
template <uint32_t kBits, uint32_t kMax, bool kUnpacked = false>
struct WeightCodes {
  static constexpr uint32_t kFields = 8 / kBits;
  static constexpr uint32_t kBlockBytes = kUnpacked ? 64 * kFields : 64;
  /// Fields in a row that are not shifted down against each other: code p counts 2^shift(p) times.
  static constexpr uint32_t kInPlace =
      !kUnpacked && kBitsInPlace > kBits ? kBitsInPlace / kBits : 1;
  static constexpr uint32_t shift(uint32_t p) { return p % kInPlace * kBits; }

  /// Codes p of a block.
  static u8x64 load(const uint8_t* block, uint32_t p) {
    if constexpr (kUnpacked) return load_bytes(block + 64 * p);
    const uint8_t mask = static_cast<uint8_t>(((1u << kBits) - 1) << shift(p));
    return load_bytes(block) >> static_cast<uint8_t>(p * kBits - shift(p)) & mask;
  }

  /// What a block adds to a lane of Sums, and after how many of them it is full; a lane of 32 bits
  /// holds all that there can be.
  static constexpr uint64_t kBlockMax =
      (kFields + kInPlace - 1) / kInPlace * kSumProducts * (kMax << shift(kInPlace - 1)) * 127;
  static constexpr uint64_t kBlocksMax = std::bit_floor(kSumMax / kBlockMax);
  static bool full(size_t blocks) {
    return kBlocksMax * 4 * kFields < kColsMax && blocks % kBlocksMax == 0;
  }
};

/// Sums of products with codes of one kind.
template <typename Code>
struct CodeSums {
  Sums in_place[Code::kInPlace] = {};

  void add(uint32_t p, u8x64 codes, u8x64 x) {
    Sums& sums = in_place[p % Code::kInPlace];
    sums = multiply_add(sums, codes, x);
  }
  void move_to(i32x16& total) {
    for (uint32_t p = 0; p < Code::kInPlace; ++p) {
      total += widen(in_place[p]) >> Code::shift(p);
      in_place[p] = {};
    }
  }
};

/// Activations 4p ... 4p + 3, in every lane.
inline u8x64 four_activations(const int8_t* x, uint32_t p) {
#if defined(__aarch64__)
  // An instruction takes either lane of a register: eight of them are loaded once.
  int32x2_t both;
  __builtin_memcpy(&both, x + p / 2 * sizeof both, sizeof both);
  const int32x4_t four = p % 2 == 0 ? vdupq_lane_s32(both, 0) : vdupq_lane_s32(both, 1);
  const int32x4_t lanes[4] = {four, four, four, four};
  return __builtin_bit_cast(u8x64, lanes);
#else
  int32_t four;
  __builtin_memcpy(&four, x + 4 * p, sizeof four);
  return __builtin_bit_cast(u8x64, i32x16{} + four);
#endif
}

/// How far ahead of its loads a kernel for one token asks for weights.
/// Why       every byte is read once, so nothing but an early request hides the time to memory.
/// Measured  docs/lab_notes.md, 2B-4T geometry, one thread: 37.1 ms a token without, 31.7 with
///           4 KiB, 30.8 with 6, 31.5 with 8, 32.0 with 16.
constexpr size_t kWeightsAhead = 6144;

/// totals[t] += sixteen rows times the activations x[t]. A lane of a block is a row; field p of its
/// bytes has columns 4p ... 4p + 3. `ahead` counts from a block on: what to ask for, 0 for nothing.
template <typename Code, uint32_t kTokens>
inline void multiply_rows(const uint8_t* blocks, size_t count, size_t ahead,
                          const int8_t* const (&x)[kTokens], i32x16* totals) {
  constexpr uint32_t kFields = Code::kFields;
  CodeSums<Code> sums[kTokens];
  for (size_t i = 0; i < count;) {
    const uint8_t* block = blocks + i * Code::kBlockBytes;
    if (ahead != 0) __builtin_prefetch(block + ahead);
#pragma unroll
    for (uint32_t p = 0; p < kFields; ++p) {
      const u8x64 codes = Code::load(block, p);
#pragma unroll
      for (uint32_t t = 0; t < kTokens; ++t) {
        sums[t].add(p, codes, four_activations(x[t] + i * 4 * kFields, p));
      }
    }
    if (Code::full(++i)) {
      for (uint32_t t = 0; t < kTokens; ++t) sums[t].move_to(totals[t]);
    }
  }
  for (uint32_t t = 0; t < kTokens; ++t) sums[t].move_to(totals[t]);
}

}  // namespace
}  // namespace bitnet::kernels
