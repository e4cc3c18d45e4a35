// Archive reader: a right archive with edits is accepted only where the edits changed nothing. And
// the decompressor in front of it: any bytes end in an error or in what they announced.
// SPDX-License-Identifier: Apache-2.0
#include "release/archive.h"

#include <cstdlib>
#include <cstring>
#include <string>

#include "platform/fs.h"
#include "platform/os.h"

using namespace bitnet;

namespace {

void must(bool condition) {
  if (!condition) std::abort();
}

constexpr char kManifest[] = "# stands for a manifest\n";
constexpr size_t kFileBytes[] = {0, 700};
constexpr const char* kNames[] = {"empty", "some.bin"};

struct Feed {
  std::string bytes;
  size_t at = 0;
  size_t chunk = 0;
};

size_t give(Feed* feed, uint8_t* out, size_t bytes) {
  const size_t left = feed->bytes.size() - feed->at;
  size_t count = bytes < left ? bytes : left;
  if (count > feed->chunk) count = feed->chunk;
  std::memcpy(out, feed->bytes.data() + feed->at, count);
  feed->at += count;
  return count;
}

int64_t give_stream(void* context, uint8_t* out, size_t bytes) {
  return static_cast<int64_t>(give(static_cast<Feed*>(context), out, bytes));
}
size_t give_source(void* context, uint8_t* out, size_t bytes) {
  return give(static_cast<Feed*>(context), out, bytes);
}

void put_octal(std::string* header, size_t place, size_t digits, uint64_t value) {
  for (size_t i = digits; i > 0; --i, value /= 8) {
    (*header)[place + i - 1] = static_cast<char>('0' + value % 8);
  }
}

/// By another hand than the reader's.
std::string entry(const std::string& name, const std::string& content) {
  std::string header(512, '\0');
  header.replace(0, name.size(), name);
  put_octal(&header, 100, 7, 0644);
  put_octal(&header, 108, 7, 0);
  put_octal(&header, 116, 7, 0);
  put_octal(&header, 124, 11, content.size());
  put_octal(&header, 136, 11, 0);
  header.replace(148, 8, 8, ' ');
  header[156] = '0';
  header.replace(257, 7, "ustar  ");
  uint64_t sum = 0;
  for (const char byte : header) sum += static_cast<uint8_t>(byte);
  put_octal(&header, 148, 6, sum);
  header[154] = '\0';
  return header + content + std::string((512 - content.size() % 512) % 512, '\0');
}

release::Manifest manifest;
std::string archive;
uint64_t created;

void make_archive() {
  manifest.text = {reinterpret_cast<const uint8_t*>(kManifest), sizeof kManifest - 1};
  archive = entry("MANIFEST", kManifest);
  for (size_t i = 0; i < 2; ++i) {
    const std::string content(kFileBytes[i], static_cast<char>('a' + i));
    release::ManifestFile& file = manifest.files[i];
    file.name = {reinterpret_cast<const uint8_t*>(kNames[i]), std::strlen(kNames[i])};
    file.bytes = content.size();
    bitnet_sha384(reinterpret_cast<const uint8_t*>(content.data()), content.size(),
                  file.sha384.data());
    archive += entry(kNames[i], content);
  }
  manifest.file_count = 2;
  archive += std::string(10240 - archive.size() % 10240, '\0');
}

/// Edits: two bytes of place, one that is put there; the last two bytes of input cut or extend.
std::string edited(const uint8_t* data, size_t bytes) {
  std::string out = archive;
  size_t i = 0;
  for (; i + 3 <= bytes; i += 3) {
    const size_t place = static_cast<size_t>(data[i] << 8 | data[i + 1]) % out.size();
    out[place] = static_cast<char>(data[i + 2]);
  }
  if (i < bytes && data[i] > 0) out.resize(out.size() + (data[i] & 1 ? data[i] : -data[i]));
  return out;
}

}  // namespace

// What the reader writes goes nowhere.
namespace bitnet::platform {
Result<int> create_file(int, const char* name, bool fresh) {
  must(fresh && std::strchr(name, '/') == nullptr && name[0] != '.');
  created += 1;
  return 7;
}
void close_file(int) {}
Error write_at(int, uint64_t, std::span<const uint8_t>) { return kNoError; }
Error set_mode(int, uint32_t mode) {
  must(mode == 0444 || mode == 0555);
  return kNoError;
}
Error sync_file(int) { return kNoError; }

// Without a second thread: one run is like the next.
Result<ParkPipe> make_park_pipe() { return Error{Status::kSystem}; }
void close_park_pipe(const ParkPipe&) {}
void park_wait(const ParkPipe&) {}
void park_wake(const ParkPipe&) {}
Result<Thread> start_thread(void* (*)(void*), void*) { return Error{Status::kNoThread}; }
void join_thread(const Thread&) {}
}  // namespace bitnet::platform

extern "C" int fuzz_one(const uint8_t* data, size_t bytes) {
  static uint8_t buffer[4096];
  alignas(64) static uint8_t memory[kZstdMemoryBytes];
  if (archive.empty()) make_archive();
  if (bytes < 2) return 0;
  const size_t chunk = 1 + data[1] * 4u;
  if (data[0] & 1) {
    Feed feed{edited(data + 2, bytes - 2), 0, chunk};
    const bool unchanged = feed.bytes == archive;
    created = 0;
    const Error error = release::unpack_archive(manifest, 3, give_stream, &feed, std::span(buffer));
    must(failed(error) != unchanged);
    must(created <= 3 && feed.at <= archive.size() + 1);
    return 0;
  }
  Feed feed{std::string(reinterpret_cast<const char*>(data + 2), bytes - 2), 0, chunk};
  uint64_t content_bytes = 0;
  BitnetZstd* stream = bitnet_zstd_open(memory, give_source, &feed, &content_bytes);
  int64_t got = stream == nullptr ? 0 : 1;
  for (uint64_t total = 0; got > 0 && total < 1u << 20; total += static_cast<uint64_t>(got)) {
    got = bitnet_zstd_read(stream, buffer, sizeof buffer);
    must(got <= static_cast<int64_t>(sizeof buffer));
  }
  return 0;
}
