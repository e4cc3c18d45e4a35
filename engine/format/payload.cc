// SPDX-License-Identifier: Apache-2.0
#include "format/payload.h"

#include <cstring>

#include "base/check.h"
#include "format/elf_file.h"

namespace bitnet::format {
namespace {

constexpr uint32_t kTypeProgramHeaders = 6;
constexpr uint32_t kTypeRelro = 0x6474e552;
constexpr uint8_t kMagic[8] = {'B', 'N', 'A', 'G', 'M', 'O', 'D', 'L'};

/// An ELF note: sizes of name and description, type, name, description.
struct Note {
  uint32_t name_bytes;
  uint32_t description_bytes;
  uint32_t type;
  char name[8];
  uint8_t root[kRootBytes];
  uint8_t image[kRootBytes];
};
static_assert(sizeof(Note) == 116);

/// Type of the note: the Merkle root of the model.
constexpr uint32_t kNoteTypeRoot = 1;

// Zero until sealing writes root and image digest here. The segment of this note becomes that of
// the payload, so the table of program headers keeps its size and nothing else in the file moves.
[[gnu::section(".note.bitnet"), gnu::used, gnu::aligned(4)]] const Note sealed_note = {
    sizeof(Note::name),
    2 * kRootBytes,
    kNoteTypeRoot,
    {'b', 'i', 't', 'n', 'e', 't', 0, 0},
    {},
    {}};

ProgramHeader read_header(const uint8_t* headers, size_t index) {
  ProgramHeader header;
  std::memcpy(&header, headers + index * sizeof(header), sizeof(header));
  return header;
}

}  // namespace

Image read_image(const uint8_t* headers, size_t header_count) {
  Image image{};
  // The header that describes the headers says where they were meant to be.
  size_t own = 0;
  while (own < header_count && read_header(headers, own).type != kTypeProgramHeaders) ++own;
  if (own == header_count) return image;
  const auto bias =
      reinterpret_cast<uintptr_t>(headers) - read_header(headers, own).virtual_address;
  for (size_t i = 0; i < header_count; ++i) {
    const ProgramHeader header = read_header(headers, i);
    const auto* begin = reinterpret_cast<const uint8_t*>(bias + header.virtual_address);
    const std::span<const uint8_t> memory(begin, header.memory_bytes);
    if (header.type == kTypeRelro) image.relro = memory;
    if (header.type != kTypeLoad) continue;
    ENGINE_CHECK(image.segment_count < kSegmentCountMax);
    image.segments[image.segment_count++] = {memory, (header.flags & kFlagWrite) != 0};
    if (!is_payload_shaped(header) || std::memcmp(begin, kMagic, sizeof kMagic) != 0) continue;
    image.payload = memory;
    ++image.payload_count;
  }
  return image;
}

Result<std::span<const uint8_t>> find_payload(const Image& image) {
  if (image.payload_count == 1) return image.payload;
  return Error{Status::kModelNotSealed, "executable", 0, image.payload_count, 1};
}

std::span<const uint8_t, kRootBytes> sealed_root() {
  // The compiler sees zeros; sealing changes them in the file. Hide where the pointer comes from.
  const uint8_t* root = sealed_note.root;
  __asm__("" : "+r"(root));
  return std::span<const uint8_t, kRootBytes>(root, kRootBytes);
}

}  // namespace bitnet::format
