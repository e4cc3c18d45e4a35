// Lines of text as a program prints them, and errors on standard error: one line
// `error: what: thing`, facts, a blank line, a hint.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "base/status.h"
#include "base/text.h"

namespace bitnet::programs {

/// Text with a buffer of its own, longer than any line of ours.
class Line : public Writer {
 public:
  Line() : Writer(buffer_) {}
  Line(const Line&) = delete;
  Line& operator=(const Line&) = delete;

 private:
  uint8_t buffer_[4096];
};

/// Writes what was put together, and begins anew; false where that failed, which `report` tells.
bool print(int descriptor, Writer& line);

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

/// Prints the error, or else that of a `print`, to standard error and returns its exit code: what
/// could not be said was not done.
int report(const Error& error);

}  // namespace bitnet::programs
