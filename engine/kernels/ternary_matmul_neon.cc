// ternary_matmul with smull and smlal: 16-bit partial sums, widened before they can overflow.
// SPDX-License-Identifier: Apache-2.0
//
// Flags: none (ASIMD is part of armv8-a).
#include <arm_neon.h>

#include "kernels/ternary_matmul.h"
#include "kernels/tile_walk.h"

namespace bitnet::kernels {
namespace {

constexpr uint32_t kPairs = 8;  // pairs of rows: a 16-bit accumulator holds four lanes of two rows

// A 16-bit lane gets, from one block, four products code * activation (p = 0 ... 3). Code <= 2 and
// |activation| <= 127, so kBlocksPerWidening blocks add up to at most 32512.
constexpr uint32_t kBlocksPerWidening = 32;
static_assert(kBlocksPerWidening * 4 * 2 * 127 <= INT16_MAX);

/// Four activations, twice.
inline int8x8_t broadcast_four(const int8_t* codes) {
  int32_t four;
  __builtin_memcpy(&four, codes, sizeof four);
  return vreinterpret_s8_s32(vdup_n_s32(four));
}

/// acc[t][pair] += the products of one block: lane 4i + b is row 2 * pair + i, columns 4p + b.
template <uint32_t kTokens>
inline void add_block(const uint8_t* block, const int8_t* codes, size_t stride,
                      int16x8_t (&acc)[kTokens][kPairs]) {
  const uint8x16_t mask = vdupq_n_u8(3);
  for (uint32_t group = 0; group < kPairs / 2; ++group) {
    const uint8x16_t packed = vld1q_u8(block + 16 * group);
    const int8x16_t unpacked[4] = {
        vreinterpretq_s8_u8(vandq_u8(packed, mask)),
        vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(packed, 2), mask)),
        vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(packed, 4), mask)),
        vreinterpretq_s8_u8(vshrq_n_u8(packed, 6)),
    };
    for (uint32_t t = 0; t < kTokens; ++t) {
      for (uint32_t p = 0; p < 4; ++p) {
        const int8x8_t x = broadcast_four(codes + t * stride + 4 * p);
        int16x8_t& low = acc[t][2 * group];
        int16x8_t& high = acc[t][2 * group + 1];
        low = vmlal_s8(low, vget_low_s8(unpacked[p]), x);
        high = vmlal_s8(high, vget_high_s8(unpacked[p]), x);
      }
    }
  }
}

/// One tile times the first kTokens tokens of x; y is row 0 of the tile.
template <uint32_t kTokens>
void multiply_tile(const uint8_t* tile, const uint8_t* /*ahead*/, uint32_t cols_padded,
                   const Int8Tokens& x, float* y, size_t y_stride) {
  constexpr uint32_t kColsPerWidening = kBlocksPerWidening * kTernaryBlockCols;
  int32x4_t total[kTokens][kPairs] = {};
  for (uint32_t begin = 0; begin < cols_padded; begin += kColsPerWidening) {
    const uint32_t left = cols_padded - begin;
    const uint32_t end = begin + (left < kColsPerWidening ? left : kColsPerWidening);
    int16x8_t acc[kTokens][kPairs] = {};
    for (uint32_t col = begin; col < end; col += kTernaryBlockCols) {
      add_block<kTokens>(tile + size_t{col} * (kTileRows / 4), x.codes + col, x.stride, acc);
    }
    for (uint32_t t = 0; t < kTokens; ++t) {
      for (uint32_t pair = 0; pair < kPairs; ++pair) {
        total[t][pair] = vpadalq_s16(total[t][pair], acc[t][pair]);
      }
    }
  }
  for (uint32_t t = 0; t < kTokens; ++t) {
    for (uint32_t group = 0; group < kPairs / 2; ++group) {
      const int32x4_t rows = vpaddq_s32(total[t][2 * group], total[t][2 * group + 1]);
      const int32x4_t sum = vsubq_s32(rows, vdupq_n_s32(x.sums[t]));
      vst1q_f32(y + t * y_stride + 4 * group, vmulq_n_f32(vcvtq_f32_s32(sum), x.multipliers[t]));
    }
  }
}

}  // namespace

void ternary_matmul_neon(const TileRange& tiles, const Int8Tokens& x, float* y, size_t y_stride) {
  static constexpr TernaryTile kMultiply[] = {multiply_tile<1>, multiply_tile<2>};
  walk_tiles(tiles, x, kMultiply, y, y_stride);
}

}  // namespace bitnet::kernels
