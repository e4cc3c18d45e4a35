// ternary_matmul with 512-bit vpdpbusd: one int32 lane a row, one load a block.
// SPDX-License-Identifier: Apache-2.0
//
// Flags: -mavx512f -mavx512bw -mavx512vl -mavx512vnni.
//
// A block is masked with 3, 3 << 2, 3 << 4 and 3 << 6 and never shifted: the codes of columns
// 4p ... 4p + 3 stay multiplied by 4^p (at most 2 * 64 = 128, an unsigned byte) and have an
// accumulator of their own, whose sum is a multiple of 4^p and is shifted back once a row.
#include <immintrin.h>

#include "kernels/ternary_matmul.h"
#include "kernels/tile_walk.h"

namespace bitnet::kernels {
namespace {

// The accumulator of p = 3 sees a quarter of the columns, each at most 128 * 127.
static_assert(128ull * 127 * (kColsMax / 4) < (1ull << 31));

inline __m512i broadcast_four(const int8_t* codes) {
  int32_t four;
  __builtin_memcpy(&four, codes, sizeof four);
  return _mm512_set1_epi32(four);
}

/// One tile times the first kTokens tokens of x; y is row 0 of the tile.
template <uint32_t kTokens>
void multiply_tile(const uint8_t* tile, const uint8_t* ahead, uint32_t cols_padded,
                   const Int8Tokens& x, float* y, size_t y_stride) {
  __m512i acc[kTokens][4];
  for (uint32_t t = 0; t < kTokens; ++t) {
    for (uint32_t p = 0; p < 4; ++p) acc[t][p] = _mm512_setzero_si512();
  }
  for (uint32_t col = 0; col < cols_padded; col += kTernaryBlockCols) {
    __builtin_prefetch(ahead + size_t{col} * (kTileRows / 4));
    const __m512i block = _mm512_load_si512(tile + size_t{col} * (kTileRows / 4));
    const __m512i scaled[4] = {
        _mm512_and_si512(block, _mm512_set1_epi8(0x03)),
        _mm512_and_si512(block, _mm512_set1_epi8(0x0c)),
        _mm512_and_si512(block, _mm512_set1_epi8(0x30)),
        _mm512_and_si512(block, _mm512_set1_epi8(static_cast<char>(0xc0))),
    };
    for (uint32_t t = 0; t < kTokens; ++t) {
      for (uint32_t p = 0; p < 4; ++p) {
        const __m512i four = broadcast_four(x.codes + t * x.stride + col + 4 * p);
        acc[t][p] = _mm512_dpbusd_epi32(acc[t][p], scaled[p], four);
      }
    }
  }
  for (uint32_t t = 0; t < kTokens; ++t) {
    const __m512i low = _mm512_add_epi32(acc[t][0], _mm512_srai_epi32(acc[t][1], 2));
    const __m512i high =
        _mm512_add_epi32(_mm512_srai_epi32(acc[t][2], 4), _mm512_srai_epi32(acc[t][3], 6));
    const __m512i sum = _mm512_sub_epi32(_mm512_add_epi32(low, high), _mm512_set1_epi32(x.sums[t]));
    const __m512 result = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(x.multipliers[t]));
    _mm512_storeu_ps(y + t * y_stride, result);
  }
}

}  // namespace

void ternary_matmul_avx512vnni(const TileRange& tiles, const Int8Tokens& x, float* y,
                               size_t y_stride) {
  static constexpr TernaryTile kMultiply[] = {multiply_tile<1>, multiply_tile<2>, multiply_tile<3>,
                                              multiply_tile<4>};
  walk_tiles(tiles, x, kMultiply, y, y_stride);
}

}  // namespace bitnet::kernels
