// int8_matmul with sdot by element: the stored byte with its top bit flipped is the signed code.
// SPDX-License-Identifier: Apache-2.0
//
// Flags: -mcpu=generic+dotprod.
#include <arm_neon.h>

#include "kernels/int8_matmul.h"
#include "kernels/tile_walk.h"

namespace bitnet::kernels {
namespace {

constexpr uint32_t kGroups = 4;  // groups of four rows, 16 bytes of a block each

/// hi, lo[t][group] += the block of four columns kBlock of a step of 16 columns.
template <uint32_t kTokens, int kBlock>
inline void add_block(const uint8_t* step, const int8x16_t (&x_hi)[kTokens],
                      const int8x16_t (&x_lo)[kTokens], int32x4_t (&hi)[kTokens][kGroups],
                      int32x4_t (&lo)[kTokens][kGroups]) {
  for (uint32_t group = 0; group < kGroups; ++group) {
    const uint8x16_t stored = vld1q_u8(step + kBlock * kInt8BlockBytes + 16 * group);
    const int8x16_t codes = vreinterpretq_s8_u8(veorq_u8(stored, vdupq_n_u8(0x80)));
    for (uint32_t t = 0; t < kTokens; ++t) {
      hi[t][group] = vdotq_laneq_s32(hi[t][group], codes, x_hi[t], kBlock);
      lo[t][group] = vdotq_laneq_s32(lo[t][group], codes, x_lo[t], kBlock);
    }
  }
}

/// (float(hi) * 128 + float(lo)) * (row scale * token scale).
inline float32x4_t finish(int32x4_t hi, int32x4_t lo, const float* row_scales, float scale) {
  const float32x4_t high = vmulq_n_f32(vcvtq_f32_s32(hi), 128.0f);
  const float32x4_t sum = vaddq_f32(high, vcvtq_f32_s32(lo));
  return vmulq_f32(sum, vmulq_n_f32(vld1q_f32(row_scales), scale));
}

/// One tile times the first kTokens tokens of x; y is row 0 of the tile.
template <uint32_t kTokens>
void multiply_tile(const uint8_t* tile, uint32_t cols_padded, const float* row_scales,
                   const SplitTokens& x, float* y, size_t y_stride) {
  int32x4_t hi[kTokens][kGroups] = {};
  int32x4_t lo[kTokens][kGroups] = {};
  for (uint32_t col = 0; col < cols_padded; col += kLanes) {
    const uint8_t* step = tile + size_t{col} * kTileRows;
    int8x16_t x_hi[kTokens];
    int8x16_t x_lo[kTokens];
    for (uint32_t t = 0; t < kTokens; ++t) {
      x_hi[t] = vld1q_s8(x.hi + t * x.stride + col);
      x_lo[t] = vld1q_s8(x.lo + t * x.stride + col);
    }
    add_block<kTokens, 0>(step, x_hi, x_lo, hi, lo);
    add_block<kTokens, 1>(step, x_hi, x_lo, hi, lo);
    add_block<kTokens, 2>(step, x_hi, x_lo, hi, lo);
    add_block<kTokens, 3>(step, x_hi, x_lo, hi, lo);
  }
  for (uint32_t t = 0; t < kTokens; ++t) {
    for (uint32_t group = 0; group < kGroups; ++group) {
      const float* scales = row_scales + 4 * group;
      vst1q_f32(y + t * y_stride + 4 * group,
                finish(hi[t][group], lo[t][group], scales, x.scales[t]));
    }
  }
}

}  // namespace

void int8_matmul_dotprod(const TileRange& tiles, const float* row_scales, const SplitTokens& x,
                         float* y, size_t y_stride) {
  static constexpr Int8Tile kMultiply[] = {multiply_tile<1>, multiply_tile<2>};
  walk_tiles(tiles, row_scales, x, kMultiply, y, y_stride);
}

}  // namespace bitnet::kernels
