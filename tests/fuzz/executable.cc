// A sealed executable seen from outside, as bitnet-integrity sees it: any bytes are one or are
// refused, and what is found in it lies within the file.
// SPDX-License-Identifier: Apache-2.0
//
// The model stands 2 MiB into the file, which no input has room for. The input is a recipe instead:
//
//   mode (1), end (i16), bytes of the head (u16), head; patches
//
// The head is what the linker wrote; zeros follow, then a small model, where the mode wants one. A
// patch (u32 place, u32 value) counts from the file's start or, with its highest bit, from the
// model's. Root and image digest are written as sealing does, by another hand than the reader's;
// patches with the second highest bit come after that. Digests are stand-ins.
#include <sys/mman.h>

#include <cstdlib>
#include <cstring>

#include "model_recipe.h"
#include "quick_digest.h"
#include "walk.h"

#define main integrity_main
#include "programs/integrity.cc"
#undef main

extern "C" {
uint64_t fuzz_accepted = 0;
// sanitizer/asan_interface.h, which the compiler here does not bring.
void __asan_poison_memory_region(void const volatile* first, size_t bytes);
void __asan_unpoison_memory_region(void const volatile* first, size_t bytes);
}

namespace {

using format::ProgramHeader;

enum Mode : uint8_t { kModel = 1, kRoot = 2, kImage = 4 };

constexpr size_t kModelPlace = 2u << 20;
constexpr size_t kModelPages = 12;
constexpr size_t kModelBytes = recipe::kPage * (1 + kModelPages) + 48;
constexpr size_t kHeadMax = 4096;
constexpr size_t kTailMax = 4096;
constexpr size_t kRegion = recipe::kPage * (kModelPlace / recipe::kPage + 15);
constexpr uint8_t kNoteHead[20] = {8, 0, 0,   0,   96,  0,   0,   0,   1, 0,
                                   0, 0, 'b', 'i', 't', 'n', 'e', 't', 0, 0};
static_assert(kModelPlace + kModelBytes + kTailMax <= kRegion);

uint8_t* file = nullptr;  // at a page, as files are mapped
size_t file_bytes = kRegion;
alignas(64) uint8_t model[kModelBytes];

void make_model() {
  auto* header = reinterpret_cast<format::ModelHeader*>(model);
  header->hidden_size = header->intermediate_size = header->layer_count = 1;
  header->head_count = header->kv_head_count = header->vocab_size = header->context_max = 1;
  header->head_dim = 2;
  header->activation = header->flags = 1;
  header->norm_eps = 1e-5f;
  header->embedding_kind = header->head_kind = 4;
  header->bos_id = recipe::kNone;
  std::memset(header->eos_ids, 0xff, sizeof header->eos_ids);
  recipe::Shapes shapes;
  must(recipe::find_shapes(*header, &shapes) && shapes.pages == kModelPages);
  recipe::fill_sizes(header, shapes, shapes.pages * recipe::kPage);
  must(header->file_bytes == kModelBytes);
  std::memcpy(model + 512, shapes.rows, shapes.count * sizeof shapes.rows[0]);
  quick::leaf_digests(model + recipe::kPage, kModelPages * recipe::kPage, 0, 1,
                      model + header->leaves_offset);
  recipe::hash_root(model, recipe::kPage, header->leaves_offset, 1, header->root);
}

void make_region() {
  make_model();
  // No page behind it can be touched; up to there what is not of the file is poisoned.
  void* region = mmap(nullptr, kRegion + recipe::kPage, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  must(region != MAP_FAILED);
  file = static_cast<uint8_t*>(region);
  must(mprotect(file + kRegion, recipe::kPage, PROT_NONE) == 0);
}

void resize(size_t bytes) {
  if (bytes > file_bytes) __asan_unpoison_memory_region(file, bytes);
  __asan_poison_memory_region(file + bytes, kRegion - bytes);
  file_bytes = bytes;
}

/// The description of the note in the head; null where there is none.
uint8_t* find_note(size_t head_bytes) {
  for (size_t at = 0; at + sizeof kNoteHead + 96 <= head_bytes; at += 4) {
    if (std::memcmp(file + at, kNoteHead, sizeof kNoteHead) == 0)
      return file + at + sizeof kNoteHead;
  }
  return nullptr;
}

/// docs/formats/executable.md, The note; false where that is beyond the head.
bool hash_image(size_t head_bytes, const uint8_t* note, uint8_t* out) {
  uint64_t table;
  uint16_t count;
  std::memcpy(&table, file + 32, 8);
  std::memcpy(&count, file + 56, 2);
  if (table > head_bytes || count > 64 || 56u * count > head_bytes - table) return false;
  const uint64_t at = static_cast<uint64_t>(note - file);
  const uint64_t masks[][2] = {{40, 48}, {58, 64}, {at, at + 96}};
  const uint8_t domain = 4;
  BitnetDigestState state;
  bitnet_sha3_384_init(&state);
  bitnet_sha3_384_update(&state, &domain, 1);
  for (uint16_t i = 0; i < count; ++i) {
    ProgramHeader load;
    std::memcpy(&load, file + table + 56u * i, sizeof load);
    const bool is_model = load.flags == 4 && load.align == 2u << 20 &&
                          load.file_bytes == load.memory_bytes && load.file_bytes >= 8;
    if (load.type != 1 || is_model) continue;
    if (load.offset > head_bytes || load.file_bytes > head_bytes - load.offset) return false;
    uint8_t bytes[kHeadMax];
    std::memcpy(bytes, file + load.offset, load.file_bytes);
    for (const auto& [begin, end] : masks) {
      if (begin < load.offset || end > load.offset + load.file_bytes) continue;
      std::memset(bytes + (begin - load.offset), 0, end - begin);
    }
    bitnet_sha3_384_update(&state, reinterpret_cast<const uint8_t*>(&load.offset), 8);
    bitnet_sha3_384_update(&state, reinterpret_cast<const uint8_t*>(&load.file_bytes), 8);
    bitnet_sha3_384_update(&state, bytes, load.file_bytes);
  }
  bitnet_sha3_384_final(&state, out);
  return true;
}

/// Writes patches, or takes them back.
void patch(std::span<const uint8_t> patches, bool late, bool back) {
  for (; patches.size() >= 8; patches = patches.subspan(8)) {
    uint32_t words[2];
    std::memcpy(words, patches.data(), sizeof words);
    const uint64_t place = (words[0] & 0x3fffffff) + (words[0] >> 31 ? kModelPlace : 0);
    if ((words[0] >> 30 & 1) != late || place > file_bytes || file_bytes - place < 4) continue;
    if (back) words[1] = 0;
    std::memcpy(file + place, &words[1], 4);
  }
}

void touch(std::span<const uint8_t> part) {
  const std::span<const uint8_t> all(file, file_bytes);
  must(!part.empty() && part.data() >= all.data() && part.size() <= all.size());
  must(static_cast<size_t>(part.data() - all.data()) <= all.size() - part.size());
  const volatile uint8_t* bytes = part.data();
  (void)bytes[0];
  (void)bytes[part.size() - 1];
}

void look() {
  const Result<format::ElfFile> parsed = format::parse_elf({file, file_bytes});
  if (!parsed.ok()) return;
  const format::ElfFile& elf = parsed.value();
  must(elf.load_count <= format::ElfFile::kLoadsMax);
  for (size_t i = 0; i < elf.load_count; ++i) {
    const ProgramHeader& load = elf.loads[i];
    must(load.offset <= file_bytes && load.file_bytes <= file_bytes - load.offset);
  }
  touch(std::span<const uint8_t>(file, file_bytes).subspan(elf.note_offset, 96));
  must(std::memcmp(file + elf.note_offset - 20, kNoteHead, sizeof kNoteHead) == 0);
  if (!elf.payload.empty()) {
    touch(elf.payload);
    must(static_cast<size_t>(elf.payload.data() - file) % kModelPlace == 0);
  }
  const size_t head_bytes = file_bytes < kHeadMax ? file_bytes : kHeadMax;
  uint8_t image[48];
  if (elf.note_offset >= 64 && hash_image(head_bytes, file + elf.note_offset, image)) {
    must(same(format::image_digest(elf), image));
  }
  // check_model_header has an oracle of its own, in model.cc; here it is what lies where.
  fuzz_accepted += !failed(check_file(elf));
}

}  // namespace

extern "C" int fuzz_one(const uint8_t* data, size_t bytes) {
  if (file == nullptr) make_region();
  if (bytes < 5) return 0;
  const uint8_t mode = data[0];
  int16_t end;
  uint16_t wanted;
  std::memcpy(&end, data + 1, 2);
  std::memcpy(&wanted, data + 3, 2);
  size_t head_bytes = bytes - 5 < wanted ? bytes - 5 : wanted;
  if (head_bytes > kHeadMax) head_bytes = kHeadMax;
  const std::span<const uint8_t> patches(data + 5 + head_bytes, bytes - 5 - head_bytes);
  const size_t model_end = kModelPlace + kModelBytes + static_cast<size_t>(end % int{kTailMax});
  resize(mode & kModel ? model_end : head_bytes);
  if (head_bytes > 0) std::memcpy(file, data + 5, head_bytes);
  if (mode & kModel) {
    const size_t there = model_end - kModelPlace;
    std::memcpy(file + kModelPlace, model, there < kModelBytes ? there : kModelBytes);
  }
  patch(patches, false, false);
  uint8_t* note = find_note(head_bytes);
  const auto* header = reinterpret_cast<const format::ModelHeader*>(model);
  if (note != nullptr && mode & kRoot) std::memcpy(note, header->root, 48);
  uint8_t image[48];
  if (note != nullptr && mode & kImage && hash_image(head_bytes, note, image))
    std::memcpy(note + 48, image, 48);
  patch(patches, true, false);
  look();
  patch(patches, false, true);
  patch(patches, true, true);
  const size_t left = file_bytes < kHeadMax ? file_bytes : kHeadMax;
  std::memset(file, 0, left);
  if (mode & kModel) std::memset(file + kModelPlace, 0, file_bytes - kModelPlace);
  return 0;
}
