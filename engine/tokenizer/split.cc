// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/split.h"

#include "tokenizer/characters.h"

namespace bitnet::tokenizer {

namespace {

bool is_newline(uint32_t point) { return point == '\r' || point == '\n'; }

/// The lower-case ASCII letter that a character of a contraction stands for; 0 for any other.
/// U+017F (long s) folds to s, as in the library's regular expressions.
uint8_t contraction_letter(uint32_t point, bool fold_case) {
  if (point >= 'a' && point <= 'z') return static_cast<uint8_t>(point);
  if (!fold_case) return 0;
  if (point >= 'A' && point <= 'Z') return static_cast<uint8_t>(point + 32);
  return point == 0x17f ? 's' : 0;
}

}  // namespace

Text Splitter::next() {
  if (place_ == end_) return {};
  const uint8_t* const begin = place_;
  if (place_ == limit_) {
    limit_ = tables_.digits_apart ? skip(tables_, place_, end_, kNumeric, false) : end_;
  }
  // At a numeric character that stands apart the limit stays where the piece begins.
  place_ = place_ == limit_ ? begin + character_at(begin, end_).bytes : match(begin);
  if (limit_ < place_) limit_ = place_;
  return {begin, place_};
}

const uint8_t* Splitter::match_contraction(const uint8_t* p) const {
  if (*p != '\'' || p + 1 == limit_) return nullptr;
  const bool fold = tables_.contractions_fold_case != 0;
  const Character first = character_at(p + 1, limit_);
  const uint8_t* const after_first = p + 1 + first.bytes;
  const uint8_t letter = contraction_letter(first.point, fold);
  if (letter == 's' || letter == 't' || letter == 'm' || letter == 'd') return after_first;
  if (after_first == limit_) return nullptr;
  const Character second = character_at(after_first, limit_);
  const uint8_t pair = contraction_letter(second.point, fold);
  const bool known = letter == 'l' ? pair == 'l' : (letter == 'r' || letter == 'v') && pair == 'e';
  return known ? after_first + second.bytes : nullptr;
}

const uint8_t* Splitter::match_letters(const uint8_t* p) const {
  const Classified c = classified_at(tables_, p, limit_);
  if (c.flags & letters_) return skip(tables_, p + c.bytes, limit_, letters_);
  const bool leads =
      tables_.letters_after_any ? !is_newline(c.point) && !(c.flags & kNumber) : c.point == ' ';
  if (!leads) return nullptr;
  const uint8_t* const after = skip(tables_, p + c.bytes, limit_, letters_);
  return after == p + c.bytes ? nullptr : after;
}

const uint8_t* Splitter::match_numbers(const uint8_t* p) const {
  if (tables_.number_run_max == 0) {
    const uint8_t* const begin = *p == ' ' ? p + 1 : p;
    const uint8_t* const after = skip(tables_, begin, limit_, kNumber);
    return after == begin ? nullptr : after;
  }
  const uint8_t* after = p;
  for (uint32_t count = 0; count < tables_.number_run_max && after < limit_; ++count) {
    const Classified c = classified_at(tables_, after, limit_);
    if (!(c.flags & kNumber)) break;
    after += c.bytes;
  }
  return after == p ? nullptr : after;
}

const uint8_t* Splitter::match_signs(const uint8_t* p) const {
  const uint8_t* const begin = *p == ' ' ? p + 1 : p;
  const uint8_t others = kSpace | kNumber | letters_;
  const uint8_t* after = skip(tables_, begin, limit_, others, false);
  if (after == begin) return nullptr;
  if (tables_.newline_rules) {
    while (after < limit_ && is_newline(*after)) ++after;
  }
  return after;
}

/// White space, at least one character of it at `p`.
const uint8_t* Splitter::match_space(const uint8_t* p) const {
  const uint8_t* last = p;                 // where the last character of the run begins
  const uint8_t* after_newline = nullptr;  // past the last newline of the run
  const uint8_t* after = p;
  while (after < limit_) {
    const Classified c = classified_at(tables_, after, limit_);
    if (!(c.flags & kSpace)) break;
    last = after;
    after += c.bytes;
    if (is_newline(c.point)) after_newline = after;
  }
  if (tables_.newline_rules && after_newline != nullptr) return after_newline;
  // \s+(?!\S): all of a run that ends the text, else all but its last character; \s+ for a run of
  // one.
  return after == limit_ || last == p ? after : last;
}

const uint8_t* Splitter::match(const uint8_t* p) const {
  if (const uint8_t* after = match_contraction(p)) return after;
  if (const uint8_t* after = match_letters(p)) return after;
  if (const uint8_t* after = match_numbers(p)) return after;
  if (const uint8_t* after = match_signs(p)) return after;
  return match_space(p);
}

}  // namespace bitnet::tokenizer
