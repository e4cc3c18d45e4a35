// Text as bytes: compared, and put together in a buffer of the caller's.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "base/check.h"

namespace bitnet {

/// A part of a text; it lives as long as that text.
using Text = std::span<const uint8_t>;

inline Text text_of(const char* words) {
  return {reinterpret_cast<const uint8_t*>(words), std::strlen(words)};
}

/// Below, equal or above 0 as `a` stands before, at or behind `b` in order of bytes.
int compare(Text a, Text b);
inline bool same(Text a, Text b) { return compare(a, b) == 0; }
inline bool same(Text a, const char* b) { return same(a, text_of(b)); }

/// Whether these characters come next; takes them off the front only then.
bool take_words(Text* text, Text words);
/// Takes the next line off the front, and gives it without its line break.
Text take_line(Text* text);
/// Takes digits off the front of `text`; false where there is none, or the number is too large.
bool take_number(Text* text, uint32_t base, uint64_t* number);

/// Appends to a fixed buffer; what does not fit is cut, which `cut` tells.
class Writer {
 public:
  explicit Writer(std::span<uint8_t> buffer) : buffer_(buffer) {}

  Writer& bytes(Text text);
  Writer& text(const char* words) { return bytes(text_of(words)); }
  /// Bytes from outside: everything but printable ASCII is written as \xNN.
  Writer& escaped(Text bytes) { return plain(bytes, '\\', "\\x"); }
  /// Bytes as a JSON string with its quotes; one that is not printable ASCII becomes \\u00NN.
  Writer& quoted(Text bytes) { return text("\"").plain(bytes, '"', "\\u00").text("\""); }
  Writer& hex(Text bytes);
  Writer& hex_number(uint64_t value) { return digits(value, 16, 0); }
  Writer& number(uint64_t value) { return digits(value, 10, 0); }
  /// value / 10^behind with that many digits behind the point.
  Writer& decimal(uint64_t value, uint32_t behind) { return digits(value, 10, behind); }

  void clear() { count_ = 0; }
  bool cut() const { return cut_; }
  Text written() const { return buffer_.first(count_); }
  /// All of it, ended by 0. That it fits is known beforehand.
  const char* ended() {
    put(0);
    ENGINE_CHECK(!cut_);
    return reinterpret_cast<const char*>(buffer_.data());
  }

 private:
  void put(uint8_t byte);
  Writer& plain(Text bytes, uint8_t quote, const char* escape);
  Writer& digits(uint64_t value, uint32_t base, uint32_t behind);

  std::span<uint8_t> buffer_;
  size_t count_ = 0;
  bool cut_ = false;
};

}  // namespace bitnet
