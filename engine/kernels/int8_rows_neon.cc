// int8_high and int8_low with smull and smlal: 16-bit sums, widened before they can overflow.
// SPDX-License-Identifier: Apache-2.0
//
// Flags: none (ASIMD is part of armv8-a).
#include <arm_neon.h>

#include "kernels/int8_rows.h"
#include "kernels/int8_walk.h"

namespace bitnet::kernels {
namespace {

constexpr uint32_t kPairs = 8;  // pairs of rows: a 16-bit accumulator holds four lanes of two rows

// A 16-bit lane gets two products of a nibble and an activation from eight bytes of either plane;
// a block of the low plane gives eight times as many.
constexpr uint32_t kBlocksPerWidening = 8;
static_assert(kBlocksPerWidening * 2 * 15 * 127 <= INT16_MAX);

struct Nibbles {
  int8x8_t low;
  int8x8_t upper;
};

inline Nibbles unpack(const uint8_t* bytes) {
  const uint8x8_t packed = vld1_u8(bytes);
  return {vreinterpret_s8_u8(vand_u8(packed, vdup_n_u8(0x0f))),
          vreinterpret_s8_u8(vshr_n_u8(packed, 4))};
}

/// Four activations, twice.
inline int8x8_t broadcast_four(const int8_t* codes) {
  int32_t four;
  __builtin_memcpy(&four, codes, sizeof four);
  return vreinterpret_s8_s32(vdup_n_s32(four));
}

inline int16x8_t multiply_add(int16x8_t acc, const Nibbles& nibbles, int8x8_t low_x,
                              int8x8_t upper_x) {
  return vmlal_s8(vmlal_s8(acc, nibbles.low, low_x), nibbles.upper, upper_x);
}

/// One tile times one part of the state.
void multiply_part(const uint8_t* high, uint32_t cols_padded, const int8_t* x, int32_t* sums) {
  constexpr uint32_t kColsPerWidening = kBlocksPerWidening * kHighBlockCols;
  int32x4_t total[kPairs] = {};
  for (uint32_t begin = 0; begin < cols_padded; begin += kColsPerWidening) {
    const uint32_t left = cols_padded - begin;
    const uint32_t end = begin + (left < kColsPerWidening ? left : kColsPerWidening);
    int16x8_t acc[kPairs] = {};
    for (uint32_t col = begin; col < end; col += kHighBlockCols) {
      const int8x8_t low_x = broadcast_four(x + col);
      const int8x8_t upper_x = broadcast_four(x + col + 4);
      for (uint32_t pair = 0; pair < kPairs; ++pair) {
        const Nibbles nibbles = unpack(high + size_t{col} * (kTileRows / 2) + 8 * pair);
        acc[pair] = multiply_add(acc[pair], nibbles, low_x, upper_x);
      }
    }
    for (uint32_t pair = 0; pair < kPairs; ++pair) {
      total[pair] = vpadalq_s16(total[pair], acc[pair]);
    }
  }
  for (uint32_t group = 0; group < kPairs / 2; ++group) {
    const int32x4_t four = vpaddq_s32(total[2 * group], total[2 * group + 1]);
    vst1q_s32(sums + 4 * group, vshlq_n_s32(four, 4));
  }
}

/// The tile is in the nearest cache when the second part is multiplied.
void multiply_tile(const uint8_t* high, uint32_t cols_padded, const SplitState& x, int32_t* hi,
                   int32_t* lo) {
  multiply_part(high, cols_padded, x.hi, hi);
  multiply_part(high, cols_padded, x.lo, lo);
}

void multiply_row(const LowBlock& row, const SplitState& x, int32_t* hi, int32_t* lo) {
  static_assert(kPlaneBlockBytes / 8 <= kBlocksPerWidening);
  int32x4_t hi_total = {};
  int32x4_t lo_total = {};
  for (uint32_t i = 0, at = 0; i < row.count; ++i, at = row.next(at)) {
    const uint8_t* bytes = row.load(0, at);
    const size_t col = size_t{at} * kLowBlockCols;
    int16x8_t hi_acc = {};
    int16x8_t lo_acc = {};
    for (uint32_t j = 0; j < kPlaneBlockBytes; j += 8) {
      const Nibbles nibbles = unpack(bytes + j);
      const int8_t* x_hi = x.hi + col + j;
      const int8_t* x_lo = x.lo + col + j;
      hi_acc = multiply_add(hi_acc, nibbles, vld1_s8(x_hi), vld1_s8(x_hi + 64));
      lo_acc = multiply_add(lo_acc, nibbles, vld1_s8(x_lo), vld1_s8(x_lo + 64));
    }
    hi_total = vpadalq_s16(hi_total, hi_acc);
    lo_total = vpadalq_s16(lo_total, lo_acc);
  }
  *hi = vaddvq_s32(hi_total);
  *lo = vaddvq_s32(lo_total);
}

}  // namespace

void int8_high_neon(const HighTiles& tiles, const SplitState& x, const PlaneSums& sums) {
  walk_high_tiles(tiles, x, multiply_tile, sums);
}

void int8_low_neon(const LowRows& rows, const SplitState& x, const PlaneSums& sums) {
  static constexpr LowRowBlock kMultiply[] = {multiply_row};
  walk_low_rows(rows, x, kMultiply, sums);
}

}  // namespace bitnet::kernels
