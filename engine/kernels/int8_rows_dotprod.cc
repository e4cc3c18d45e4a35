// int8_high and int8_low with sdot: a nibble is 0 ... 15, so signed and unsigned bytes agree.
// SPDX-License-Identifier: Apache-2.0
//
// Flags: -mcpu=generic+dotprod.
#include <arm_neon.h>

#include "kernels/int8_rows.h"
#include "kernels/int8_walk.h"

namespace bitnet::kernels {
namespace {

constexpr uint32_t kGroups = 4;  // groups of four rows, 16 bytes of a block each

inline int8x16_t low_nibbles(uint8x16_t packed) {
  return vreinterpretq_s8_u8(vandq_u8(packed, vdupq_n_u8(0x0f)));
}

inline int8x16_t upper_nibbles(uint8x16_t packed) {
  return vreinterpretq_s8_u8(vshrq_n_u8(packed, 4));
}

/// Sixteen columns are two blocks; the activations of a register serve four nibbles of a row each.
void multiply_tile(const uint8_t* high, uint32_t cols_padded, const SplitState& x, int32_t* hi,
                   int32_t* lo) {
  int32x4_t hi_acc[kGroups] = {};
  int32x4_t lo_acc[kGroups] = {};
  for (uint32_t col = 0; col < cols_padded; col += kLanes) {
    const uint8_t* step = high + size_t{col} * (kTileRows / 2);
    const int8x16_t x_hi = vld1q_s8(x.hi + col);
    const int8x16_t x_lo = vld1q_s8(x.lo + col);
    for (uint32_t group = 0; group < kGroups; ++group) {
      const uint8x16_t first = vld1q_u8(step + 16 * group);
      const uint8x16_t second = vld1q_u8(step + kPlaneBlockBytes + 16 * group);
      hi_acc[group] = vdotq_laneq_s32(hi_acc[group], low_nibbles(first), x_hi, 0);
      lo_acc[group] = vdotq_laneq_s32(lo_acc[group], low_nibbles(first), x_lo, 0);
      hi_acc[group] = vdotq_laneq_s32(hi_acc[group], upper_nibbles(first), x_hi, 1);
      lo_acc[group] = vdotq_laneq_s32(lo_acc[group], upper_nibbles(first), x_lo, 1);
      hi_acc[group] = vdotq_laneq_s32(hi_acc[group], low_nibbles(second), x_hi, 2);
      lo_acc[group] = vdotq_laneq_s32(lo_acc[group], low_nibbles(second), x_lo, 2);
      hi_acc[group] = vdotq_laneq_s32(hi_acc[group], upper_nibbles(second), x_hi, 3);
      lo_acc[group] = vdotq_laneq_s32(lo_acc[group], upper_nibbles(second), x_lo, 3);
    }
  }
  for (uint32_t group = 0; group < kGroups; ++group) {
    vst1q_s32(hi + 4 * group, vshlq_n_s32(hi_acc[group], 4));
    vst1q_s32(lo + 4 * group, vshlq_n_s32(lo_acc[group], 4));
  }
}

inline int32x4_t add_block(int32x4_t acc, uint8x16_t packed, const int8_t* x) {
  acc = vdotq_s32(acc, low_nibbles(packed), vld1q_s8(x));
  return vdotq_s32(acc, upper_nibbles(packed), vld1q_s8(x + 64));
}

void multiply_row(const LowBlock& row, const SplitState& x, int32_t* hi, int32_t* lo) {
  int32x4_t hi_acc = {};
  int32x4_t lo_acc = {};
  for (uint32_t i = 0, at = 0; i < row.count; ++i, at = row.next(at)) {
    const uint8_t* bytes = row.load(0, at);
    const size_t col = size_t{at} * kLowBlockCols;
    for (uint32_t j = 0; j < kPlaneBlockBytes; j += 16) {
      const uint8x16_t packed = vld1q_u8(bytes + j);
      hi_acc = add_block(hi_acc, packed, x.hi + col + j);
      lo_acc = add_block(lo_acc, packed, x.lo + col + j);
    }
  }
  *hi = vaddvq_s32(hi_acc);
  *lo = vaddvq_s32(lo_acc);
}

}  // namespace

void int8_high_dotprod(const HighTiles& tiles, const SplitState& x, const PlaneSums& sums) {
  walk_high_tiles(tiles, x, multiply_tile, sums);
}

void int8_low_dotprod(const LowRows& rows, const SplitState& x, const PlaneSums& sums) {
  static constexpr LowRowBlock kMultiply[] = {multiply_row};
  walk_low_rows(rows, x, kMultiply, sums);
}

}  // namespace bitnet::kernels
