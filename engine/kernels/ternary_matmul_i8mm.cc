// ternary_matmul with smmla: two rows times two tokens, eight columns an instruction.
// SPDX-License-Identifier: Apache-2.0
//
// Flags: -mcpu=generic+dotprod+i8mm.
//
// An instruction does twice the work of sdot, but wants the codes of two rows side by side, eight
// columns each. A part of a tile is put into that order once for a group of tokens. One token alone
// would waste half of every instruction: it goes the way of dotprod.
#include <arm_neon.h>

#include "kernels/ternary_matmul.h"
#include "kernels/tile_walk.h"

namespace bitnet::kernels {
namespace {

constexpr uint32_t kRowPairs = kTileRows / 2;
constexpr uint32_t kStepCols = 8;      // columns of a row in one instruction
constexpr uint32_t kGroupTokens = 64;  // tokens that share an unpacked part
constexpr uint32_t kPartCols = 512;    // 8 KiB as bytes: stays in the nearest cache
constexpr uint32_t kBlockPairs = 2;    // pairs of tokens side by side in registers

struct alignas(64) Part {
  int8_t codes[kPartCols / kStepCols][kRowPairs][2][kStepCols];  ///< [step][pair][row][column]
};
struct alignas(64) Totals {
  int32_t sums[kGroupTokens / 2][kRowPairs][2][2];  ///< [token pair][row pair][row][token]
};

/// Sixteen columns of four rows: 16 bytes of a block, two steps of two row pairs.
void unpack_rows(const uint8_t* from, int8_t (*step)[kRowPairs][2][kStepCols], uint32_t pair) {
  const uint8x16_t mask = vdupq_n_u8(3);
  const uint8x16_t packed = vld1q_u8(from);
  const int32x4_t codes[4] = {
      vreinterpretq_s32_u8(vandq_u8(packed, mask)),
      vreinterpretq_s32_u8(vandq_u8(vshrq_n_u8(packed, 2), mask)),
      vreinterpretq_s32_u8(vandq_u8(vshrq_n_u8(packed, 4), mask)),
      vreinterpretq_s32_u8(vshrq_n_u8(packed, 6)),
  };
  for (uint32_t half = 0; half < 2; ++half) {
    const int32x4_t low = codes[2 * half];
    const int32x4_t high = codes[2 * half + 1];
    vst1q_s8(step[half][pair][0], vreinterpretq_s8_s32(vzip1q_s32(low, high)));
    vst1q_s8(step[half][pair + 1][0], vreinterpretq_s8_s32(vzip2q_s32(low, high)));
  }
}

/// `cols` columns (a multiple of 16) from `blocks` on.
void unpack(const uint8_t* blocks, uint32_t cols, Part* part) {
  for (uint32_t col = 0; col < cols; col += kTernaryBlockCols) {
    const uint8_t* block = blocks + size_t{col} * (kTileRows / 4);
    for (uint32_t group = 0; group < kRowPairs / 2; ++group) {
      unpack_rows(block + 16 * group, part->codes + col / kStepCols, 2 * group);
    }
  }
}

/// sums[pair] += the part times the codes of tokens[pair], for pairs below kPairs.
template <uint32_t kPairs>
void multiply_part(const Part& part, uint32_t steps, const int8_t* const (&tokens)[kBlockPairs][2],
                   int32_t (*sums)[kRowPairs][2][2]) {
  int32x4_t acc[kPairs][kRowPairs];
  for (uint32_t pair = 0; pair < kPairs; ++pair) {
    for (uint32_t row = 0; row < kRowPairs; ++row) acc[pair][row] = vld1q_s32(sums[pair][row][0]);
  }
  for (uint32_t step = 0; step < steps; ++step) {
    int8x16_t x[kPairs];
    for (uint32_t pair = 0; pair < kPairs; ++pair) {
      x[pair] = vcombine_s8(vld1_s8(tokens[pair][0] + step * kStepCols),
                            vld1_s8(tokens[pair][1] + step * kStepCols));
    }
    for (uint32_t row = 0; row < kRowPairs; ++row) {
      const int8x16_t codes = vld1q_s8(part.codes[step][row][0]);
      for (uint32_t pair = 0; pair < kPairs; ++pair) {
        acc[pair][row] = vmmlaq_s32(acc[pair][row], codes, x[pair]);
      }
    }
  }
  for (uint32_t pair = 0; pair < kPairs; ++pair) {
    for (uint32_t row = 0; row < kRowPairs; ++row) vst1q_s32(sums[pair][row][0], acc[pair][row]);
  }
}

/// The part times all tokens of x. Where a token is missing at the end, the last one stands in.
void multiply_tokens(const Part& part, uint32_t col, uint32_t cols, const Int8Tokens& x,
                     Totals* totals) {
  const uint32_t pair_count = (x.token_count + 1) / 2;
  for (uint32_t pair = 0; pair < pair_count; pair += kBlockPairs) {
    const int8_t* tokens[kBlockPairs][2];
    for (uint32_t i = 0; i < 2 * kBlockPairs; ++i) {
      const uint32_t token = 2 * pair + i;
      const uint32_t there = token < x.token_count ? token : x.token_count - 1;
      tokens[i / 2][i % 2] = x.codes + there * x.stride + col;
    }
    const auto multiply = pair_count - pair == 1 ? multiply_part<1> : multiply_part<kBlockPairs>;
    multiply(part, cols / kStepCols, tokens, totals->sums + pair);
  }
}

/// One tile times at most kGroupTokens tokens.
void multiply_tile_group(const uint8_t* tile, uint32_t cols_padded, const Int8Tokens& x, float* y,
                         size_t y_stride) {
  Part part;
  Totals totals;
  __builtin_memset(&totals, 0, (x.token_count + 1) / 2 * sizeof totals.sums[0]);
  for (uint32_t col = 0; col < cols_padded; col += kPartCols) {
    const uint32_t left = cols_padded - col;
    const uint32_t cols = left < kPartCols ? left : kPartCols;
    unpack(tile + size_t{col} * (kTileRows / 4), cols, &part);
    multiply_tokens(part, col, cols, x, &totals);
  }
  for (uint32_t t = 0; t < x.token_count; ++t) {
    for (uint32_t row = 0; row < kTileRows; ++row) {
      const int32_t sum = totals.sums[t / 2][row / 2][row % 2][t % 2] - x.sums[t];
      y[t * y_stride + row] = static_cast<float>(sum) * x.multipliers[t];
    }
  }
}

}  // namespace

void ternary_matmul_i8mm(const TileRange& tiles, const Int8Tokens& x, float* y, size_t y_stride) {
  if (x.token_count == 1) return ternary_matmul_dotprod(tiles, x, y, y_stride);
  const size_t tile_bytes = size_t{tiles.cols_padded} * kTileRows / 4;
  for (uint32_t tile = tiles.tile_begin; tile < tiles.tile_end; ++tile) {
    float* rows = y + size_t{tile} * kTileRows;
    for (uint32_t token = 0; token < x.token_count; token += kGroupTokens) {
      multiply_tile_group(tiles.weights + tile * tile_bytes, tiles.cols_padded,
                          token_block(x, token, kGroupTokens), rows + token * y_stride, y_stride);
    }
  }
}

}  // namespace bitnet::kernels
