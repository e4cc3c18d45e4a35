// ternary_matmul with vpmaddubsw: 16-bit partial sums, widened before they can overflow.
// SPDX-License-Identifier: Apache-2.0
//
// Flags: -mavx2.
#include <immintrin.h>

#include "kernels/ternary_matmul.h"
#include "kernels/tile_walk.h"

namespace bitnet::kernels {
namespace {

// A 16-bit lane gets, from one block, four pair sums (p = 0 ... 3) of two products, each a code
// times an activation. Code <= 2 and |activation| <= 127, so a pair sum is at most 508 in magnitude
// (vpmaddubsw does not saturate) and kBlocksPerWidening blocks add up to at most 32512.
constexpr uint32_t kBlocksPerWidening = 16;
static_assert(kBlocksPerWidening * 4 * 2 * 2 * 127 <= INT16_MAX);

constexpr uint32_t kHalves = 2;  // rows 0 ... 7 and 8 ... 15 of a tile, 32 bytes of a block each

inline __m256i broadcast_four(const int8_t* codes) {
  int32_t four;
  __builtin_memcpy(&four, codes, sizeof four);
  return _mm256_set1_epi32(four);
}

/// acc[t][half] += the pair sums of one block.
template <uint32_t kTokens>
inline void add_block(const uint8_t* block, const int8_t* codes, size_t stride,
                      __m256i (&acc)[kTokens][kHalves]) {
  const __m256i mask = _mm256_set1_epi8(3);
  for (uint32_t half = 0; half < kHalves; ++half) {
    const __m256i packed =
        _mm256_load_si256(reinterpret_cast<const __m256i*>(block + half * sizeof(__m256i)));
    const __m256i unpacked[4] = {
        _mm256_and_si256(packed, mask),
        _mm256_and_si256(_mm256_srli_epi16(packed, 2), mask),
        _mm256_and_si256(_mm256_srli_epi16(packed, 4), mask),
        _mm256_and_si256(_mm256_srli_epi16(packed, 6), mask),
    };
    for (uint32_t t = 0; t < kTokens; ++t) {
      for (uint32_t p = 0; p < 4; ++p) {
        const __m256i x = broadcast_four(codes + t * stride + 4 * p);
        acc[t][half] = _mm256_add_epi16(acc[t][half], _mm256_maddubs_epi16(unpacked[p], x));
      }
    }
  }
}

/// One tile times the first kTokens tokens of x; y is row 0 of the tile.
template <uint32_t kTokens>
void multiply_tile(const uint8_t* tile, uint32_t cols_padded, const Int8Tokens& x, float* y,
                   size_t y_stride) {
  constexpr uint32_t kColsPerWidening = kBlocksPerWidening * kTernaryBlockCols;
  __m256i total[kTokens][kHalves] = {};
  for (uint32_t begin = 0; begin < cols_padded; begin += kColsPerWidening) {
    const uint32_t left = cols_padded - begin;
    const uint32_t end = begin + (left < kColsPerWidening ? left : kColsPerWidening);
    __m256i acc[kTokens][kHalves] = {};
    for (uint32_t col = begin; col < end; col += kTernaryBlockCols) {
      if constexpr (kTokens == 1) prefetch_weights(tile + size_t{col} * (kTileRows / 4));
      add_block<kTokens>(tile + size_t{col} * (kTileRows / 4), x.codes + col, x.stride, acc);
    }
    for (uint32_t t = 0; t < kTokens; ++t) {
      for (uint32_t half = 0; half < kHalves; ++half) {
        const __m256i wide = _mm256_madd_epi16(acc[t][half], _mm256_set1_epi16(1));
        total[t][half] = _mm256_add_epi32(total[t][half], wide);
      }
    }
  }
  for (uint32_t t = 0; t < kTokens; ++t) {
    for (uint32_t half = 0; half < kHalves; ++half) {
      const __m256i sum = _mm256_sub_epi32(total[t][half], _mm256_set1_epi32(x.sums[t]));
      const __m256 multiplier = _mm256_set1_ps(x.multipliers[t]);
      _mm256_storeu_ps(y + t * y_stride + half * (kTileRows / kHalves),
                       _mm256_mul_ps(_mm256_cvtepi32_ps(sum), multiplier));
    }
  }
}

}  // namespace

void ternary_matmul_avx2(const TileRange& tiles, const Int8Tokens& x, float* y, size_t y_stride) {
  static constexpr TernaryTile kMultiply[] = {multiply_tile<1>, multiply_tile<2>, multiply_tile<3>,
                                              multiply_tile<4>};
  walk_tiles(tiles, x, kMultiply, y, y_stride);
}

}  // namespace bitnet::kernels
