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

/// The stream, and how far it has been read.
struct Stream {
  StreamRead read;
  void* context;
  std::span<uint8_t> buffer;
  uint64_t offset = 0;
  uint64_t entry = 0;

  /// Up to `bytes` bytes into the buffer; at least one.
  Result<Text> next(uint64_t bytes) {
    const int64_t got = read(context, buffer.data(), bytes < buffer.size() ? bytes : buffer.size());
    if (got < 0) return Error{Status::kArchiveFrame, "bundle", offset};
    if (got == 0) return Error{Status::kArchiveLength, "bundle", offset};
    offset += static_cast<uint64_t>(got);
    return Text(buffer.first(static_cast<size_t>(got)));
  }

  /// Reads exactly these bytes; zeros where `expected` is null.
  Error expect(const uint8_t* expected, uint64_t bytes) {
    for (uint64_t done = 0; done < bytes;) {
      const Result<Text> piece = next(bytes - done);
      if (!piece.ok()) return piece.error();
      for (const uint8_t byte : piece.value()) {
        const uint8_t wanted = expected == nullptr ? 0 : expected[done];
        if (byte != wanted) return Error{Status::kArchiveEntry, "bundle", offset, entry};
        done += 1;
      }
    }
    return kNoError;
  }
};

/// One entry: header, content, padding. Leaves the file read-only and on the disk.
Error unpack_entry(Stream* stream, int folder, const char* name, bool executable, uint64_t bytes,
                   const Digest& sha384) {
  uint8_t header[kBlockBytes];
  make_header(name, executable, bytes, header);
  BITNET_TRY(stream->expect(header, sizeof header));
  const platform::Handle file(platform::create_file(folder, name, true));
  BITNET_TRY(file.error());
  BitnetDigestState state;
  bitnet_sha384_init(&state);
  for (uint64_t done = 0; done < bytes;) {
    const Result<Text> piece = stream->next(bytes - done);
    if (!piece.ok()) return piece.error();
    bitnet_sha384_update(&state, piece.value().data(), piece.value().size());
    BITNET_TRY(platform::write_at(file, done, piece.value()));
    done += piece.value().size();
  }
  Digest digest;
  bitnet_sha384_final(&state, digest.data());
  if (digest != sha384) return Error{Status::kReleaseFile, "bundle", 0, stream->entry};
  BITNET_TRY(platform::set_mode(file, executable ? 0555 : 0444));
  BITNET_TRY(platform::sync_file(file));
  return stream->expect(nullptr, padded(bytes, kBlockBytes) - bytes);
}

}  // namespace

uint64_t archive_bytes(const Manifest& manifest) {
  uint64_t bytes = kBlockBytes + padded(manifest.text.size(), kBlockBytes);
  for (size_t i = 0; i < manifest.file_count; ++i) {
    bytes += kBlockBytes + padded(manifest.files[i].bytes, kBlockBytes);
  }
  return padded(bytes + 2 * kBlockBytes, kRecordBytes);
}

Error unpack_archive(const Manifest& manifest, int folder, StreamRead read, void* context,
                     std::span<uint8_t> buffer) {
  Stream stream{read, context, buffer};
  Digest digest;
  bitnet_sha384(manifest.text.data(), manifest.text.size(), digest.data());
  BITNET_TRY(unpack_entry(&stream, folder, "MANIFEST", false, manifest.text.size(), digest));
  for (size_t i = 0; i < manifest.file_count; ++i) {
    const ManifestFile& file = manifest.files[i];
    char name[kNameBytesMax + 1] = {};
    std::memcpy(name, file.name.data(), file.name.size());
    stream.entry = i + 1;
    BITNET_TRY(unpack_entry(&stream, folder, name, file.executable, file.bytes, file.sha384));
  }
  BITNET_TRY(stream.expect(nullptr, archive_bytes(manifest) - stream.offset));
  const int64_t more = read(context, buffer.data(), 1);
  if (more < 0) return Error{Status::kArchiveFrame, "bundle", stream.offset};
  return more == 0 ? kNoError : Error{Status::kArchiveLength, "bundle", stream.offset};
}

}  // namespace bitnet::release
