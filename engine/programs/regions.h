// The memory of a process as the kernel tells it, held against the executable that it runs.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "base/status.h"
#include "format/elf_file.h"

namespace bitnet::programs {

/// One region of /proc/PID/smaps.
struct Region {
  uint64_t begin, end, offset, locked_kb;
  char rights[5];   ///< such as r-xp
  char name[4097];  ///< as in the file: a path, [stack] and the like, or empty
  bool of_executable;
};

/// Takes the next region off `rest`; false at the end. *ok is false where the text is not of the
/// form that proc(5) documents.
bool next_region(std::span<const uint8_t>& rest, Region* region, bool* ok);

/// "/proc/PID/NAME" in `path`, 64 bytes; PID is digits or "self". kOptionValue.
Result<const char*> process_path(const char* pid, const char* name, char* path);

/// Tells each region, then holds it against the executable: its rights are the segment's, code is
/// the executable's or the kernel's, every byte of a segment that is not writable is the file's,
/// and all of each such segment is there. kProcessHidden, kRegionForeign, kMappingDiffers.
Error check_process(const char* pid, const format::ElfFile& elf, void (*tell)(const Region&));

}  // namespace bitnet::programs
