// Files of a release: opened once, read through that descriptor, run from a copy nobody can change.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "platform/os.h"

namespace bitnet::platform {

/// A regular file, open for reading.
struct File {
  int descriptor = -1;
  uint64_t bytes = 0;
  bool executable = false;  ///< by its owner
};

/// Opens a regular file by its path. kReadFailed (value = errno; ENOENT, EISDIR …).
Result<File> open_path(const char* path);
/// Opens a folder by its path; symbolic links are followed.
Result<int> open_folder(const char* path);
/// Opens a regular file of an open folder: `name` has no slash, a symbolic link is refused (ELOOP).
Result<File> open_in(int folder, const char* name);
void close_descriptor(int descriptor);

/// Calls `visit` with each name of a folder except `.` and `..`, until it returns false.
/// kReadFailed.
Error list_folder(int folder, bool (*visit)(void* context, const char* name), void* context);

/// Copies a file into anonymous memory and seals it: from then on no process can write, grow or
/// shrink it. The size is that of the copy. `buffer` is for the copying. kReadFailed, kSystem.
Result<File> copy_sealed(const File& file, std::span<uint8_t> buffer);

/// Runs a sealed copy in place of this program, with this program's environment. Returns only on
/// failure: kSystem (value = errno).
Error execute(const File& sealed, char* const* arguments);

}  // namespace bitnet::platform
