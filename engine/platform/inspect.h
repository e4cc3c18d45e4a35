// Files read from outside, at any place; for the programs that look at others.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/status.h"

namespace bitnet::platform {

/// Opens a file for reading, without waiting for what is no regular file. kReadFailed (value =
/// errno).
Result<int> open_for_reading(const char* path);

/// Reads at a place until `buffer` is full or the file ends; returns the count. kReadFailed.
Result<size_t> inspect_at(int descriptor, uint64_t offset, std::span<uint8_t> buffer);

/// Where a symbolic link points, with a zero behind. kProcessHidden (value = errno).
Error read_link(const char* path, std::span<char> target);

struct InspectedFile {
  uint64_t bytes, links;
};
/// kReadFailed.
Result<InspectedFile> inspect_file(int descriptor);

}  // namespace bitnet::platform
