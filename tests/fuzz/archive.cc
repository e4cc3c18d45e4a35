// Archive reader: a right archive with edits is accepted only where the edits changed nothing, and
// any frame only where the right archive stands in it. And the decompressor alone, which is
// compiled to count its edges too: any bytes end in an error or in what they announced.
// SPDX-License-Identifier: Apache-2.0
#include "release/archive.h"

#include <cstdlib>
#include <cstring>

#include "platform/fs.h"

using namespace bitnet;

extern "C" {
uint64_t fuzz_accepted = 0;
}

namespace {

void must(bool condition) {
  if (!condition) std::abort();
}

constexpr char kManifest[] = "# stands for a manifest\n";
constexpr size_t kFileBytes[] = {0, 700};
constexpr const char* kNames[] = {"empty", "some.bin"};

/// Bytes in a fixed place: the harness is linked without a C++ library.
struct Bytes {
  uint8_t data[1u << 16];
  size_t count;
};

struct Feed {
  const uint8_t* data;
  size_t count;
  size_t at;
  size_t chunk;
};

size_t give(Feed* feed, uint8_t* out, size_t bytes) {
  const size_t left = feed->count - feed->at;
  size_t count = bytes < left ? bytes : left;
  if (count > feed->chunk) count = feed->chunk;
  std::memcpy(out, feed->data + feed->at, count);
  feed->at += count;
  return count;
}

size_t give_source(void* context, uint8_t* out, size_t bytes) {
  return give(static_cast<Feed*>(context), out, bytes);
}

void put_octal(uint8_t* place, size_t digits, uint64_t value) {
  for (size_t i = digits; i > 0; --i, value /= 8) {
    place[i - 1] = static_cast<uint8_t>('0' + value % 8);
  }
}

/// By another hand than the reader's.
void add_entry(Bytes* out, const char* name, const uint8_t* content, size_t bytes) {
  uint8_t* header = out->data + out->count;
  std::memset(header, 0, 512);
  std::memcpy(header, name, std::strlen(name));
  put_octal(header + 100, 7, 0644);
  put_octal(header + 108, 7, 0);
  put_octal(header + 116, 7, 0);
  put_octal(header + 124, 11, bytes);
  put_octal(header + 136, 11, 0);
  std::memset(header + 148, ' ', 8);
  header[156] = '0';
  std::memcpy(header + 257, "ustar  ", 7);
  uint64_t sum = 0;
  for (size_t i = 0; i < 512; ++i) sum += header[i];
  put_octal(header + 148, 6, sum);
  header[154] = 0;
  const size_t padded = (bytes + 511) / 512 * 512;
  std::memset(header + 512, 0, padded);
  std::memcpy(header + 512, content, bytes);
  out->count += 512 + padded;
}

release::Manifest manifest;
Bytes archive;
Bytes edited;
Bytes frame;
Feed feed;
uint8_t content[2][700];
uint64_t created;
bool right;

void make_archive() {
  const auto* text = reinterpret_cast<const uint8_t*>(kManifest);
  manifest.text = {text, sizeof kManifest - 1};
  add_entry(&archive, "MANIFEST", text, sizeof kManifest - 1);
  for (size_t i = 0; i < 2; ++i) {
    std::memset(content[i], static_cast<int>('a' + i), sizeof content[i]);
    release::ManifestFile& file = manifest.files[i];
    file.name = {reinterpret_cast<const uint8_t*>(kNames[i]), std::strlen(kNames[i])};
    file.bytes = kFileBytes[i];
    file.sha384 = Sha384().add({content[i], kFileBytes[i]}).digest();
    add_entry(&archive, kNames[i], content[i], kFileBytes[i]);
  }
  manifest.file_count = 2;
  std::memset(archive.data + archive.count, 0, 10240 - archive.count);
  archive.count = 10240;
}

/// Edits: two bytes of place, one that is put there; a last byte cuts or extends.
void edit(const uint8_t* data, size_t bytes) {
  edited = archive;
  size_t i = 0;
  for (; i + 3 <= bytes; i += 3) {
    edited.data[static_cast<size_t>(data[i] << 8 | data[i + 1]) % edited.count] = data[i + 2];
  }
  if (i < bytes) edited.count = data[i] & 1 ? edited.count + data[i] : edited.count - data[i];
}

/// One zstd frame with one raw block (RFC 8878, 3.1.1), which announces `announced` bytes.
void make_frame(uint32_t announced) {
  const auto block = static_cast<uint32_t>(edited.count << 3 | 1);  // the last one, raw
  const uint8_t head[] = {0x28, 0xb5, 0x2f, 0xfd, 0xa0};  // one segment, four bytes of size
  std::memcpy(frame.data, head, 5);
  for (size_t i = 0; i < 4; ++i) frame.data[5 + i] = static_cast<uint8_t>(announced >> (8 * i));
  for (size_t i = 0; i < 3; ++i) frame.data[9 + i] = static_cast<uint8_t>(block >> (8 * i));
  std::memcpy(frame.data + 12, edited.data, edited.count);
  frame.count = 12 + edited.count;
}

}  // namespace

// Where the reader gets its bytes from.
namespace bitnet::release {
Result<size_t> read_next(Bundle*, std::span<uint8_t> buffer) {
  return give(&feed, buffer.data(), buffer.size());
}
}  // namespace bitnet::release

// What the reader writes goes nowhere.
namespace bitnet::platform {
Result<int> create_file(int, const char* name, bool fresh) {
  must(fresh && std::strchr(name, '/') == nullptr && name[0] != '.');
  created += 1;
  return 7;
}
void close_file(int) {}
Error reserve_space(int, uint64_t bytes) {
  must(bytes == kFileBytes[created - 1]);
  return kNoError;
}
Error write_at(int, uint64_t offset, std::span<const uint8_t> data) {
  must(offset + data.size() <= kFileBytes[created - 1]);
  right = right && std::memcmp(content[created - 1] + offset, data.data(), data.size()) == 0;
  return kNoError;
}
Error set_mode(int, uint32_t mode) {
  must(mode == 0444 || mode == 0555);
  return kNoError;
}
Error sync_file(int) { return kNoError; }

}  // namespace bitnet::platform

namespace {

uint8_t buffer[4096];
alignas(64) uint8_t memory[kZstdMemoryBytes];

/// Opens and unpacks what is fed; returns whether it was accepted.
bool unpack() {
  created = 0;
  right = true;
  release::Archive reader;
  Error error = release::open_archive(manifest, nullptr, memory, buffer, &reader);
  must(created == 0);
  if (!failed(error)) error = release::unpack_archive(&reader, 3);
  must(created <= 2 && feed.at <= feed.count);
  must(failed(error) || (created == 2 && right));
  fuzz_accepted += !failed(error);
  return !failed(error);
}

void decompress() {
  uint64_t content_bytes = 0;
  BitnetZstd* stream = bitnet_zstd_open(memory, give_source, &feed, &content_bytes);
  int64_t got = stream == nullptr ? 0 : 1;
  for (uint64_t total = 0; got > 0 && total < 1u << 20; total += static_cast<uint64_t>(got)) {
    got = bitnet_zstd_read(stream, buffer, sizeof buffer);
    must(got <= static_cast<int64_t>(sizeof buffer));
  }
  fuzz_accepted += stream != nullptr && got == 0;
}

}  // namespace

/// The first byte chooses: 1 and 3 edits in a raw block, 4 a frame as it comes, 0 no archive.
extern "C" int fuzz_one(const uint8_t* data, size_t bytes) {
  if (archive.count == 0) make_archive();
  if (bytes < 2) return 0;
  const size_t chunk = 1 + data[1] * 4u;
  if (data[0] & 1) {
    edit(data + 2, bytes - 2);
    make_frame(static_cast<uint32_t>(data[0] & 2 ? edited.count : archive.count));
    feed = {frame.data, frame.count, 0, chunk};
    const bool unchanged =
        edited.count == archive.count && std::memcmp(edited.data, archive.data, archive.count) == 0;
    must(unpack() == unchanged);
    return 0;
  }
  feed = {data + 2, bytes - 2, 0, chunk};
  if (data[0] & 4) {
    unpack();
  } else {
    decompress();
  }
  return 0;
}
