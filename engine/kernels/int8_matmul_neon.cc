// int8_matmul with smull and smlal: two products in 16 bits, then widened to int32.
// SPDX-License-Identifier: Apache-2.0
//
// Flags: none (ASIMD is part of armv8-a).
#include <arm_neon.h>

#include "kernels/int8_matmul.h"
#include "kernels/tile_walk.h"

namespace bitnet::kernels {
namespace {

constexpr uint32_t kPairs = 8;  // pairs of rows: a 16-bit product vector holds four lanes of two

// A 16-bit lane gets two products, of the same place in two blocks, before it is widened. The
// stored byte with its top bit flipped is the signed code, |code| <= 127 and |activation| <= 127.
static_assert(2 * 127 * 127 <= INT16_MAX);
constexpr uint32_t kColsPerStep = 2 * kInt8BlockCols;
static_assert(kLanes % kColsPerStep == 0);

/// Four activations, twice.
inline int8x8_t broadcast_four(const int8_t* codes) {
  int32_t four;
  __builtin_memcpy(&four, codes, sizeof four);
  return vreinterpret_s8_s32(vdup_n_s32(four));
}

inline int8x8_t load_codes(const uint8_t* stored) {
  return vreinterpret_s8_u8(veor_u8(vld1_u8(stored), vdup_n_u8(0x80)));
}

/// acc + two blocks' products of one pair of rows: lanes 2i and 2i + 1 are row i of the pair.
inline int32x4_t multiply_add(int32x4_t acc, int8x8_t w0, int8x8_t x0, int8x8_t w1, int8x8_t x1) {
  return vpadalq_s16(acc, vmlal_s8(vmull_s8(w0, x0), w1, x1));
}

/// (float(hi) * 128 + float(lo)) * (row scale * token scale).
inline float32x4_t finish(int32x4_t hi, int32x4_t lo, const float* row_scales, float scale) {
  const float32x4_t high = vmulq_n_f32(vcvtq_f32_s32(hi), 128.0f);
  const float32x4_t sum = vaddq_f32(high, vcvtq_f32_s32(lo));
  return vmulq_f32(sum, vmulq_n_f32(vld1q_f32(row_scales), scale));
}

/// One tile times the one token of x; y is row 0 of the tile.
void multiply_tile(const uint8_t* tile, uint32_t cols_padded, const float* row_scales,
                   const SplitTokens& x, float* y, size_t /*y_stride*/) {
  int32x4_t hi[kPairs] = {};
  int32x4_t lo[kPairs] = {};
  for (uint32_t col = 0; col < cols_padded; col += kColsPerStep) {
    const uint8_t* block0 = tile + size_t{col} * kTileRows;
    const uint8_t* block1 = block0 + kInt8BlockBytes;
    const int8x8_t hi0 = broadcast_four(x.hi + col);
    const int8x8_t hi1 = broadcast_four(x.hi + col + kInt8BlockCols);
    const int8x8_t lo0 = broadcast_four(x.lo + col);
    const int8x8_t lo1 = broadcast_four(x.lo + col + kInt8BlockCols);
    for (uint32_t pair = 0; pair < kPairs; ++pair) {
      const int8x8_t w0 = load_codes(block0 + 8 * pair);
      const int8x8_t w1 = load_codes(block1 + 8 * pair);
      hi[pair] = multiply_add(hi[pair], w0, hi0, w1, hi1);
      lo[pair] = multiply_add(lo[pair], w0, lo0, w1, lo1);
    }
  }
  for (uint32_t group = 0; group < kPairs / 2; ++group) {
    const int32x4_t hi_rows = vpaddq_s32(hi[2 * group], hi[2 * group + 1]);
    const int32x4_t lo_rows = vpaddq_s32(lo[2 * group], lo[2 * group + 1]);
    vst1q_f32(y + 4 * group, finish(hi_rows, lo_rows, row_scales + 4 * group, x.scales[0]));
  }
}

}  // namespace

void int8_matmul_neon(const TileRange& tiles, const float* row_scales, const SplitTokens& x,
                      float* y, size_t y_stride) {
  static constexpr Int8Tile kMultiply[] = {multiply_tile};
  walk_tiles(tiles, row_scales, x, kMultiply, y, y_stride);
}

}  // namespace bitnet::kernels
