// The tar stream of a bundle: every byte but the files' own follows from the signed manifest.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "release/bundle.h"
#include "release/manifest.h"

namespace bitnet::release {

/// A bundle that is being unpacked, and how far. The bundle is read once, from its begin to its
/// end: nothing is believed because it was right before.
struct Archive {
  const Manifest* manifest = nullptr;
  Bundle* bundle = nullptr;
  BitnetZstd* stream = nullptr;
  std::span<uint8_t> buffer;
  uint64_t offset = 0;            ///< in the tar stream
  uint64_t entry = 0;             ///< 0 for MANIFEST
  Error source{};                 ///< why the bundle could not be read
  const char* name = "MANIFEST";  ///< of that entry; errors point to it
  uint8_t name_place[kNameBytesMax + 1] = {};
};

/// Opens a bundle and reads as far as its first entry, which must be the signed manifest: before
/// that nothing has to be written. `zstd` (kZstdMemoryBytes, aligned to 64) and `buffer` are its
/// own until the end. Errors as below.
Error open_archive(const Manifest& manifest, Bundle* bundle, uint8_t* zstd,
                   std::span<uint8_t> buffer, Archive* out);

/// Writes the files of the manifest into an empty folder, and reads to the very end. Each header is
/// made from the manifest and compared, so nothing in the archive is ever interpreted: neither a
/// name, nor a size, nor a type. Each file has its space before its content is read, is hashed
/// while it is written, then made read-only and synced. Without an error everything was as signed;
/// with one, what lies in the folder is worth nothing.
///
/// kArchiveEntry (where = byte in the stream, value = entry); kArchiveLength for an early end or
/// bytes behind the end; kReleaseFile for content that is not what was signed; kArchiveFrame for
/// what is not one zstd frame; kFileSystem. The subject is the entry's name.
Error unpack_archive(Archive* archive, int folder);

}  // namespace bitnet::release
