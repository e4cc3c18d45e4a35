// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/added.h"

#include "tokenizer/characters.h"

namespace bitnet::tokenizer {

AddedFinder::AddedFinder(const Tables& tables, std::span<const AddedRow> rows,
                         std::span<const uint8_t> text)
    : tables_(tables),
      rows_(rows),
      text_begin_(text.data()),
      text_end_(text.data() + text.size()),
      taken_(text_begin_),
      search_(text_begin_) {
  for (const AddedRow& row : rows) {
    const uint8_t first = tables.added_data[row.begin];
    first_bytes_[first >> 5] |= 1u << (first & 31);
  }
}

/// The longest pattern at `p`, by narrowing the sorted rows byte after byte.
const AddedRow* AddedFinder::longest_at(const uint8_t* p) const {
  const AddedRow* found = nullptr;
  size_t low = 0;
  size_t high = rows_.size();
  const auto byte_of = [this](size_t row, size_t depth) -> uint32_t {
    // A pattern that ends here sorts before all that go on.
    if (rows_[row].bytes <= depth) return 0;
    return tables_.added_data[rows_[row].begin + depth] + 1u;
  };
  const auto bound = [&](size_t from, size_t to, size_t depth, uint32_t key) {
    while (from < to) {
      const size_t middle = from + (to - from) / 2;
      if (byte_of(middle, depth) < key) {
        from = middle + 1;
      } else {
        to = middle;
      }
    }
    return from;
  };
  for (size_t depth = 0; p + depth < text_end_; ++depth) {
    const uint32_t key = p[depth] + 1u;
    low = bound(low, high, depth, key);
    high = bound(low, high, depth, key + 1);
    if (low == high) break;
    if (rows_[low].bytes == depth + 1) found = &rows_[low];
  }
  return found;
}

bool AddedFinder::stands_alone(const uint8_t* begin, const uint8_t* end) const {
  if (begin > text_begin_ &&
      (flags_of(tables_, character_before(text_begin_, begin).point) & kWord)) {
    return false;
  }
  return end == text_end_ || !(classified_at(tables_, end, text_end_).flags & kWord);
}

const uint8_t* AddedFinder::strip_left(const uint8_t* p) const {
  while (p > taken_) {
    const Character c = character_before(taken_, p);
    if (!(flags_of(tables_, c.point) & kStripSpace)) break;
    p -= c.bytes;
  }
  return p;
}

const uint8_t* AddedFinder::strip_right(const uint8_t* p) const {
  while (p < text_end_) {
    const Classified c = classified_at(tables_, p, text_end_);
    if (!(c.flags & kStripSpace)) break;
    p += c.bytes;
  }
  return p;
}

/// The next match that its flags allow. A match that they forbid is passed over as a whole.
bool AddedFinder::find(const AddedRow*& row, const uint8_t*& begin, const uint8_t*& end) {
  while (search_ < text_end_) {
    const uint8_t byte = *search_;
    row = first_bytes_[byte >> 5] >> (byte & 31) & 1 ? longest_at(search_) : nullptr;
    if (row == nullptr) {
      ++search_;
      continue;
    }
    begin = search_;
    end = begin + row->bytes;
    search_ = end;
    if (!(row->flags & kSingleWord) || stands_alone(begin, end)) return true;
  }
  return false;
}

bool AddedFinder::next(Part& part) {
  if (pending_ != kIdNone) {
    part = {{}, pending_};
    pending_ = kIdNone;
    return true;
  }
  if (taken_ == text_end_) return false;
  const AddedRow* row = nullptr;
  const uint8_t* begin = text_end_;
  const uint8_t* end = text_end_;
  if (rows_.empty() || !find(row, begin, end)) {
    part = {{taken_, text_end_}, kIdNone};
    taken_ = text_end_;
    return true;
  }
  if (row->flags & kLeftStrip) begin = strip_left(begin);
  if (row->flags & kRightStrip) end = strip_right(end);
  const uint8_t* const plain = taken_;
  taken_ = end;
  if (plain < begin) {
    part = {{plain, begin}, kIdNone};
    pending_ = row->id;
  } else {
    part = {{}, row->id};
  }
  return true;
}

}  // namespace bitnet::tokenizer
