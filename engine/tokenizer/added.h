// Finds added tokens in text: leftmost first, the longest of those that begin there.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "tokenizer/tables.h"

namespace bitnet::tokenizer {

/// Cuts a text into plain stretches and added tokens.
class AddedFinder {
 public:
  /// `rows` in the order of their bytes, as in Tables; none of them: the text is one plain stretch.
  AddedFinder(const Tables& tables, std::span<const AddedRow> rows, std::span<const uint8_t> text);

  struct Part {
    std::span<const uint8_t> text;  ///< of a plain stretch; empty for an added token
    uint32_t id;                    ///< of an added token, else kIdNone
  };

  /// False at the end. Plain stretches are never empty.
  bool next(Part& part);

 private:
  const AddedRow* longest_at(const uint8_t* p) const;
  bool stands_alone(const uint8_t* begin, const uint8_t* end) const;
  const uint8_t* strip_left(const uint8_t* p) const;
  const uint8_t* strip_right(const uint8_t* p) const;
  bool find(const AddedRow*& row, const uint8_t*& begin, const uint8_t*& end);

  const Tables& tables_;
  std::span<const AddedRow> rows_;
  const uint8_t* text_begin_;
  const uint8_t* text_end_;
  const uint8_t* taken_;   ///< everything before it has been given out
  const uint8_t* search_;  ///< where the search goes on: after the last match, before any strip
  uint32_t pending_ = kIdNone;
  uint32_t first_bytes_[8] = {};  ///< one bit for each byte that a pattern begins with
};

}  // namespace bitnet::tokenizer
