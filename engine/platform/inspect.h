// Files read from outside, at any place; for the programs that look at others.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "platform/fs.h"

namespace bitnet::platform {

/// Opens a file for reading, without waiting for what is no regular file. kReadFailed (value =
/// errno).
Result<int> open_for_reading(const char* path);

/// Where a symbolic link points, with a zero behind. kProcessHidden (value = errno).
Error read_link(const char* path, std::span<char> target);

}  // namespace bitnet::platform
