// The command line of every program: a table of options, and one way to be wrong about it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "base/status.h"

namespace bitnet::programs {

/// One option; exactly one of the three pointers says what it takes. A name without dashes is that
/// of the argument that stands alone.
struct Option {
  const char* name;
  bool* flag = nullptr;
  const char** text = nullptr;
  uint64_t* number = nullptr;  ///< decimal digits, number_min … number_max
  uint64_t number_min = 0;
  uint64_t number_max = UINT64_MAX;
  bool required = false;
  bool given = false;
};

/// Fills what the options point to. `--help` and `--version` print `help` or the version and set
/// *done. kUsage, kOptionValue (twice, no value, no number), kOptionMissing; subject = the option.
Error parse_arguments(int count, char** values, std::span<Option> options, const char* help,
                      bool* done);

}  // namespace bitnet::programs
