// The file behind the log ring: made once, locked by its one writer, read from outside.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/status.h"

namespace bitnet::platform {

struct LogFile {
  uint8_t* memory;
  bool made;  ///< zeroed, rather than left by an earlier run
};

/// Maps the log file for writing and locks it for the life of this process; the descriptor is
/// closed. A file that exists is taken only if it is a regular file of this user with one name,
/// that size, and no right for others; a link is never followed. kLogFile (value = errno),
/// kLogForeign (value = mode), kLogBusy.
Result<LogFile> open_log_file(const char* path, size_t bytes);

/// Whether a writer holds the lock of a file that is open for reading.
bool log_has_writer(int descriptor);

}  // namespace bitnet::platform
