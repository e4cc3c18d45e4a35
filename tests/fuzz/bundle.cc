// A bundle in one file or in parts, from heads that nobody has signed: held against a second
// reading of docs/formats/release.md, over files of any length, and media that cannot be read.
// SPDX-License-Identifier: Apache-2.0
#include "release/bundle.h"

#include "platform/fs.h"
#include "release/content.h"
#include "walk.h"

using namespace bitnet;
using release::PartState;

extern "C" {
uint64_t fuzz_accepted = 0;
}

namespace {

constexpr size_t kFilesMax = 6;
constexpr size_t kWholeBytes = 300;
constexpr size_t kHeadBytes = 512;
constexpr size_t kFileBytesMax = kHeadBytes + 2 * kWholeBytes;
constexpr int kFolder = 50;
constexpr int kFirst = 100;  // descriptor of the first file

/// What the input says, byte by byte; zeros behind its end.
struct Recipe {
  const uint8_t* data;
  size_t left;

  size_t take(size_t bytes) {
    size_t value = 0;
    for (size_t i = 0; i < bytes && left > 0; ++i, --left) value |= size_t{*data++} << (8 * i);
    return value;
  }
};

struct File {
  char name[16];
  uint8_t bytes[kFileBytesMax];
  size_t count;
  size_t readable;  ///< bytes that the medium gives; reading beyond fails
  int opened;
};

uint8_t whole[kWholeBytes];
Digest whole_digest;
File files[kFilesMax];
size_t file_count;
bool in_folder;

void put(File* file, const char* words) {
  const size_t count = std::strlen(words);
  std::memcpy(file->bytes + file->count, words, count);
  file->count += count;
}

void put_number(File* file, size_t value) {
  char digits[24];
  size_t at = sizeof digits;
  digits[--at] = 0;
  do {
    digits[--at] = static_cast<char>('0' + value % 10);
    value /= 10;
  } while (value != 0);
  put(file, digits + at);
}

void put_hex(File* file, const Digest& digest) {
  for (const uint8_t byte : digest) {
    const char pair[] = {"0123456789abcdef"[byte >> 4], "0123456789abcdef"[byte & 15], 0};
    put(file, pair);
  }
}

/// A part as the builder writes it, of the bundle's bytes from `offset` on; zeros behind its end.
void put_part(File* file, Recipe* recipe) {
  const size_t index = recipe->take(2);
  const size_t count = recipe->take(2);
  const size_t offset = recipe->take(2) % (kWholeBytes + 1);
  const size_t bytes = recipe->take(2) % (kWholeBytes + 1);
  uint8_t data[kWholeBytes] = {};
  const size_t left = kWholeBytes - offset;
  std::memcpy(data, whole + offset, bytes < left ? bytes : left);
  put(file, "bitnet-part v1\nbundle ");
  put_hex(file, whole_digest);
  put(file, " ");
  put_number(file, kWholeBytes);
  put(file, "\npart ");
  put_number(file, index);
  put(file, " ");
  put_number(file, count);
  put(file, " ");
  put_number(file, offset);
  put(file, " ");
  put_number(file, bytes);
  put(file, "\ndata ");
  put_hex(file, Sha384().add({data, bytes}).digest());
  while (file->count < kHeadBytes) put(file, "\n");
  std::memcpy(file->bytes + file->count, data, bytes);
  file->count += bytes;
}

/// A file: a byte of what it is, then a part or bytes as they come; then what is changed in it.
void make_file(Recipe* recipe) {
  File* file = &files[file_count];
  *file = File{};
  const size_t kind = recipe->take(1);
  std::memcpy(file->name, kind & 1 ? "f.part-0" : "f.other0", 9);
  file->name[7] = static_cast<char>('0' + file_count);
  if (kind & 2) {
    put_part(file, recipe);
  } else if (kind & 4) {
    std::memcpy(file->bytes, whole, kWholeBytes);
    file->count = kWholeBytes;
  } else {
    for (size_t count = recipe->take(1); count > 0; --count) {
      file->bytes[file->count++] = static_cast<uint8_t>(recipe->take(1));
    }
  }
  for (size_t edits = kind >> 4 & 3; edits > 0; --edits) {
    const size_t place = recipe->take(2);
    const auto byte = static_cast<uint8_t>(recipe->take(1));
    if (place < file->count) file->bytes[place] = byte;
  }
  if (kind & 8) file->count = recipe->take(2) % (kFileBytesMax + 1);  // cut, or zeros behind
  file->readable = kind & 128 ? recipe->take(2) : SIZE_MAX;
  file_count += 1;
}

// A second reading of a head.

struct Words {
  const uint8_t* at;
  const uint8_t* end;
  bool good;

  void expect(const char* words) {
    for (; good && *words != 0; ++words) good = at < end && *at++ == static_cast<uint8_t>(*words);
  }
  uint64_t number() {
    const uint8_t* begin = at;
    uint64_t value = 0;
    for (; good && at < end && *at >= '0' && *at <= '9'; ++at) {
      good = at - begin < 19;  // all of nineteen digits are below 2^64
      value = 10 * value + (*at - uint64_t{'0'});
    }
    good = good && at > begin && (at - begin == 1 || *begin != '0') && value < uint64_t{1} << 63;
    return value;
  }
  Digest digest() {
    Digest value{};
    for (size_t i = 0; good && i < 2 * sizeof value; ++i) {
      const uint8_t c = at < end ? *at++ : 0;
      good = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
      value[i / 2] = static_cast<uint8_t>(value[i / 2] << 4 | (c <= '9' ? c - '0' : c - 'a' + 10));
    }
    return value;
  }
};

struct Head {
  uint64_t index, count, offset, bytes;
  Digest data;
};

bool read_head(const File& file, Head* head) {
  const size_t got = file.count < kHeadBytes ? file.count : kHeadBytes;
  if (got > file.readable) return false;
  Words words{file.bytes, file.bytes + got, true};
  words.expect("bitnet-part v1\nbundle ");
  const Digest bundle = words.digest();
  words.expect(" ");
  const uint64_t bytes = words.number();
  words.expect("\npart ");
  head->index = words.number();
  words.expect(" ");
  head->count = words.number();
  words.expect(" ");
  head->offset = words.number();
  words.expect(" ");
  head->bytes = words.number();
  words.expect("\ndata ");
  head->data = words.digest();
  while (words.good && words.at < words.end) words.expect("\n");
  return words.good && bundle == whole_digest && bytes == kWholeBytes && head->index >= 1 &&
         head->index <= head->count && head->count <= release::kPartCountMax && head->bytes > 0;
}

/// What must come of it.
struct Wanted {
  uint64_t count, foreign;
  struct {
    PartState state;
    const File* file;
    Head head;
    size_t begin;  ///< of the data in the file
  } parts[release::kPartCountMax];
};
Wanted wanted;

void expect_parts() {
  std::memset(static_cast<void*>(&wanted), 0, sizeof wanted);
  for (const File& file : std::span(files, file_count)) {
    if (in_folder && file.name[2] != 'p') continue;
    Head head{};
    const bool alone = !in_folder && file_count == 1;
    const size_t magic = sizeof "bitnet-part v1\n" - 1;
    const size_t given = file.count < kHeadBytes ? file.count : kHeadBytes;
    if (alone && (given > file.readable || given < magic ||
                  std::memcmp(file.bytes, "bitnet-part v1\n", magic) != 0)) {
      wanted.count = 1;
      wanted.parts[0] = {PartState::kFound, &file, {1, 1, 0, file.count, whole_digest}, 0};
      continue;
    }
    const bool part = read_head(file, &head) && (wanted.count == 0 || wanted.count == head.count);
    if (part) wanted.count = head.count;
    if (!part || wanted.parts[head.index - 1].state == PartState::kFound) {
      wanted.foreign += 1;
      continue;
    }
    const bool fits = file.count == kHeadBytes + head.bytes;
    wanted.parts[head.index - 1] = {fits ? PartState::kFound : PartState::kDamaged, &file, head,
                                    kHeadBytes};
  }
}

}  // namespace

// The medium.
namespace bitnet::platform {
Result<int> open_folder(int folder, const char* path) {
  must(folder == kAnywhere);
  if (std::strcmp(path, "folder") != 0) return Error{Status::kFileSystem, path, 0, 20};
  return kFolder;
}
Result<int> open_file(int folder, const char* name) {
  must(folder == (in_folder ? kFolder : kAnywhere));
  for (size_t i = 0; i < file_count; ++i) {
    if (std::strcmp(files[i].name, name) != 0) continue;
    must(files[i].opened++ == 0);
    return kFirst + static_cast<int>(i);
  }
  std::abort();
}
void close_file(int descriptor) {
  if (descriptor < kFirst) return;
  must(files[descriptor - kFirst].opened++ == 1);
}
Result<FileFacts> file_facts(int descriptor) {
  must(files[descriptor - kFirst].opened == 1);
  return FileFacts{files[descriptor - kFirst].count, 1};
}
Result<size_t> read_at(int descriptor, uint64_t offset, std::span<uint8_t> buffer) {
  const File& file = files[descriptor - kFirst];
  must(file.opened == 1);
  if (offset >= file.count) return size_t{0};
  const size_t left = file.count - offset;
  const size_t count = left < buffer.size() ? left : buffer.size();
  if (offset + count > file.readable) return Error{Status::kFileSystem, "pread", 0, 5};
  std::memcpy(buffer.data(), file.bytes + offset, count);
  return count;
}
Error list_names(int folder, NameList* list) {
  must(folder == kFolder);
  list->count = 0;
  for (; list->count < file_count; ++list->count) {
    std::memcpy(list->names[list->count], files[list->count].name, sizeof files[0].name);
  }
  return kNoError;
}
Result<int> copy_sealed(int, uint64_t, std::span<uint8_t>) { std::abort(); }
}  // namespace bitnet::platform

namespace {

release::Bundle bundle;

void check_states() {
  must(bundle.part_count == wanted.count && bundle.foreign == wanted.foreign);
  for (size_t i = 0; i < wanted.count; ++i) must(bundle.parts[i].state == wanted.parts[i].state);
}

/// Open is what will be read, and nothing else.
void check_descriptors() {
  for (size_t i = 0; i < file_count; ++i) {
    bool kept = false;
    for (size_t k = 0; k < wanted.count; ++k) {
      kept |= bundle.parts[k].descriptor == kFirst + static_cast<int>(i);
    }
    must(kept == (files[i].opened == 1));
  }
}

/// Gives all bytes of the parts in their order, or the error of the first that cannot be read.
void check_reading(std::span<uint8_t> buffer) {
  size_t total = 0;
  for (size_t i = 0; i < wanted.count; ++i) {
    const auto& part = wanted.parts[i];
    for (size_t at = 0; at < part.head.bytes;) {
      const Result<size_t> got = release::read_next(&bundle, buffer);
      const size_t left = part.head.bytes - at;
      const size_t count = left < buffer.size() ? left : buffer.size();
      must(got.ok() == (part.begin + at + count <= part.file->readable));
      if (!got.ok()) return;
      must(got.value() == count);
      must(std::memcmp(part.file->bytes + part.begin + at, buffer.data(), count) == 0);
      at += count;
      total += count;
    }
  }
  const Result<size_t> end = release::read_next(&bundle, buffer);
  must(end.ok() && end.value() == 0 && total == kWholeBytes);
  fuzz_accepted += 1;
}

void check_explanation(std::span<uint8_t> buffer) {
  const Error reason{Status::kArchiveFrame, "why"};
  const Error told = release::explain_refusal(&bundle, buffer, reason);
  bool damaged = false;
  for (size_t i = 0; i < wanted.count; ++i) {
    auto& part = wanted.parts[i];
    const size_t end = part.begin + part.head.bytes;
    const bool readable = end <= part.file->readable;
    const Text data(part.file->bytes + part.begin, part.head.bytes);
    if (readable && Sha384().add(data).digest() == part.head.data) continue;
    if (part.begin == 0) {
      must(told.status == (readable ? Status::kBundleDigest : Status::kFileSystem));
      return;
    }
    part.state = PartState::kDamaged;
    damaged = true;
  }
  must(told.status == (damaged ? Status::kParts : reason.status));
  check_states();
}

}  // namespace

/// Whether they lie in a folder, how much is read at once, and then the files.
extern "C" int fuzz_one(const uint8_t* data, size_t bytes) {
  if (whole[1] == 0) {
    for (size_t i = 0; i < kWholeBytes; ++i) whole[i] = static_cast<uint8_t>(7 * i + (i >> 5));
    whole_digest = Sha384().add(whole).digest();
  }
  Recipe recipe{data, bytes};
  in_folder = recipe.take(1) & 1;
  uint8_t buffer[512];
  const std::span<uint8_t> some(buffer, 1 + 2 * recipe.take(1));
  file_count = 0;
  while (recipe.left > 0 && file_count < kFilesMax) make_file(&recipe);
  const char* paths[kFilesMax] = {"folder"};
  for (size_t i = 0; i < file_count && !in_folder; ++i) paths[i] = files[i].name;
  const size_t path_count = in_folder ? 1 : file_count;
  expect_parts();
  const Error error = release::open_bundle({paths, path_count}, whole_digest, kWholeBytes, &bundle);
  // Judged from the first to the last, as long as each begins where the one before has ended.
  uint64_t end = 0;
  bool usable = wanted.count > 0;
  for (size_t i = 0; i < wanted.count && usable; ++i) {
    auto& part = wanted.parts[i];
    if (part.state == PartState::kFound && part.head.offset != end)
      part.state = PartState::kDamaged;
    usable = part.state == PartState::kFound;
    end += part.head.bytes;
  }
  check_states();
  check_descriptors();
  const bool complete = usable && end == kWholeBytes;
  must(error.status == (complete ? Status::kOk : usable ? Status::kBundleDigest : Status::kParts));
  if (!complete) return 0;
  check_reading(some);
  check_explanation(some);
  return 0;
}
