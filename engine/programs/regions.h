// The memory of a process as the kernel tells it, held against the executable that it runs.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "base/status.h"
#include "base/text.h"
#include "format/executable.h"

namespace bitnet::programs {

/// One region of /proc/PID/smaps; the texts are parts of that file.
struct Region {
  uint64_t begin, end, offset, locked_kb;
  Text rights;         ///< such as r-xp
  Text name;           ///< a path, [stack] and the like, or empty
  bool of_executable;  ///< mapped from it, or the copy that is read instead of its weights
};

/// Takes the next region off `rest`; false at the end. *ok is false where the text is not of the
/// form that proc(5) documents.
bool next_region(Text& rest, Region* region, bool* ok);

/// Whether this names a process: digits, or "self".
bool is_process(const char* pid);
/// "/proc/PID/NAME" in `place`, of a PID that names a process.
inline constexpr size_t kProcessPathBytes = 64;
const char* process_path(const char* pid, const char* name, std::span<uint8_t> place);

/// Tells each region, then holds it against the executable: its rights are the segment's, code is
/// the executable's or the kernel's, every byte of a segment that is not writable is the file's,
/// and all of each such segment is there; so is every byte of a copy of the weights on huge pages.
/// kProcessHidden, kRegionForeign, kMappingDiffers.
Error check_process(const char* pid, const format::ElfFile& elf, void (*tell)(const Region&));

}  // namespace bitnet::programs
