// The command line of every program: a table of options, and one way to be wrong about it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "base/status.h"

namespace bitnet::programs {

/// One option; exactly one of the pointers says what it takes. A name without dashes is that of the
/// argument that stands alone, or of all of them where they go to `words`: to the front of the
/// command line. After a name that ends in `=` the value follows at once.
struct Option {
  const char* name;
  bool* flag = nullptr;
  const char** text = nullptr;
  std::span<char*>* words = nullptr;
  uint64_t* number = nullptr;  ///< decimal digits, number_min … number_max
  uint64_t number_min = 0;
  uint64_t number_max = UINT64_MAX;
  bool required = false;
  bool given = false;
};

/// Fills what the options point to. `--help` and `--version` print `help`, or the version with
/// `claims` below, and end the program. kUsage, kOptionValue (twice, no value, no number),
/// kOptionMissing; subject = the option.
Error parse_arguments(int count, char** values, std::span<Option> options, const char* help,
                      const char* claims = "");

}  // namespace bitnet::programs
