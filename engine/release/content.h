// Files on a disk held against what is signed.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "platform/fs.h"
#include "release/manifest.h"
#include "release/trust.h"

namespace bitnet::release {

// Files are named beneath `folder`, or are the operator's where that is platform::kAnywhere.

/// Reads a whole file of at most `buffer.size()` bytes. kReleaseTooLarge.
Error read_whole(int folder, const char* name, std::span<uint8_t> buffer, Text* out);

/// Reads a signed container into `buffer`. As parse_container.
Error load_container(int folder, const char* name, std::span<uint8_t> buffer, Container* out);

/// What is signed of a release, and by whom. About 1.5 MiB: keep it in static storage.
struct SignedRelease {
  Container container;
  UpdateStatement update;
  Approvals approvals;
  uint8_t file[kContainerBytesMax];
};
/// Reads `update.sig`; nothing is verified yet. As parse_container and parse_update.
Error load_release(int folder, const char* name, SignedRelease* out);

/// SHA-384 of a part of a file, or of as much of that as there is; read in pieces of `buffer`.
Result<Digest> hash_file(int file, uint64_t offset, uint64_t bytes, std::span<uint8_t> buffer);

/// A file must have this size and this digest: kFileDigest. Reads at most so many bytes, in pieces
/// of `buffer`.
Error check_content(int folder, const char* name, uint64_t bytes, const Digest& sha384,
                    std::span<uint8_t> buffer);

/// What looking at a folder needs: static storage, 1 MiB.
struct Folder {
  uint8_t buffer[1u << 20];
  platform::NameList names;
  uint8_t name[kNameBytesMax + 1];  ///< of the file that is looked at; errors point to it
  int kept = platform::kNone;
};

/// Holds every file of an installed release against the manifest, MANIFEST itself too, and sees
/// that nothing else is there. kFileMissing, kFileDigest, kFileNotListed. The file `keep`, if not
/// null, is copied first, sealed, and then verified: `out->kept` is the copy's descriptor.
Error check_folder(int folder, const Manifest& manifest, const char* keep, Folder* out);

}  // namespace bitnet::release
