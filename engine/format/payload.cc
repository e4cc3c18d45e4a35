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

/// How far the program lies in memory from the addresses in its file.
struct LoadBias {
  bool known = false;
  uintptr_t bytes = 0;
};

/// The header that describes the headers says where they were meant to be.
LoadBias find_bias(const uint8_t* headers, size_t header_count) {
  for (size_t i = 0; i < header_count; ++i) {
    const ProgramHeader header = read_header(headers, i);
    if (header.type != kTypeProgramHeaders) continue;
    return {true, reinterpret_cast<uintptr_t>(headers) - header.virtual_address};
  }
  return {};
}

std::span<const uint8_t> in_memory(const ProgramHeader& header, const LoadBias& bias) {
  const uintptr_t address = bias.bytes + header.virtual_address;
  return {reinterpret_cast<const uint8_t*>(address), header.memory_bytes};
}

}  // namespace

Result<std::span<const uint8_t>> find_payload(const uint8_t* headers, size_t header_count) {
  std::span<const uint8_t> payload;
  size_t payload_count = 0;
  const LoadBias bias = find_bias(headers, header_count);
  for (size_t i = 0; bias.known && i < header_count; ++i) {
    const ProgramHeader header = read_header(headers, i);
    if (!is_payload_shaped(header)) continue;
    const std::span<const uint8_t> bytes = in_memory(header, bias);
    if (std::memcmp(bytes.data(), kMagic, sizeof(kMagic)) != 0) continue;
    payload = bytes;
    ++payload_count;
  }
  if (payload_count != 1) {
    return Error{Status::kModelNotSealed, "executable", 0, payload_count, 1};
  }
  return payload;
}

std::span<const uint8_t> find_relro(const uint8_t* headers, size_t header_count) {
  const LoadBias bias = find_bias(headers, header_count);
  for (size_t i = 0; bias.known && i < header_count; ++i) {
    const ProgramHeader header = read_header(headers, i);
    if (header.type == kTypeRelro) return in_memory(header, bias);
  }
  return {};
}

size_t list_segments(const uint8_t* headers, size_t header_count,
                     std::span<Segment, kSegmentCountMax> out) {
  const LoadBias bias = find_bias(headers, header_count);
  size_t count = 0;
  for (size_t i = 0; bias.known && i < header_count; ++i) {
    const ProgramHeader header = read_header(headers, i);
    if (header.type != kTypeLoad) continue;
    ENGINE_CHECK(count < kSegmentCountMax);
    out[count++] = {in_memory(header, bias), (header.flags & kFlagWrite) != 0};
  }
  return count;
}

std::span<const uint8_t, kRootBytes> sealed_root() {
  // The compiler sees zeros; sealing changes them in the file. Hide where the pointer comes from.
  const uint8_t* root = sealed_note.root;
  __asm__("" : "+r"(root));
  return std::span<const uint8_t, kRootBytes>(root, kRootBytes);
}

bool is_sealed() {
  uint8_t any = 0;
  for (const uint8_t byte : sealed_root()) any = static_cast<uint8_t>(any | byte);
  return any != 0;
}

}  // namespace bitnet::format
