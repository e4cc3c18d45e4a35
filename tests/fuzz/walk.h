// Holds an input against the values that a parser gave, written again by another hand.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>

inline void must(bool condition) {
  if (!condition) std::abort();
}

/// Walks through an input; every piece must be the next one there.
class Walk {
 public:
  explicit Walk(std::span<const uint8_t> input) : rest_(input) {}

  Walk& bytes(std::span<const uint8_t> piece) {
    must(rest_.size() >= piece.size());
    must(piece.empty() || std::memcmp(rest_.data(), piece.data(), piece.size()) == 0);
    rest_ = rest_.subspan(piece.size());
    return *this;
  }
  Walk& text(const char* words) {
    return bytes({reinterpret_cast<const uint8_t*>(words), std::strlen(words)});
  }
  Walk& number(uint64_t value) {
    uint8_t digits[20];
    size_t at = sizeof digits;
    do {
      digits[--at] = static_cast<uint8_t>('0' + value % 10);
      value /= 10;
    } while (value != 0);
    return bytes(std::span(digits).subspan(at));
  }
  Walk& hex(std::span<const uint8_t> values) {
    for (const uint8_t value : values) {
      const char* digits = "0123456789abcdef";
      const uint8_t pair[] = {static_cast<uint8_t>(digits[value >> 4]),
                              static_cast<uint8_t>(digits[value & 15])};
      bytes(pair);
    }
    return *this;
  }
  void end() {
    must(rest_.empty());
    done_ = true;
  }
  /// Whether a parser accepted the input.
  bool done() const { return done_; }

 private:
  bool done_ = false;
  std::span<const uint8_t> rest_;
};
