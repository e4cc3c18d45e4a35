// SPDX-License-Identifier: Apache-2.0
#include "format/executable.h"

#include <cstring>

#include "base/check.h"
#include "base/text.h"

namespace bitnet::format {
namespace {

constexpr uint32_t kTypeProgramHeaders = 6;
constexpr uint32_t kTypeRelro = 0x6474e552;
constexpr uint8_t kMagic[8] = {'B', 'N', 'A', 'G', 'M', 'O', 'D', 'L'};

/// An ELF note: sizes of name and description, type, name, description; type 1 is that of the
/// Merkle root of a model.
struct Note {
  uint32_t name_bytes;
  uint32_t description_bytes;
  uint32_t type;
  char name[8];
  uint8_t root[kDigestBytes];
  uint8_t image[kDigestBytes];
};
static_assert(sizeof(Note) == 116);

// Zero until sealing writes root and image digest here. The segment of this note becomes that of
// the payload, so the table of program headers keeps its size and nothing else in the file moves.
[[gnu::section(".note.bitnet"), gnu::used, gnu::aligned(4)]] const Note sealed_note = {
    sizeof(Note::name), 2 * kDigestBytes, 1, {'b', 'i', 't', 'n', 'e', 't', 0, 0}, {}, {}};

constexpr size_t kHeaderBytes = 64;
constexpr size_t kHeadersMax = 64;
constexpr size_t kNoteHeadBytes = offsetof(Note, root);
constexpr size_t kNoteBytes = 2 * kDigestBytes;
constexpr uint8_t kImageDomain = 4;
// Class 64, little-endian, version 1; what follows in the identification is the system's.
constexpr uint8_t kIdentity[7] = {0x7f, 'E', 'L', 'F', 2, 1, 1};

/// A little-endian number of the file header, which is whole.
template <typename T>
T number(std::span<const uint8_t> file, size_t offset) {
  T value;
  std::memcpy(&value, file.data() + offset, sizeof value);
  return value;
}

Error wrong(const char* what, uint64_t where) { return Error{Status::kElf, what, where}; }

/// The one place that looks like the note, in a segment that is neither payload nor writable.
Error find_note(ElfFile& elf) {
  const Text head(sealed_root().data() - kNoteHeadBytes, kNoteHeadBytes);  // of our own note
  size_t count = 0;
  for (size_t i = 0; i < elf.load_count; ++i) {
    const ProgramHeader& load = elf.loads[i];
    if (is_payload_shaped(load) || (load.flags & kFlagWrite) != 0) continue;
    for (uint64_t at = 0; load.file_bytes - at >= kNoteHeadBytes + kNoteBytes; at += 4) {
      if (!same(elf.file.subspan(load.offset + at, kNoteHeadBytes), head)) continue;
      elf.note_offset = load.offset + at + kNoteHeadBytes;
      ++count;
    }
  }
  return count == 1 ? kNoError : wrong("note", count);
}

/// Bytes of the file, with those that sealing or `strip` writes afterwards taken as zero.
void add_masked(Sha3& hash, const ElfFile& elf, uint64_t begin, uint64_t end) {
  struct Mask {
    uint64_t begin, end;
  };
  const Mask masks[] = {{40, 48}, {58, 64}, {elf.note_offset, elf.note_offset + kNoteBytes}};
  constexpr uint8_t kZero[kNoteBytes] = {};
  for (const Mask& mask : masks) {
    if (mask.begin < begin || mask.end > end) continue;
    hash.add(elf.file.subspan(begin, mask.begin - begin));
    hash.add(std::span(kZero).first(mask.end - mask.begin));
    begin = mask.end;
  }
  hash.add(elf.file.subspan(begin, end - begin));
}

}  // namespace

Image read_image(std::span<const uint8_t> headers) {
  Image image{};
  const std::span all(reinterpret_cast<const ProgramHeader*>(headers.data()),
                      headers.size() / sizeof(ProgramHeader));
  // The header that describes the headers says where they were meant to be.
  size_t own = 0;
  while (own < all.size() && all[own].type != kTypeProgramHeaders) ++own;
  if (own == all.size()) return image;
  const auto bias = reinterpret_cast<uintptr_t>(headers.data()) - all[own].virtual_address;
  for (const ProgramHeader& header : all) {
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

std::span<const uint8_t, kDigestBytes> sealed_root() {
  // The compiler sees zeros; sealing changes them in the file. Hide where the pointer comes from.
  const uint8_t* root = sealed_note.root;
  __asm__("" : "+r"(root));
  return std::span<const uint8_t, kDigestBytes>(root, kDigestBytes);
}

Result<ElfFile> parse_elf(std::span<const uint8_t> file) {
  ElfFile elf{};
  elf.file = file;
  if (file.size() < kHeaderBytes || std::memcmp(file.data(), kIdentity, sizeof kIdentity) != 0)
    return wrong("file header", 0);
  const auto table = number<uint64_t>(file, 32);
  const auto entry_bytes = number<uint16_t>(file, 54);
  const auto count = number<uint16_t>(file, 56);
  if (entry_bytes != sizeof(ProgramHeader) || count > kHeadersMax || table > file.size() ||
      count * sizeof(ProgramHeader) > file.size() - table)
    return wrong("program headers", 32);
  for (size_t i = 0; i < count; ++i) {
    ProgramHeader header;
    std::memcpy(&header, file.data() + table + i * sizeof header, sizeof header);
    if (header.type != kTypeLoad) continue;
    if (elf.load_count == ElfFile::kLoadsMax || header.offset > file.size() ||
        header.file_bytes > file.size() - header.offset ||
        header.file_bytes > header.memory_bytes || header.memory_bytes >> 47 != 0 ||
        header.virtual_address >> 47 != 0)
      return wrong("load segment", table + i * sizeof header);
    elf.loads[elf.load_count++] = header;
    if (!is_payload_shaped(header)) continue;
    if (!elf.payload.empty()) return wrong("second model", header.offset);
    if (header.offset % kPayloadAlignBytes != 0) return wrong("place of the model", header.offset);
    elf.payload = file.subspan(header.offset, header.file_bytes);
  }
  BITNET_TRY(find_note(elf));
  return elf;
}

Digest image_digest(const ElfFile& elf) {
  Sha3 hash;
  hash.add({&kImageDomain, 1});
  for (size_t i = 0; i < elf.load_count; ++i) {
    const ProgramHeader& load = elf.loads[i];
    if (is_payload_shaped(load)) continue;
    const uint64_t place[2] = {load.offset, load.file_bytes};
    hash.add({reinterpret_cast<const uint8_t*>(place), sizeof place});
    add_masked(hash, elf, load.offset, load.offset + load.file_bytes);
  }
  return hash.digest();
}

}  // namespace bitnet::format
