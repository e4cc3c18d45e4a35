// Errors as text on standard error: one line `error: what: thing`, facts, a blank line, a hint.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <cstring>
#include <span>

#include "base/status.h"

namespace bitnet::programs {

inline std::span<const uint8_t> bytes_of(const char* text) {
  return {reinterpret_cast<const uint8_t*>(text), std::strlen(text)};
}

/// A fixed buffer that text is put together in; what does not fit is cut.
class Line {
 public:
  Line& text(const char* words);
  /// Bytes from outside: everything but printable ASCII is written as \xNN.
  Line& escaped(std::span<const uint8_t> bytes);
  /// Bytes as a JSON string with its quotes; one that is not printable ASCII becomes \\u00NN.
  Line& quoted(std::span<const uint8_t> bytes);
  Line& hex(std::span<const uint8_t> bytes);
  Line& hex_number(uint64_t value);
  Line& number(uint64_t value);
  /// value / 10^digits with that many digits behind the point.
  Line& decimal(uint64_t value, uint32_t digits);
  void clear() { count_ = 0; }
  std::span<const uint8_t> bytes() const { return {buffer_, count_}; }

 private:
  void put(uint8_t byte);
  uint8_t buffer_[4096];
  size_t count_ = 0;
};

/// The columns of status.def.
struct StatusText {
  const char* name;
  int exit_code;
  const char* text;
  const char* where;
  const char* found;
  const char* limit;
  const char* hint;
};
StatusText status_text(Status status);

/// Prints the error to standard error and returns its exit code.
int report(const Error& error);

}  // namespace bitnet::programs
