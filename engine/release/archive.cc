// SPDX-License-Identifier: Apache-2.0
#include "release/archive.h"

#include <cstring>

#include "platform/fs.h"

namespace bitnet::release {
namespace {

constexpr size_t kBlockBytes = 512;
constexpr size_t kRecordBytes = 10240;
constexpr uint64_t kOctalBytesMax = 1ull << 33;  // what eleven octal digits hold

uint64_t padded(uint64_t bytes, uint64_t unit) { return (bytes + unit - 1) / unit * unit; }

void put_octal(uint8_t* place, size_t digits, uint64_t value) {
  for (size_t i = digits; i > 0; --i, value >>= 3) {
    place[i - 1] = static_cast<uint8_t>('0' + (value & 7));
  }
}

/// The 512 bytes of docs/formats/release.md, "Bundle".
void make_header(const char* name, bool executable, uint64_t bytes, uint8_t* header) {
  std::memset(header, 0, kBlockBytes);
  std::memcpy(header, name, std::strlen(name));
  put_octal(header + 100, 7, executable ? 0755 : 0644);
  put_octal(header + 108, 7, 0);  // user
  put_octal(header + 116, 7, 0);  // group
  if (bytes < kOctalBytesMax) {
    put_octal(header + 124, 11, bytes);
  } else {
    header[124] = 0x80;
    for (int i = 0; i < 8; ++i) header[135 - i] = static_cast<uint8_t>(bytes >> (8 * i));
  }
  put_octal(header + 136, 11, 0);  // time
  std::memset(header + 148, ' ', 8);
  header[156] = '0';
  std::memcpy(header + 257, "ustar  ", 8);
  uint32_t sum = 0;
  for (size_t i = 0; i < kBlockBytes; ++i) sum += header[i];
  put_octal(header + 148, 6, sum);
  header[154] = 0;
}

/// Bytes of the whole stream, which the frame of the bundle must announce.
uint64_t stream_bytes(const Manifest& manifest) {
  uint64_t bytes = kBlockBytes + padded(manifest.text.size(), kBlockBytes);
  for (size_t i = 0; i < manifest.file_count; ++i) {
    bytes += kBlockBytes + padded(manifest.files[i].bytes, kBlockBytes);
  }
  return padded(bytes + 2 * kBlockBytes, kRecordBytes);
}

size_t read_source(void* context, uint8_t* buffer, size_t bytes) {
  Archive* archive = static_cast<Archive*>(context);
  const Result<size_t> got = read_next(archive->bundle, {buffer, bytes});
  archive->source = got.error();
  return got.ok() ? got.value() : kZstdSourceFailed;
}

/// Up to `bytes` bytes of the stream, at least one.
Result<Text> next(Archive* archive, uint64_t bytes) {
  const std::span<uint8_t> buffer = archive->buffer;
  const int64_t got = bitnet_zstd_read(archive->stream, buffer.data(),
                                       bytes < buffer.size() ? bytes : buffer.size());
  if (failed(archive->source)) return archive->source;
  if (got < 0) return Error{Status::kArchiveFrame, archive->name, archive->offset};
  if (got == 0) return Error{Status::kArchiveLength, archive->name, archive->offset};
  archive->offset += static_cast<uint64_t>(got);
  return Text(buffer.first(static_cast<size_t>(got)));
}

/// Reads exactly these bytes; zeros where `expected` is null.
Error expect(Archive* archive, const uint8_t* expected, uint64_t bytes) {
  for (uint64_t done = 0; done < bytes;) {
    const Text piece = BITNET_VALUE(next(archive, bytes - done));
    for (const uint8_t byte : piece) {
      const uint8_t wanted = expected == nullptr ? 0 : expected[done];
      if (byte != wanted) {
        return Error{Status::kArchiveEntry, archive->name, archive->offset, archive->entry};
      }
      done += 1;
    }
  }
  return kNoError;
}

Error expect_header(Archive* archive, bool executable, uint64_t bytes) {
  uint8_t header[kBlockBytes];
  make_header(archive->name, executable, bytes, header);
  return expect(archive, header, sizeof header);
}

Error expect_padding(Archive* archive, uint64_t bytes) {
  return expect(archive, nullptr, padded(bytes, kBlockBytes) - bytes);
}

/// One entry: header, content, padding. Leaves the file read-only and on the disk.
Error unpack_entry(Archive* archive, int folder, const ManifestFile& wanted) {
  BITNET_TRY(expect_header(archive, wanted.executable, wanted.bytes));
  const platform::Handle file(BITNET_VALUE(platform::create_file(folder, archive->name, true)));
  BITNET_TRY(platform::reserve_space(file, wanted.bytes));
  Sha384 hash;
  for (uint64_t done = 0; done < wanted.bytes;) {
    const Text piece = BITNET_VALUE(next(archive, wanted.bytes - done));
    hash.add(piece);
    BITNET_TRY(platform::write_at(file, done, piece));
    done += piece.size();
  }
  if (hash.digest() != wanted.sha384) {
    return Error{Status::kReleaseFile, archive->name, 0, archive->entry};
  }
  BITNET_TRY(platform::set_mode(file, wanted.executable ? 0555 : 0444));
  BITNET_TRY(platform::sync_file(file));
  return expect_padding(archive, wanted.bytes);
}

}  // namespace

Error open_archive(const Manifest& manifest, Bundle* bundle, uint8_t* zstd,
                   std::span<uint8_t> buffer, Archive* out) {
  *out = Archive{.manifest = &manifest, .bundle = bundle, .buffer = buffer};
  uint64_t content_bytes = 0;
  out->stream = bitnet_zstd_open(zstd, read_source, out, &content_bytes);
  if (failed(out->source)) return out->source;
  if (out->stream == nullptr) return Error{Status::kArchiveFrame, out->name};
  if (content_bytes != stream_bytes(manifest)) {
    return Error{Status::kArchiveLength, out->name, content_bytes};
  }
  BITNET_TRY(expect_header(out, false, manifest.text.size()));
  BITNET_TRY(expect(out, manifest.text.data(), manifest.text.size()));
  return expect_padding(out, manifest.text.size());
}

Error unpack_archive(Archive* archive, int folder) {
  const Manifest& manifest = *archive->manifest;
  while (archive->entry < manifest.file_count) {
    const ManifestFile& file = manifest.files[archive->entry++];
    archive->name = Writer(archive->name_place).bytes(file.name).ended();
    BITNET_TRY(unpack_entry(archive, folder, file));
  }
  BITNET_TRY(expect(archive, nullptr, stream_bytes(manifest) - archive->offset));
  const Result<Text> more = next(archive, 1);
  if (more.ok()) return Error{Status::kArchiveLength, archive->name, archive->offset};
  return more.error().status == Status::kArchiveLength ? kNoError : more.error();
}

}  // namespace bitnet::release
