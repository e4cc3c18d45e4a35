// SPDX-License-Identifier: Apache-2.0
#include "base/text.h"

namespace bitnet {

constexpr char kDigits[] = "0123456789abcdef";

int compare(Text a, Text b) {
  const size_t common = a.size() < b.size() ? a.size() : b.size();
  const int order = common == 0 ? 0 : std::memcmp(a.data(), b.data(), common);
  if (order != 0) return order;
  return a.size() == b.size() ? 0 : a.size() < b.size() ? -1 : 1;
}

bool take_words(Text* text, Text words) {
  if (text->size() < words.size() || !same(text->first(words.size()), words)) return false;
  *text = text->subspan(words.size());
  return true;
}

Text take_line(Text* text) {
  size_t bytes = 0;
  while (bytes < text->size() && (*text)[bytes] != '\n') ++bytes;
  const Text line = text->first(bytes);
  *text = text->subspan(bytes < text->size() ? bytes + 1 : bytes);
  return line;
}

bool take_number(Text* text, uint32_t base, uint64_t* number) {
  size_t count = 0;
  *number = 0;
  for (; count < text->size(); ++count) {
    const void* digit = std::memchr(kDigits, (*text)[count], base);
    if (digit == nullptr) break;
    const auto value = static_cast<uint64_t>(static_cast<const char*>(digit) - kDigits);
    if (__builtin_mul_overflow(*number, base, number)) return false;
    if (__builtin_add_overflow(*number, value, number)) return false;
  }
  *text = text->subspan(count);
  return count > 0;
}

void Writer::put(uint8_t byte) {
  cut_ = cut_ || count_ == buffer_.size();
  if (!cut_) buffer_[count_++] = byte;
}

Writer& Writer::bytes(Text text) {
  for (const uint8_t byte : text) put(byte);
  return *this;
}

Writer& Writer::hex(Text bytes) {
  for (const uint8_t byte : bytes) {
    put(static_cast<uint8_t>(kDigits[byte >> 4]));
    put(static_cast<uint8_t>(kDigits[byte & 15]));
  }
  return *this;
}

/// Neither `quote` nor a backslash stands for itself.
Writer& Writer::plain(Text bytes, uint8_t quote, const char* escape) {
  for (const uint8_t& byte : bytes) {
    const bool itself = byte >= 0x20 && byte < 0x7f && byte != '\\' && byte != quote;
    itself ? put(byte) : void(text(escape).hex({&byte, 1}));
  }
  return *this;
}

Writer& Writer::digits(uint64_t value, uint32_t base, uint32_t behind) {
  uint8_t reversed[24];
  uint32_t count = 0;
  do {
    reversed[count++] = static_cast<uint8_t>(kDigits[value % base]);
    value /= base;
  } while (value != 0 || count <= behind);
  while (count > 0) {
    if (count == behind) put('.');
    put(reversed[--count]);
  }
  return *this;
}

}  // namespace bitnet
