// ternary_matmul with vpmaddubsw: 16-bit partial sums, widened before they can overflow.
// SPDX-License-Identifier: Apache-2.0
//
// Flags: -mavx2.
#include <immintrin.h>

#include "kernels/ternary_matmul.h"
#include "kernels/tile_walk.h"

namespace bitnet::kernels {
namespace {

constexpr uint32_t kHalves = 2;  // rows 0 ... 7 and 8 ... 15 of a tile, 32 bytes of a block each
constexpr uint32_t kHalfRows = kTileRows / kHalves;

inline __m256i broadcast_four(const int8_t* codes) {
  int32_t four;
  __builtin_memcpy(&four, codes, sizeof four);
  return _mm256_set1_epi32(four);
}

inline __m256i load(const void* from) {
  return _mm256_load_si256(static_cast<const __m256i*>(from));
}

/// Adjacent 16-bit sums as one 32-bit sum.
inline __m256i widen(__m256i sums) { return _mm256_madd_epi16(sums, _mm256_set1_epi16(1)); }

/// Eight rows of one token.
inline void store_rows(__m256i total, const Int8Tokens& x, uint32_t t, float* y) {
  const __m256i sum = _mm256_sub_epi32(total, _mm256_set1_epi32(x.sums[t]));
  _mm256_storeu_ps(y, _mm256_mul_ps(_mm256_cvtepi32_ps(sum), _mm256_set1_ps(x.multipliers[t])));
}

// ---- One token: every block is unpacked where it is used ----------------------------------------

// Codes of columns 4p ... 4p + 3 are shifted down only for p = 2 and 3 together, by four bits:
// those of p = 1 and 3 stay multiplied by 4 and have an accumulator of their own. One block adds to
// it two pair sums of at most 4 * 2 * 2 * 127 each (vpmaddubsw does not saturate), so
// kBlocksPerWidening blocks stay in 16 bits, and so does a quarter of it on top of the other
// accumulator.
constexpr uint32_t kBlocksPerWidening = 8;
static_assert(kBlocksPerWidening * 2 * (4 * 2 * 2 * 127) <= INT16_MAX);
static_assert(kBlocksPerWidening * 4 * (2 * 2 * 127) <= INT16_MAX);

struct PairSums {
  __m256i once;        ///< p = 0 and 2
  __m256i four_times;  ///< p = 1 and 3
};

inline void add_block(__m256i packed, const __m256i (&x)[4], PairSums* acc) {
  const __m256i low = _mm256_set1_epi8(0x03);
  const __m256i high = _mm256_set1_epi8(0x0c);
  const __m256i shifted = _mm256_srli_epi16(packed, 4);
  const __m256i sum0 = _mm256_maddubs_epi16(_mm256_and_si256(packed, low), x[0]);
  const __m256i sum1 = _mm256_maddubs_epi16(_mm256_and_si256(packed, high), x[1]);
  const __m256i sum2 = _mm256_maddubs_epi16(_mm256_and_si256(shifted, low), x[2]);
  const __m256i sum3 = _mm256_maddubs_epi16(_mm256_and_si256(shifted, high), x[3]);
  acc->once = _mm256_add_epi16(acc->once, _mm256_add_epi16(sum0, sum2));
  acc->four_times = _mm256_add_epi16(acc->four_times, _mm256_add_epi16(sum1, sum3));
}

void multiply_tile(const uint8_t* tile, uint32_t cols_padded, const Int8Tokens& x, float* y) {
  constexpr uint32_t kColsPerWidening = kBlocksPerWidening * kTernaryBlockCols;
  __m256i total[kHalves] = {};
  for (uint32_t begin = 0; begin < cols_padded; begin += kColsPerWidening) {
    const uint32_t left = cols_padded - begin;
    const uint32_t end = begin + (left < kColsPerWidening ? left : kColsPerWidening);
    PairSums acc[kHalves] = {};
    for (uint32_t col = begin; col < end; col += kTernaryBlockCols) {
      const uint8_t* block = tile + size_t{col} * (kTileRows / 4);
      prefetch_weights(block);
      const int8_t* codes = x.codes + col;
      const __m256i four[4] = {broadcast_four(codes), broadcast_four(codes + 4),
                               broadcast_four(codes + 8), broadcast_four(codes + 12)};
      add_block(load(block), four, &acc[0]);
      add_block(load(block + sizeof(__m256i)), four, &acc[1]);
    }
    for (uint32_t half = 0; half < kHalves; ++half) {
      const __m256i quarter = _mm256_srai_epi16(acc[half].four_times, 2);
      total[half] = _mm256_add_epi32(total[half], widen(_mm256_add_epi16(acc[half].once, quarter)));
    }
  }
  for (uint32_t half = 0; half < kHalves; ++half) {
    store_rows(total[half], x, 0, y + half * kHalfRows);
  }
}

// ---- Several tokens: a part of a tile is unpacked once for a group of them
// -----------------------

constexpr uint32_t kGroupTokens = 64;  // tokens that share an unpacked part
constexpr uint32_t kPartCols = 512;    // 8 KiB as bytes: stays in the nearest cache
constexpr uint32_t kBlockTokens = 4;   // tokens side by side in registers
constexpr uint32_t kStepCols = 4;      // one 32-bit lane of a row

// A step adds one pair sum of at most 2 * 2 * 127 to a 16-bit lane.
constexpr uint32_t kStepsPerWidening = 64;
static_assert(kStepsPerWidening * (2 * 2 * 127) <= INT16_MAX);

struct alignas(64) Part {
  uint8_t codes[kPartCols / kStepCols][kTileRows][kStepCols];
};
struct alignas(64) Totals {
  int32_t rows[kGroupTokens][kTileRows];
};

/// `cols` columns (a multiple of 16) from `blocks` on, one code a byte; asks for the same columns
/// of the next tile.
void unpack(const uint8_t* blocks, size_t tile_bytes, uint32_t cols, Part* part) {
  const __m256i mask = _mm256_set1_epi8(3);
  for (uint32_t col = 0; col < cols; col += kTernaryBlockCols) {
    __builtin_prefetch(blocks + tile_bytes + size_t{col} * (kTileRows / 4));
    for (uint32_t half = 0; half < kHalves; ++half) {
      const __m256i packed = load(blocks + size_t{col} * (kTileRows / 4) + half * sizeof(__m256i));
      const __m256i codes[4] = {
          _mm256_and_si256(packed, mask),
          _mm256_and_si256(_mm256_srli_epi16(packed, 2), mask),
          _mm256_and_si256(_mm256_srli_epi16(packed, 4), mask),
          _mm256_and_si256(_mm256_srli_epi16(packed, 6), mask),
      };
      for (uint32_t p = 0; p < 4; ++p) {
        auto* to = part->codes[col / kStepCols + p][half * kHalfRows];
        _mm256_store_si256(reinterpret_cast<__m256i*>(to), codes[p]);
      }
    }
  }
}

/// totals[t] += the part times the codes of tokens t < kTokens.
template <uint32_t kTokens>
void multiply_part(const Part& part, uint32_t steps, const int8_t* codes, size_t stride,
                   int32_t (*totals)[kTileRows]) {
  for (uint32_t begin = 0; begin < steps; begin += kStepsPerWidening) {
    const uint32_t left = steps - begin;
    const uint32_t end = begin + (left < kStepsPerWidening ? left : kStepsPerWidening);
    __m256i acc[kTokens][kHalves] = {};
    for (uint32_t step = begin; step < end; ++step) {
      const __m256i rows[kHalves] = {load(part.codes[step][0]), load(part.codes[step][kHalfRows])};
      for (uint32_t t = 0; t < kTokens; ++t) {
        const __m256i four = broadcast_four(codes + t * stride + step * kStepCols);
        for (uint32_t half = 0; half < kHalves; ++half) {
          acc[t][half] = _mm256_add_epi16(acc[t][half], _mm256_maddubs_epi16(rows[half], four));
        }
      }
    }
    for (uint32_t t = 0; t < kTokens; ++t) {
      for (uint32_t half = 0; half < kHalves; ++half) {
        auto* total = reinterpret_cast<__m256i*>(totals[t] + half * kHalfRows);
        _mm256_store_si256(total, _mm256_add_epi32(_mm256_load_si256(total), widen(acc[t][half])));
      }
    }
  }
}

using MultiplyPart = void (*)(const Part& part, uint32_t steps, const int8_t* codes, size_t stride,
                              int32_t (*totals)[kTileRows]);
constexpr MultiplyPart kMultiplyPart[kBlockTokens] = {multiply_part<1>, multiply_part<2>,
                                                      multiply_part<3>, multiply_part<4>};

/// One tile times at most kGroupTokens tokens.
void multiply_tile_group(const uint8_t* tile, uint32_t cols_padded, const Int8Tokens& x, float* y,
                         size_t y_stride) {
  Part part;
  Totals totals;
  __builtin_memset(&totals, 0, x.token_count * sizeof totals.rows[0]);
  for (uint32_t col = 0; col < cols_padded; col += kPartCols) {
    const uint32_t left = cols_padded - col;
    const uint32_t cols = left < kPartCols ? left : kPartCols;
    unpack(tile + size_t{col} * (kTileRows / 4), size_t{cols_padded} * (kTileRows / 4), cols,
           &part);
    for (uint32_t t = 0; t < x.token_count; t += kBlockTokens) {
      const uint32_t tokens = token_block(x, t, kBlockTokens).token_count;
      kMultiplyPart[tokens - 1](part, cols / kStepCols, x.codes + t * x.stride + col, x.stride,
                                totals.rows + t);
    }
  }
  for (uint32_t t = 0; t < x.token_count; ++t) {
    for (uint32_t row = 0; row < kTileRows; row += kHalfRows) {
      store_rows(load(totals.rows[t] + row), x, t, y + t * y_stride + row);
    }
  }
}

}  // namespace

void ternary_matmul_avx2(const TileRange& tiles, const Int8Tokens& x, float* y, size_t y_stride) {
  const size_t tile_bytes = size_t{tiles.cols_padded} * kTileRows / 4;
  for (uint32_t tile = tiles.tile_begin; tile < tiles.tile_end; ++tile) {
    const uint8_t* weights = tiles.weights + tile * tile_bytes;
    float* rows = y + size_t{tile} * kTileRows;
    if (x.token_count == 1) {
      multiply_tile(weights, tiles.cols_padded, x, rows);
      continue;
    }
    for (uint32_t token = 0; token < x.token_count; token += kGroupTokens) {
      multiply_tile_group(weights, tiles.cols_padded, token_block(x, token, kGroupTokens),
                          rows + token * y_stride, y_stride);
    }
  }
}

}  // namespace bitnet::kernels
