// SPDX-License-Identifier: Apache-2.0
#include "release/content.h"

#include <cstring>

namespace bitnet::release {
namespace {

Error check_digest(int file, const char* subject, uint64_t bytes, const Digest& sha384,
                   std::span<uint8_t> buffer) {
  const uint64_t found = BITNET_VALUE(platform::file_facts(file)).bytes;
  const Error wrong{Status::kFileDigest, subject, 0, found, bytes};
  if (found != bytes) return wrong;
  return BITNET_VALUE(hash_file(file, 0, bytes, buffer)) == sha384 ? kNoError : wrong;
}

/// A name that is missing or no regular file is the release's fault; anything else the disk's.
Error absent(const Error& error, const char* subject) {
  const bool missing = error.status == Status::kFileSystem && platform::is_absent(error);
  return missing ? Error{Status::kFileMissing, subject, 0, error.value} : error;
}

Error check_file(int folder, const ManifestFile& file, bool keep, Folder* out) {
  const char* name = Writer(out->name).bytes(file.name).ended();
  const platform::Handle opened(platform::open_file(folder, name));
  if (failed(opened.error())) return absent(opened.error(), name);
  if (keep) {
    out->kept = BITNET_VALUE(platform::copy_sealed(opened, file.bytes, out->buffer));
  }
  return check_digest(keep ? out->kept : opened, name, file.bytes, file.sha384, out->buffer);
}

Error check_names(int folder, const Manifest& manifest, Folder* out) {
  BITNET_TRY(platform::list_names(folder, &out->names));
  if (out->names.left_out != 0) return Error{Status::kFileNotListed, "a longer name"};
  for (uint32_t i = 0; i < out->names.count; ++i) {
    const char* name = out->names.names[i];
    const bool own = std::strcmp(name, "MANIFEST") == 0 || std::strcmp(name, "update.sig") == 0;
    if (!own && find_file(manifest, name) == nullptr) return Error{Status::kFileNotListed, name};
  }
  return kNoError;
}

}  // namespace

Error read_whole(int folder, const char* name, std::span<uint8_t> buffer, Text* out) {
  const platform::Handle file(BITNET_VALUE(platform::open_file(folder, name)));
  const uint64_t bytes = BITNET_VALUE(platform::file_facts(file)).bytes;
  if (bytes > buffer.size()) return Error{Status::kReleaseTooLarge, name, 0, bytes, buffer.size()};
  const Result<size_t> count = platform::read_at(file, 0, buffer);
  *out = buffer.first(count.value());
  return count.error();
}

Result<Digest> hash_file(int file, uint64_t offset, uint64_t bytes, std::span<uint8_t> buffer) {
  Sha384 hash;
  for (size_t count = 1; bytes > 0 && count > 0; bytes -= count, offset += count) {
    count = BITNET_VALUE(
        platform::read_at(file, offset, bytes < buffer.size() ? buffer.first(bytes) : buffer));
    hash.add(buffer.first(count));
  }
  return hash.digest();
}

Error load_container(int folder, const char* name, std::span<uint8_t> buffer, Container* out) {
  Text text;
  BITNET_TRY(read_whole(folder, name, buffer, &text));
  return parse_container(text, name, out);
}

Error load_release(int folder, const char* name, SignedRelease* out) {
  BITNET_TRY(load_container(folder, name, out->file, &out->container));
  return parse_update(out->container.statement, &out->update);
}

Error check_content(int folder, const char* name, uint64_t bytes, const Digest& sha384,
                    std::span<uint8_t> buffer) {
  const platform::Handle file(BITNET_VALUE(platform::open_file(folder, name)));
  return check_digest(file, name, bytes, sha384, buffer);
}

Error check_folder(int folder, const Manifest& manifest, const char* keep, Folder* out) {
  Text text;
  const Error error = read_whole(folder, "MANIFEST", out->buffer, &text);
  if (failed(error)) return absent(error, "MANIFEST");
  if (!same(text, manifest.text)) {
    return Error{Status::kFileDigest, "MANIFEST", 0, text.size(), manifest.text.size()};
  }
  BITNET_TRY(check_names(folder, manifest, out));
  for (size_t i = 0; i < manifest.file_count; ++i) {
    const ManifestFile& entry = manifest.files[i];
    const bool kept = keep != nullptr && same(entry.name, keep);
    BITNET_TRY(check_file(folder, entry, kept, out));
  }
  const bool missing = keep != nullptr && out->kept == platform::kNone;
  return missing ? Error{Status::kFileNotListed, keep} : kNoError;
}

}  // namespace bitnet::release
