// int8_high and int8_low with vpmaddubsw: 16-bit sums of nibbles, widened before they overflow.
// SPDX-License-Identifier: Apache-2.0
//
// Flags: -mavx2.
#include <immintrin.h>

#include "kernels/int8_rows.h"
#include "kernels/int8_walk.h"

namespace bitnet::kernels {
namespace {

constexpr uint32_t kHalves = 2;  // rows 0 ... 7 and 8 ... 15 of a tile, 32 bytes of a block each
constexpr uint32_t kHalfBytes = 32;

// A 16-bit lane gets, from one block of the high plane, two pair sums of a nibble times an
// activation, each at most 2 * 15 * 127 in magnitude: vpmaddubsw does not saturate, and four blocks
// fit; a block of the low plane gives four pair sums, and two blocks fit.
constexpr uint32_t kBlocksPerWidening = 4;
static_assert(kBlocksPerWidening * 2 * 2 * 15 * 127 <= INT16_MAX);

struct Nibbles {
  __m256i low;
  __m256i upper;
};

inline __m256i load(const void* bytes) {
  return _mm256_load_si256(static_cast<const __m256i*>(bytes));
}

inline Nibbles unpack(const uint8_t* bytes) {
  const __m256i packed = load(bytes);
  const __m256i mask = _mm256_set1_epi8(0x0f);
  return {_mm256_and_si256(packed, mask), _mm256_and_si256(_mm256_srli_epi16(packed, 4), mask)};
}

inline __m256i broadcast_four(const int8_t* codes) {
  int32_t four;
  __builtin_memcpy(&four, codes, sizeof four);
  return _mm256_set1_epi32(four);
}

/// acc + the pair sums of both nibbles.
inline __m256i multiply_add(__m256i acc, const Nibbles& nibbles, __m256i low_x, __m256i upper_x) {
  acc = _mm256_add_epi16(acc, _mm256_maddubs_epi16(nibbles.low, low_x));
  return _mm256_add_epi16(acc, _mm256_maddubs_epi16(nibbles.upper, upper_x));
}

inline __m256i widen(__m256i total, __m256i acc) {
  return _mm256_add_epi32(total, _mm256_madd_epi16(acc, _mm256_set1_epi16(1)));
}

void multiply_tile(const uint8_t* high, uint32_t cols_padded, const SplitState& x, int32_t* hi,
                   int32_t* lo) {
  constexpr uint32_t kColsPerWidening = kBlocksPerWidening * kHighBlockCols;
  __m256i hi_total[kHalves] = {};
  __m256i lo_total[kHalves] = {};
  for (uint32_t begin = 0; begin < cols_padded; begin += kColsPerWidening) {
    const uint32_t left = cols_padded - begin;
    const uint32_t end = begin + (left < kColsPerWidening ? left : kColsPerWidening);
    __m256i hi_acc[kHalves] = {};
    __m256i lo_acc[kHalves] = {};
    for (uint32_t col = begin; col < end; col += kHighBlockCols) {
      const uint8_t* block = high + size_t{col} * (kTileRows / 2);
      prefetch_weights(block);
      for (uint32_t half = 0; half < kHalves; ++half) {
        const Nibbles nibbles = unpack(block + half * kHalfBytes);
        hi_acc[half] = multiply_add(hi_acc[half], nibbles, broadcast_four(x.hi + col),
                                    broadcast_four(x.hi + col + 4));
        lo_acc[half] = multiply_add(lo_acc[half], nibbles, broadcast_four(x.lo + col),
                                    broadcast_four(x.lo + col + 4));
      }
    }
    for (uint32_t half = 0; half < kHalves; ++half) {
      hi_total[half] = widen(hi_total[half], hi_acc[half]);
      lo_total[half] = widen(lo_total[half], lo_acc[half]);
    }
  }
  for (uint32_t half = 0; half < kHalves; ++half) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(hi) + half,
                        _mm256_slli_epi32(hi_total[half], 4));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(lo) + half,
                        _mm256_slli_epi32(lo_total[half], 4));
  }
}

inline int32_t sum_lanes(__m256i v) {
  __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
  sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1));
  return _mm_cvtsi128_si32(sum);
}

/// total + the sums of one block with one part of its columns' activations.
inline __m256i add_block(__m256i total, const Nibbles (&block)[2], const int8_t* x) {
  const __m256i acc = multiply_add(_mm256_setzero_si256(), block[0], load(x), load(x + 64));
  return widen(total, multiply_add(acc, block[1], load(x + 32), load(x + 96)));
}

void multiply_row(const LowBlock& row, const SplitState& x, int32_t* hi, int32_t* lo) {
  __m256i hi_total = {};
  __m256i lo_total = {};
  for (uint32_t i = 0, at = 0; i < row.count; ++i, at = row.next(at)) {
    const uint8_t* bytes = row.load(0, at);
    const size_t col = size_t{at} * kLowBlockCols;
    const Nibbles block[2] = {unpack(bytes), unpack(bytes + kHalfBytes)};
    hi_total = add_block(hi_total, block, x.hi + col);
    lo_total = add_block(lo_total, block, x.lo + col);
  }
  *hi = sum_lanes(hi_total);
  *lo = sum_lanes(lo_total);
}

}  // namespace

void int8_high_avx2(const HighTiles& tiles, const SplitState& x, const PlaneSums& sums) {
  walk_high_tiles(tiles, x, multiply_tile, sums);
}

void int8_low_avx2(const LowRows& rows, const SplitState& x, const PlaneSums& sums) {
  static constexpr LowRowBlock kMultiply[] = {multiply_row};
  walk_low_rows(rows, x, kMultiply, sums);
}

}  // namespace bitnet::kernels
