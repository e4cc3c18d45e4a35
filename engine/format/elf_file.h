// An executable of ours as bytes of a file, looked at from outside (docs/formats/executable.md).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/status.h"
#include "base/text.h"
#include "crypto/crypto.h"
#include "format/payload.h"

namespace bitnet::format {

/// Elf64_Phdr of the ELF-64 object file format, version 1.5, "Program Header".
struct ProgramHeader {
  uint32_t type;
  uint32_t flags;
  uint64_t offset;
  uint64_t virtual_address;
  uint64_t physical_address;
  uint64_t file_bytes;
  uint64_t memory_bytes;
  uint64_t align;
};
static_assert(sizeof(ProgramHeader) == 56);

inline constexpr uint32_t kTypeLoad = 1;
inline constexpr uint32_t kFlagExecute = 1, kFlagWrite = 2, kFlagRead = 4;

/// Whether a segment has the form of the payload's.
inline bool is_payload_shaped(const ProgramHeader& header) {
  constexpr uint64_t kMagicBytes = 8;
  return header.type == kTypeLoad && header.flags == kFlagRead &&
         header.align == kPayloadAlignBytes && header.file_bytes == header.memory_bytes &&
         header.file_bytes >= kMagicBytes;
}

/// The parts of a file that have been checked to lie within it.
struct ElfFile {
  static constexpr size_t kLoadsMax = 16;
  std::span<const uint8_t> file;
  ProgramHeader loads[kLoadsMax];
  size_t load_count;
  std::span<const uint8_t> payload;  ///< empty where there is none
  uint64_t note_offset;              ///< of the root and the image digest, 48 bytes each
};

/// kElf (subject = what is wrong, where = its offset).
Result<ElfFile> parse_elf(std::span<const uint8_t> file);

/// SHA3-384 over all load segments but the payload, as sealing recorded it.
Digest image_digest(const ElfFile& elf);

}  // namespace bitnet::format
