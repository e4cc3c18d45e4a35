// int8_high and int8_low with 512-bit vpdpbusd: the nibble is the unsigned operand.
// SPDX-License-Identifier: Apache-2.0
//
// Flags: -mavx512f -mavx512bw -mavx512vl -mavx512vnni.
#include <immintrin.h>

#include "kernels/int8_rows.h"
#include "kernels/int8_walk.h"

namespace bitnet::kernels {
namespace {

// A nibble in the upper half of a byte is not shifted down: it counts sixteen times in an
// accumulator of its own.

inline __m512i broadcast_four(const int8_t* codes) {
  int32_t four;
  __builtin_memcpy(&four, codes, sizeof four);
  return _mm512_set1_epi32(four);
}

/// Sums of one part: of the low and of the upper nibbles, the upper ones sixteen times.
struct Sums {
  __m512i low = _mm512_setzero_si512();
  __m512i upper = _mm512_setzero_si512();

  void add(__m512i block, __m512i low_x, __m512i upper_x) {
    const __m512i mask = _mm512_set1_epi8(0x0f);
    low = _mm512_dpbusd_epi32(low, _mm512_and_si512(block, mask), low_x);
    upper = _mm512_dpbusd_epi32(upper, _mm512_andnot_si512(mask, block), upper_x);
  }
  __m512i total() const { return _mm512_add_epi32(low, _mm512_srai_epi32(upper, 4)); }
  __m512i sixteen_times() const { return _mm512_add_epi32(_mm512_slli_epi32(low, 4), upper); }
};

/// Columns are padded to 16, so two blocks of eight follow each other without a tail; each has sums
/// of its own, to hide the latency of the instruction.
void multiply_tile(const uint8_t* high, uint32_t cols_padded, const SplitState& x, int32_t* hi,
                   int32_t* lo) {
  static_assert(2 * kHighBlockCols == kLanes);
  Sums hi_sums[2];
  Sums lo_sums[2];
  for (uint32_t col = 0; col < cols_padded; col += kLanes) {
    for (uint32_t i = 0; i < 2; ++i) {
      const uint32_t at = col + i * kHighBlockCols;
      const uint8_t* bytes = high + size_t{at} * (kTileRows / 2);
      prefetch_weights(bytes);
      const __m512i block = _mm512_load_si512(bytes);
      hi_sums[i].add(block, broadcast_four(x.hi + at), broadcast_four(x.hi + at + 4));
      lo_sums[i].add(block, broadcast_four(x.lo + at), broadcast_four(x.lo + at + 4));
    }
  }
  _mm512_storeu_si512(hi, _mm512_add_epi32(hi_sums[0].sixteen_times(), hi_sums[1].sixteen_times()));
  _mm512_storeu_si512(lo, _mm512_add_epi32(lo_sums[0].sixteen_times(), lo_sums[1].sixteen_times()));
}

template <uint32_t kRows>
void multiply_rows(const LowBlock& rows, const SplitState& x, int32_t* hi, int32_t* lo) {
  Sums hi_sums[kRows];
  Sums lo_sums[kRows];
  for (uint32_t i = 0, at = 0; i < rows.count; ++i, at = rows.next(at)) {
    const size_t col = size_t{at} * kLowBlockCols;
    const __m512i hi_low = _mm512_load_si512(x.hi + col);
    const __m512i hi_upper = _mm512_load_si512(x.hi + col + 64);
    const __m512i lo_low = _mm512_load_si512(x.lo + col);
    const __m512i lo_upper = _mm512_load_si512(x.lo + col + 64);
    for (uint32_t row = 0; row < kRows; ++row) {
      const __m512i block = _mm512_load_si512(rows.load(row, at));
      hi_sums[row].add(block, hi_low, hi_upper);
      lo_sums[row].add(block, lo_low, lo_upper);
    }
  }
  for (uint32_t row = 0; row < kRows; ++row) {
    hi[row] = _mm512_reduce_add_epi32(hi_sums[row].total());
    lo[row] = _mm512_reduce_add_epi32(lo_sums[row].total());
  }
}

}  // namespace

void int8_high_avx512vnni(const HighTiles& tiles, const SplitState& x, const PlaneSums& sums) {
  walk_high_tiles(tiles, x, multiply_tile, sums);
}

void int8_low_avx512vnni(const LowRows& rows, const SplitState& x, const PlaneSums& sums) {
  static constexpr LowRowBlock kMultiply[] = {multiply_rows<1>, multiply_rows<2>, multiply_rows<3>,
                                              multiply_rows<4>};
  walk_low_rows(rows, x, kMultiply, sums);
}

}  // namespace bitnet::kernels
