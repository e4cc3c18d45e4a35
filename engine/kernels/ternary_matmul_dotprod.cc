// ternary_matmul with sdot by element: sixteen activations in one register serve sixteen columns.
// SPDX-License-Identifier: Apache-2.0
//
// Flags: -mcpu=generic+dotprod.
#include <arm_neon.h>

#include "kernels/ternary_matmul.h"
#include "kernels/tile_walk.h"

namespace bitnet::kernels {
namespace {

constexpr uint32_t kGroups = 4;  // groups of four rows, 16 bytes of a block each

/// acc[t][group] += one block. Codes are 0 ... 2, so signed and unsigned bytes agree.
template <uint32_t kTokens>
inline void add_block(const uint8_t* block, const int8_t* codes, size_t stride,
                      int32x4_t (&acc)[kTokens][kGroups]) {
  const uint8x16_t mask = vdupq_n_u8(3);
  int8x16_t x[kTokens];
  for (uint32_t t = 0; t < kTokens; ++t) x[t] = vld1q_s8(codes + t * stride);
  for (uint32_t group = 0; group < kGroups; ++group) {
    const uint8x16_t packed = vld1q_u8(block + 16 * group);
    const int8x16_t code0 = vreinterpretq_s8_u8(vandq_u8(packed, mask));
    const int8x16_t code1 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(packed, 2), mask));
    const int8x16_t code2 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(packed, 4), mask));
    const int8x16_t code3 = vreinterpretq_s8_u8(vshrq_n_u8(packed, 6));
    for (uint32_t t = 0; t < kTokens; ++t) {
      acc[t][group] = vdotq_laneq_s32(acc[t][group], code0, x[t], 0);
      acc[t][group] = vdotq_laneq_s32(acc[t][group], code1, x[t], 1);
      acc[t][group] = vdotq_laneq_s32(acc[t][group], code2, x[t], 2);
      acc[t][group] = vdotq_laneq_s32(acc[t][group], code3, x[t], 3);
    }
  }
}

/// One tile times the first kTokens tokens of x; y is row 0 of the tile.
template <uint32_t kTokens>
void multiply_tile(const uint8_t* tile, const uint8_t* /*ahead*/, uint32_t cols_padded,
                   const Int8Tokens& x, float* y, size_t y_stride) {
  int32x4_t acc[kTokens][kGroups] = {};
  for (uint32_t col = 0; col < cols_padded; col += kTernaryBlockCols) {
    add_block<kTokens>(tile + size_t{col} * (kTileRows / 4), x.codes + col, x.stride, acc);
  }
  for (uint32_t t = 0; t < kTokens; ++t) {
    for (uint32_t group = 0; group < kGroups; ++group) {
      const int32x4_t sum = vsubq_s32(acc[t][group], vdupq_n_s32(x.sums[t]));
      vst1q_f32(y + t * y_stride + 4 * group, vmulq_n_f32(vcvtq_f32_s32(sum), x.multipliers[t]));
    }
  }
}

}  // namespace

void ternary_matmul_dotprod(const TileRange& tiles, const Int8Tokens& x, float* y,
                            size_t y_stride) {
  static constexpr TernaryTile kMultiply[] = {multiply_tile<1>, multiply_tile<2>, multiply_tile<3>,
                                              multiply_tile<4>};
  walk_tiles(tiles, x, kMultiply, y, y_stride);
}

}  // namespace bitnet::kernels
