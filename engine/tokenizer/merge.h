// Byte-pair merging of one piece: lowest rank first, leftmost first on ties.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/text.h"
#include "tokenizer/tables.h"

namespace bitnet::tokenizer {

/// Where ids go: enough for any text of its length (encode_ids_max).
struct IdWriter {
  std::span<uint32_t> ids;
  size_t count = 0;

  void put(uint32_t id) {
    ENGINE_CHECK(count < ids.size());
    ids[count++] = id;
  }
};

/// Words of scratch that `merge_piece` needs for each byte of the longest piece.
inline constexpr size_t kMergeScratchWords = 6;

/// Appends the ids of `piece`. Bytes without a token are dropped first.
/// scratch: at least kMergeScratchWords * piece.size() words. Time O(n log n).
void merge_piece(const Tables& tables, Text piece, std::span<uint32_t> scratch, IdWriter& out);

}  // namespace bitnet::tokenizer
