// int8_matmul with 512-bit vpdpbusd: the stored byte is the unsigned operand, one lane a row.
// SPDX-License-Identifier: Apache-2.0
//
// Flags: -mavx512f -mavx512bw -mavx512vl -mavx512vnni.
#include <immintrin.h>

#include "kernels/int8_matmul.h"
#include "kernels/tile_walk.h"

namespace bitnet::kernels {
namespace {

// The sum of (code + 128) * activation stays in int32.
static_assert(255ull * 127 * kHiddenSizeMax < (1ull << 31));

// Columns are padded to 16, so four blocks of four columns follow each other without a tail. One
// token alone gets an accumulator per block of the four, to hide the latency of the instruction.
constexpr uint32_t kBlocksPerStep = 4;
static_assert(kBlocksPerStep * kInt8BlockCols == kLanes);

inline __m512i broadcast_four(const int8_t* codes) {
  int32_t four;
  __builtin_memcpy(&four, codes, sizeof four);
  return _mm512_set1_epi32(four);
}

/// The sum of all accumulators, less 128 * `activation_sum`.
template <uint32_t kChains>
inline __m512 finish(const __m512i (&acc)[kChains], int32_t activation_sum) {
  __m512i sum = _mm512_set1_epi32(-128 * activation_sum);
  for (uint32_t chain = 0; chain < kChains; ++chain) sum = _mm512_add_epi32(sum, acc[chain]);
  return _mm512_cvtepi32_ps(sum);
}

/// One tile times the first kTokens tokens of x; y is row 0 of the tile.
template <uint32_t kTokens>
void multiply_tile(const uint8_t* tile, uint32_t cols_padded, const float* row_scales,
                   const SplitTokens& x, float* y, size_t y_stride) {
  constexpr uint32_t kChains = kTokens == 1 ? kBlocksPerStep : 1;
  __m512i hi[kTokens][kChains] = {};
  __m512i lo[kTokens][kChains] = {};
  for (uint32_t col = 0; col < cols_padded; col += kLanes) {
    for (uint32_t b = 0; b < kBlocksPerStep; ++b) {
      const uint32_t block_col = col + b * kInt8BlockCols;
      if constexpr (kTokens == 1) prefetch_weights(tile + size_t{block_col} * kTileRows);
      const __m512i block = _mm512_load_si512(tile + size_t{block_col} * kTileRows);
      for (uint32_t t = 0; t < kTokens; ++t) {
        const size_t at = t * x.stride + block_col;
        __m512i& hi_acc = hi[t][b % kChains];
        __m512i& lo_acc = lo[t][b % kChains];
        hi_acc = _mm512_dpbusd_epi32(hi_acc, block, broadcast_four(x.hi + at));
        lo_acc = _mm512_dpbusd_epi32(lo_acc, block, broadcast_four(x.lo + at));
      }
    }
  }
  const __m512 scales = _mm512_loadu_ps(row_scales);
  for (uint32_t t = 0; t < kTokens; ++t) {
    const __m512 high = _mm512_mul_ps(finish(hi[t], x.hi_sums[t]), _mm512_set1_ps(128.0f));
    const __m512 sum = _mm512_add_ps(high, finish(lo[t], x.lo_sums[t]));
    const __m512 scale = _mm512_mul_ps(scales, _mm512_set1_ps(x.scales[t]));
    _mm512_storeu_ps(y + t * y_stride, _mm512_mul_ps(sum, scale));
  }
}

}  // namespace

void int8_matmul_avx512vnni(const TileRange& tiles, const float* row_scales, const SplitTokens& x,
                            float* y, size_t y_stride) {
  static constexpr Int8Tile kMultiply[] = {multiply_tile<1>, multiply_tile<2>, multiply_tile<3>,
                                           multiply_tile<4>};
  walk_tiles(tiles, row_scales, x, kMultiply, y, y_stride);
}

}  // namespace bitnet::kernels
