// Running exactly the bytes that were verified.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/status.h"

namespace bitnet::platform {

/// Copies at most `bytes` of a file into anonymous memory, seals it, and returns the copy's
/// descriptor: from then on no process can write, grow or shrink it, through no descriptor and no
/// mapping. `buffer` is for the copying. kFileSystem, kWriteFailed (memory is short), kSystem.
Result<int> copy_sealed(int file, uint64_t bytes, std::span<uint8_t> buffer);

/// Runs a sealed copy in place of this program, in its environment. Returns only on failure:
/// kSystem (value = errno).
Error execute(int sealed, char* const* arguments);

}  // namespace bitnet::platform
