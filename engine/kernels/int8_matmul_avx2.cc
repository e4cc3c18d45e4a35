// int8_matmul with vpmaddwd: weights and activations widened to 16 bits, sums in 32 bits.
// SPDX-License-Identifier: Apache-2.0
//
// Flags: -mavx2.
//
// vpmaddubsw would saturate: a pair of stored bytes times activations reaches 2 * 255 * 127, more
// than 16 bits hold. Widening costs no shuffle: in each 16-bit lane the even column is the low
// byte and the odd column the high byte, of weights and activations alike, so a mask (or two
// shifts, where the sign counts) gives the even columns and one shift the odd ones.
#include <immintrin.h>

#include "kernels/int8_matmul.h"
#include "kernels/tile_walk.h"

namespace bitnet::kernels {
namespace {

constexpr uint32_t kHalves = 2;  // rows 0 ... 7 and 8 ... 15 of a tile, 32 bytes of a block each

// The sum of (code + 128) * activation stays in int32.
static_assert(255ull * 127 * kHiddenSizeMax < (1ull << 31));

/// Four columns as 16-bit numbers: lane 2i of a row pair of lanes is column 2i (even) or 2i + 1.
struct Widened {
  __m256i even;
  __m256i odd;
};

inline Widened widen_unsigned(__m256i bytes) {
  return {_mm256_and_si256(bytes, _mm256_set1_epi16(0x00ff)), _mm256_srli_epi16(bytes, 8)};
}

/// Four activations, the same for every row.
inline Widened broadcast_signed(const int8_t* codes) {
  int32_t four;
  __builtin_memcpy(&four, codes, sizeof four);
  const __m256i bytes = _mm256_set1_epi32(four);
  return {_mm256_srai_epi16(_mm256_slli_epi16(bytes, 8), 8), _mm256_srai_epi16(bytes, 8)};
}

/// acc + the products of four columns, one int32 lane a row.
inline __m256i multiply_add(__m256i acc, const Widened& weights, const Widened& x) {
  acc = _mm256_add_epi32(acc, _mm256_madd_epi16(weights.even, x.even));
  return _mm256_add_epi32(acc, _mm256_madd_epi16(weights.odd, x.odd));
}

/// (float(hi) * 128 + float(lo)) * scale, after the correction of both sums for code + 128.
inline __m256 finish(__m256i hi, int32_t hi_sum, __m256i lo, int32_t lo_sum, __m256 scale) {
  hi = _mm256_sub_epi32(hi, _mm256_set1_epi32(128 * hi_sum));
  lo = _mm256_sub_epi32(lo, _mm256_set1_epi32(128 * lo_sum));
  const __m256 high = _mm256_mul_ps(_mm256_cvtepi32_ps(hi), _mm256_set1_ps(128.0f));
  return _mm256_mul_ps(_mm256_add_ps(high, _mm256_cvtepi32_ps(lo)), scale);
}

/// One tile times the first kTokens tokens of x; y is row 0 of the tile.
template <uint32_t kTokens>
void multiply_tile(const uint8_t* tile, uint32_t cols_padded, const float* row_scales,
                   const SplitTokens& x, float* y, size_t y_stride) {
  __m256i hi[kTokens][kHalves] = {};
  __m256i lo[kTokens][kHalves] = {};
  for (uint32_t col = 0; col < cols_padded; col += kInt8BlockCols) {
    if constexpr (kTokens == 1) prefetch_weights(tile + size_t{col} * kTileRows);
    const __m256i* block = reinterpret_cast<const __m256i*>(tile + size_t{col} * kTileRows);
    const Widened weights[kHalves] = {widen_unsigned(_mm256_load_si256(block)),
                                      widen_unsigned(_mm256_load_si256(block + 1))};
    for (uint32_t t = 0; t < kTokens; ++t) {
      const Widened x_hi = broadcast_signed(x.hi + t * x.stride + col);
      const Widened x_lo = broadcast_signed(x.lo + t * x.stride + col);
      for (uint32_t half = 0; half < kHalves; ++half) {
        hi[t][half] = multiply_add(hi[t][half], weights[half], x_hi);
        lo[t][half] = multiply_add(lo[t][half], weights[half], x_lo);
      }
    }
  }
  for (uint32_t t = 0; t < kTokens; ++t) {
    for (uint32_t half = 0; half < kHalves; ++half) {
      const uint32_t row = half * (kTileRows / kHalves);
      const __m256 scale =
          _mm256_mul_ps(_mm256_loadu_ps(row_scales + row), _mm256_set1_ps(x.scales[t]));
      _mm256_storeu_ps(y + t * y_stride + row,
                       finish(hi[t][half], x.hi_sums[t], lo[t][half], x.lo_sums[t], scale));
    }
  }
}

}  // namespace

void int8_matmul_avx2(const TileRange& tiles, const float* row_scales, const SplitTokens& x,
                      float* y, size_t y_stride) {
  static constexpr Int8Tile kMultiply[] = {multiply_tile<1>, multiply_tile<2>};
  walk_tiles(tiles, row_scales, x, kMultiply, y, y_stride);
}

}  // namespace bitnet::kernels
