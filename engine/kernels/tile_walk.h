// The walk of ternary_matmul over tiles and, inside a tile, over blocks of tokens.
// SPDX-License-Identifier: Apache-2.0
//
// A tile (10 KB for 2560 ternary columns) is read from memory for the first block of tokens and
// from the nearest cache for the others; a kernel unpacks it once for the tokens of a block. With
// one token the weights are read once, strictly forward.
// Everything is `static`, so that each object compiled for an instruction set keeps its own copy.
#pragma once

#include "base/limits.h"
#include "kernels/table.h"

namespace bitnet::kernels {

/// How far ahead of its loads a kernel for one token asks for weights.
/// Why       every byte is read once, so nothing but an early request hides the time to memory.
/// Measured  docs/lab_notes.md, 2B-4T geometry, one thread: 37.1 ms a token without, 31.7 with
///           4 KiB, 30.8 with 6, 31.5 with 8, 32.0 with 16.
inline constexpr size_t kPrefetchBytes = 6144;

/// Asks for the weights that come kPrefetchBytes after `block`; past the end of the mapping it does
/// nothing.
static inline void prefetch_weights(const uint8_t* block) {
  __builtin_prefetch(block + kPrefetchBytes);
}

/// One tile times the tokens of x; y is row 0 of the tile of the first token. While it reads byte i
/// of the tile it may ask for byte i of `ahead`.
using TernaryTile = void (*)(const uint8_t* tile, const uint8_t* ahead, uint32_t cols_padded,
                             const Int8Tokens& x, float* y, size_t y_stride);

/// The tokens from `token` on, at most `count_max` of them. token < x.token_count.
static inline Int8Tokens token_block(const Int8Tokens& x, uint32_t token, uint32_t count_max) {
  const uint32_t left = x.token_count - token;
  return {x.codes + token * x.stride, x.stride, x.sums + token, x.multipliers + token,
          left < count_max ? left : count_max};
}

/// Computes all tiles of the range; multiply[n - 1] is for n tokens, n <= kTokenBlock.
template <uint32_t kTokenBlock>
static inline void walk_tiles(const TileRange& tiles, const Int8Tokens& x,
                              const TernaryTile (&multiply)[kTokenBlock], float* y,
                              size_t y_stride) {
  const size_t tile_bytes = size_t{tiles.cols_padded} * kTileRows / 4;
  for (uint32_t tile = tiles.tile_begin; tile < tiles.tile_end; ++tile) {
    const uint8_t* weights = tiles.weights + tile * tile_bytes;
    // One token: a fixed distance ahead. Several: the next tile, while the first of them are
    // computed and this tile comes from memory; for the others both are in a cache already.
    const uint8_t* ahead = weights + (x.token_count == 1 ? kPrefetchBytes : tile_bytes);
    for (uint32_t token = 0; token < x.token_count; token += kTokenBlock) {
      const Int8Tokens block = token_block(x, token, kTokenBlock);
      float* first = y + token * y_stride + size_t{tile} * kTileRows;
      multiply[block.token_count - 1](weights, ahead, tiles.cols_padded, block, first, y_stride);
      ahead = weights;
    }
  }
}

}  // namespace bitnet::kernels
