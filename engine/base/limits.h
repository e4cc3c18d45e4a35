// Every limit of the programs inside the gap, and the relations between them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

namespace bitnet {

/// Rows of a weight tile, lanes of an ordered reduction, and the padding of every vector.
inline constexpr uint32_t kTileRows = 16;
inline constexpr uint32_t kLanes = 16;

inline constexpr uint32_t kHiddenSizeMax = 65536;
inline constexpr uint32_t kColsMax = 131072;
inline constexpr uint32_t kLayerCountMax = 1024;
inline constexpr uint32_t kHeadCountMax = 1024;
inline constexpr uint32_t kHeadDimMax = 1024;
inline constexpr uint32_t kVocabSizeMax = 1u << 20;
inline constexpr uint32_t kContextMax = 1u << 20;
inline constexpr uint32_t kEosCountMax = 8;

inline constexpr uint32_t kThreadCountMax = 64;
inline constexpr uint32_t kCoreMax = 1023;
inline constexpr uint32_t kPrefillChunkMax = 512;
inline constexpr uint32_t kPromptBytesMax = 64u << 20;
inline constexpr uint32_t kConfigBytesMax = 65536;
inline constexpr uint32_t kStopStringCountMax = 16;
inline constexpr uint32_t kStopStringBytesMax = 256;

// Sums of unsigned ternary codes (0..2) with int8 activations, and the correction by the sum of the
// activations, stay in int32; the corrected sum converts to float without rounding.
static_assert(3ull * 127 * kColsMax < (1ull << 31));
static_assert(127ull * kColsMax < (1ull << 24));
// Head: stored codes (at most 255), and twice the codes joined from them (at most 256), times the
// high part (-127..127) of a 15-bit activation stay in int32.
static_assert(256ull * 127 * kHiddenSizeMax < (1ull << 31));

/// Rounds up to the padding of vectors. `n` is at most kColsMax, so this cannot overflow.
constexpr uint32_t pad_lanes(uint32_t n) { return (n + kLanes - 1) / kLanes * kLanes; }

/// Bytes of a row of the low plane of int8 rows: blocks of 64 bytes, two columns in a byte.
inline constexpr uint32_t kLowBlockCols = 128;
constexpr size_t low_row_bytes(uint32_t cols) {
  return (size_t{cols} + kLowBlockCols - 1) / kLowBlockCols * (kLowBlockCols / 2);
}

}  // namespace bitnet
