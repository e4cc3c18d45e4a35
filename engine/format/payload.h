// Finds the model, and other parts, in the running executable.
// SPDX-License-Identifier: Apache-2.0
//
// The file is described in docs/formats/executable.md. Nothing here reads a file or calls the
// kernel: the program headers are in memory already, and so is the payload.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/status.h"

namespace bitnet::format {

/// Alignment of the payload in the file and in memory, so that it can lie in huge pages.
inline constexpr uint64_t kPayloadAlignBytes = 2u << 20;

/// Bytes of the Merkle root of a model.
inline constexpr size_t kRootBytes = 48;

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

/// `headers` points to `header_count` program headers (Elf64_Phdr, 56 bytes each) of this program
/// where they are loaded (AT_PHDR, AT_PHNUM).
Image read_image(const uint8_t* headers, size_t header_count);

/// Returns the bytes of the sealed model.bin, read-only and in place. kModelNotSealed if there is
/// none or more than one (value = how many).
Result<std::span<const uint8_t>> find_payload(const Image& image);

/// Returns the Merkle root of the model that this executable was sealed with; all zero if it was
/// not. The engine compares it with the root of the payload: the code names the model that it runs.
std::span<const uint8_t, kRootBytes> sealed_root();

}  // namespace bitnet::format
