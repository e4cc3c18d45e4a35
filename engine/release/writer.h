// Text of files that are written inside the gap: put together in memory, cut nowhere.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstring>

#include "base/check.h"
#include "release/text.h"

namespace bitnet::release {

/// Appends to a fixed buffer. What does not fit is a defect: the limits are known beforehand.
class Writer {
 public:
  explicit Writer(std::span<uint8_t> buffer) : buffer_(buffer) {}

  Writer& bytes(Text text) {
    ENGINE_CHECK(text.size() <= buffer_.size() - count_);
    if (!text.empty()) std::memcpy(buffer_.data() + count_, text.data(), text.size());
    count_ += text.size();
    return *this;
  }
  Writer& text(const char* words) { return bytes(text_of(words)); }
  Writer& number(uint64_t value) {
    uint8_t digits[20];
    size_t first = sizeof digits;
    do {
      digits[--first] = static_cast<uint8_t>('0' + value % 10);
      value /= 10;
    } while (value != 0);
    return bytes({digits + first, sizeof digits - first});
  }
  Writer& hex(Text data) {
    for (const uint8_t byte : data) {
      const uint8_t pair[] = {static_cast<uint8_t>("0123456789abcdef"[byte >> 4]),
                              static_cast<uint8_t>("0123456789abcdef"[byte & 15])};
      bytes(pair);
    }
    return *this;
  }
  Text written() const { return buffer_.first(count_); }

 private:
  std::span<uint8_t> buffer_;
  size_t count_ = 0;
};

}  // namespace bitnet::release
