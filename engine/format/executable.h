// A sealed executable of ours (docs/formats/executable.md): as it runs, and as bytes of a file that
// is looked at from outside.
// SPDX-License-Identifier: Apache-2.0
//
// Nothing here reads a file or calls the kernel: of a running program its headers are in memory
// already, and so is the payload.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/status.h"
#include "crypto/crypto.h"

namespace bitnet::format {

/// Alignment of the payload in the file and in memory, so that it can lie in huge pages.
inline constexpr uint64_t kPayloadAlignBytes = 2u << 20;

/// A load segment of this program. kSegmentCountMax is more than the linker and sealing make.
struct Segment {
  std::span<const uint8_t> memory;
  bool writable;
};
inline constexpr size_t kSegmentCountMax = 8;

/// This program in memory; valid as long as the process.
struct Image {
  Segment segments[kSegmentCountMax];  ///< in the order of their headers
  size_t segment_count;
  /// What only the relocation at start writes (PT_GNU_RELRO); empty if there is none. A static
  /// program has no loader that makes it read-only afterwards, and the C library does not: the
  /// program does so itself, from the page of the first byte up to the last whole page.
  std::span<const uint8_t> relro;
  /// Load segments that are readable and nothing else, aligned to 2 MiB, wholly in the file, and
  /// begin with the magic of model.bin: how many, and the last one.
  size_t payload_count;
  std::span<const uint8_t> payload;
};

/// `headers` are the program headers (Elf64_Phdr) of this program where they are loaded (AT_PHDR).
Image read_image(std::span<const uint8_t> headers);

/// Returns the bytes of the sealed model.bin, read-only and in place. kModelNotSealed if there is
/// none or more than one (value = how many).
Result<std::span<const uint8_t>> find_payload(const Image& image);

/// Returns the Merkle root of the model that this executable was sealed with; all zero if it was
/// not. The engine compares it with the root of the payload: the code names the model that it runs.
std::span<const uint8_t, kDigestBytes> sealed_root();

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

  std::span<const uint8_t> sealed_image() const {
    return file.subspan(note_offset + kDigestBytes, kDigestBytes);
  }
};

/// kElf (subject = what is wrong, where = its offset).
Result<ElfFile> parse_elf(std::span<const uint8_t> file);

/// SHA3-384 over all load segments but the payload, as sealing recorded it.
Digest image_digest(const ElfFile& elf);

}  // namespace bitnet::format
