// Ternary matrix times int8 activations: exact integer sums, then one conversion and one product.
// SPDX-License-Identifier: Apache-2.0
//
// Contract: `ternary_matmul` in table.h; definition: docs/numerics.md, forward pass, step 2.3;
// layout of the weights: docs/formats/model.md, kind 1.
//
// Layout    A block of 64 bytes holds 16 rows x 16 columns: byte 4 * row + b holds, in bits 2p and
//           2p + 1, code (weight + 1) of column 4p + b. So a 32-bit lane is a row, and the four
//           activations of columns 4p ... 4p + 3 are the same for every lane (one broadcast).
// Exact     Kernels sum code * activation, code = weight + 1, and subtract the sum of the
//           activations of the token once a row. Both stay in int32 (base/limits.h asserts it), and
//           the difference is below 2^24, so its conversion to float does not round. Partial sums
//           are widened before a lane is full (WeightCodes in bytes_simd.h).
// Requires  activations in [-127, 127], as `quantize_int8` makes them; code 3 does not occur.
// Padding   Columns at and after `cols` have code 1 and activation 0. Padded rows have code 1
//           everywhere: their integer sum is 0 and they get +0.
// Order     With one token the weights are read once, strictly forward, and unpacked where they are
//           used. For several a tile (10 KB for 2560 columns) is read from memory for the first of
//           them, while the next one is asked for; it is unpacked once for a group, part by part.
#pragma once

#include "kernels/bytes_simd.h"

namespace bitnet::kernels {
namespace {

using TernaryCodes = WeightCodes<2, 2>;
constexpr uint32_t kTernaryBlockCols = 16;
static_assert(TernaryCodes::kBlockBytes * 4 == kTileRows * kTernaryBlockCols);

// Tokens for which a block is unpacked at once, where it is used. With AVX-512 that is four masks
// beside sixteen multiplications; elsewhere masks and shifts take the units that multiply.
#if defined(__AVX512VNNI__)
constexpr uint32_t kTokensUnpacking = kTokensAside;
#else
constexpr uint32_t kTokensUnpacking = 1;
#endif

constexpr uint32_t kGroupTokens = 64;  // tokens that share an unpacked part
constexpr uint32_t kPartBlocks = 32;   // 8 KiB as bytes: stays in the nearest cache
constexpr uint32_t kUnpackedBytes = kTileRows * kTernaryBlockCols;

/// Codes p of a block, a byte for each.
inline u8x64 unpack(const uint8_t* block, uint32_t p) {
  return load_bytes(block) >> static_cast<uint8_t>(2 * p) & uint8_t{3};
}

#if defined(__ARM_FEATURE_MATMUL_INT8)
// smmla does twice the work of sdot, on eight columns of two rows and two tokens. A block is
// unpacked to two times [row][eight columns]. One token would waste half of it.
constexpr uint32_t kTokensTogether = 4;

inline void unpack_block(const uint8_t* block, uint8_t* to) {
  for (uint32_t half = 0; half < 2; ++half) {
    const auto left = __builtin_bit_cast(i32x16, unpack(block, 2 * half));
    const auto right = __builtin_bit_cast(i32x16, unpack(block, 2 * half + 1));
    store_lanes(
        to + half * sizeof(i32x32),
        __builtin_shufflevector(left, right, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23,
                                8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31));
  }
}

/// totals[t] += the part times x[t]; where the last token is alone, it is its own neighbour.
template <uint32_t kTokens>
inline void multiply_part(const uint8_t* part, uint32_t blocks, const int8_t* const (&x)[kTokens],
                          i32x16* totals) {
  struct RowPairs {
    int32x4_t sums[kTileRows / 2];  ///< [row][token]
  };
  constexpr uint32_t kPairs = (kTokens + 1) / 2;
  RowPairs pairs[kPairs] = {};
  for (uint32_t step = 0; step < 2 * blocks; ++step) {
    int8x16_t two[kPairs];
    for (uint32_t i = 0; i < kPairs; ++i) {
      const int8_t* second = x[2 * i + (kTokens > 1 ? 1 : 0)];
      two[i] = vcombine_s8(vld1_s8(x[2 * i] + 8 * step), vld1_s8(second + 8 * step));
    }
    for (uint32_t row = 0; row < kTileRows / 2; ++row) {
      const int8x16_t codes = vreinterpretq_s8_u8(vld1q_u8(part + 128 * step + 16 * row));
      for (uint32_t i = 0; i < kPairs; ++i) {
        pairs[i].sums[row] = vmmlaq_s32(pairs[i].sums[row], codes, two[i]);
      }
    }
  }
  for (uint32_t i = 0; i < kPairs; ++i) {
    const auto both = __builtin_bit_cast(i32x32, pairs[i]);
    totals[2 * i] += even_lanes(both);
    if constexpr (kTokens > 1) totals[2 * i + 1] += odd_lanes(both);
  }
}
#else
constexpr uint32_t kTokensTogether = kTokensAside;

inline void unpack_block(const uint8_t* block, uint8_t* to) {
  for (uint32_t p = 0; p < 4; ++p) store_lanes(to + 64 * p, unpack(block, p));
}

template <uint32_t kTokens>
inline void multiply_part(const uint8_t* part, uint32_t blocks, const int8_t* const (&x)[kTokens],
                          i32x16* totals) {
  multiply_rows<WeightCodes<2, 2, true> >(part, blocks, 0, x, totals);
}
#endif

/// Sixteen rows of token t.
inline void store_rows(i32x16 total, const Int8Tokens& x, uint32_t t, float* y) {
  store_lanes(y, __builtin_convertvector(total - x.sums[t], f32x16) * x.multipliers[t]);
}

/// One tile times the tokens of x, at most kGroupTokens; y is row 0 of the tile of the first one.
inline void multiply_group(const uint8_t* tile, uint32_t blocks, const Int8Tokens& x, float* y,
                           size_t y_stride) {
  alignas(64) uint8_t part[kPartBlocks][kUnpackedBytes];
  i32x16 totals[kGroupTokens];
  __builtin_memset(totals, 0, x.token_count * sizeof totals[0]);
  for (uint32_t first = 0; first < blocks; first += kPartBlocks) {
    const uint32_t count = blocks - first < kPartBlocks ? blocks - first : kPartBlocks;
    for (uint32_t i = 0; i < count; ++i) {
      const uint8_t* block = tile + size_t{first + i} * TernaryCodes::kBlockBytes;
      __builtin_prefetch(block + size_t{blocks} * TernaryCodes::kBlockBytes);
      unpack_block(block, part[i]);
    }
    each_rows<kTokensTogether>(0, x.token_count, [&](auto tokens, uint32_t t) {
      const int8_t* codes[tokens.value];
      for (uint32_t i = 0; i < tokens.value; ++i) {
        codes[i] = x.codes + (t + i) * x.stride + first * kTernaryBlockCols;
      }
      multiply_part(part[0], count, codes, totals + t);
    });
  }
  for (uint32_t t = 0; t < x.token_count; ++t) store_rows(totals[t], x, t, y + t * y_stride);
}

/// One tile times all tokens, unpacked where it is used.
inline void multiply_tile(const uint8_t* tile, uint32_t blocks, const Int8Tokens& x, float* y,
                          size_t y_stride) {
  const size_t tile_bytes = size_t{blocks} * TernaryCodes::kBlockBytes;
  each_rows<kTokensUnpacking>(0, x.token_count, [&](auto tokens, uint32_t t) {
    const int8_t* codes[tokens.value];
    for (uint32_t i = 0; i < tokens.value; ++i) codes[i] = x.codes + (t + i) * x.stride;
    // One token: a fixed distance ahead. Several: the next tile, while the first of them are
    // computed and this tile comes from memory; for the others both are in a cache already.
    const size_t ahead = x.token_count == 1 ? kWeightsAhead : t == 0 ? tile_bytes : 0;
    i32x16 totals[tokens.value] = {};
    multiply_rows<TernaryCodes>(tile, blocks, ahead, codes, totals);
    for (uint32_t i = 0; i < tokens.value; ++i) {
      store_rows(totals[i], x, t + i, y + (t + i) * y_stride);
    }
  });
}

void ternary_matmul(const TileRange& tiles, const Int8Tokens& x, float* y, size_t y_stride) {
  const uint32_t blocks = tiles.cols_padded / kTernaryBlockCols;
  for (uint32_t tile = tiles.tile_begin; tile < tiles.tile_end; ++tile) {
    const uint8_t* weights = tiles.weights + size_t{tile} * blocks * TernaryCodes::kBlockBytes;
    float* rows = y + size_t{tile} * kTileRows;
    if (kTokensUnpacking > 1 || x.token_count == 1) {
      multiply_tile(weights, blocks, x, rows, y_stride);
      continue;
    }
    for (uint32_t t = 0; t < x.token_count; t += kGroupTokens) {
      const uint32_t left = x.token_count - t;
      multiply_group(weights, blocks,
                     {x.codes + t * x.stride, x.stride, x.sums + t, x.multipliers + t,
                      left < kGroupTokens ? left : kGroupTokens},
                     rows + t * y_stride, y_stride);
    }
  }
}

}  // namespace
}  // namespace bitnet::kernels
