// Byte-pair merging of one piece: lowest rank first, leftmost first on ties.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "tokenizer/tables.h"

namespace bitnet::tokenizer {

/// Where ids go. `overflow` is set instead of writing past the end.
struct IdWriter {
  std::span<uint32_t> ids;
  size_t count = 0;
  bool overflow = false;

  void put(uint32_t id) {
    if (count < ids.size()) {
      ids[count++] = id;
    } else {
      overflow = true;
    }
  }
};

/// Words of scratch that `merge_piece` needs for each byte of the longest piece.
inline constexpr size_t kMergeScratchWords = 6;

/// Appends the ids of `piece`. Bytes without a token are dropped first.
/// scratch: at least kMergeScratchWords * piece.size() words. Time O(n log n).
void merge_piece(const Tables& tables, std::span<const uint8_t> piece, std::span<uint32_t> scratch,
                 IdWriter& out);

}  // namespace bitnet::tokenizer
