// MANIFEST, update statement and rollback order: bytes in, values or a named error out.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "release/text.h"

namespace bitnet::release {

inline constexpr size_t kReleaseFilesMax = 64;

struct ManifestFile {
  Text name;
  Digest sha384{};
  uint64_t bytes = 0;
  bool executable = false;  ///< mode 0755, else 0644
};

/// Spans point into `text`. About 10 KiB: keep it in static storage.
struct Manifest {
  Text text;
  Digest sha384{};  ///< of `text`, also where that cannot be read
  Text product;
  Text version;
  Text architecture;
  uint64_t counter = 0;
  uint64_t minimum_counter = 0;  ///< at most counter
  uint64_t selftest_seed = 0;
  size_t file_count = 0;
  std::array<ManifestFile, kReleaseFilesMax> files{};
};

/// Reads a MANIFEST; `out` is meaningful only without an error.
/// kRelease* with the line, kManifestFloor, kManifestFiles (limit = kReleaseFilesMax).
Error parse_manifest(Text text, Manifest* out);

/// The entry of that name, or null.
const ManifestFile* find_file(const Manifest& manifest, const char* name);

/// What `update.sig` signs.
struct UpdateStatement {
  Digest bundle_sha384{};
  uint64_t bundle_bytes = 0;  ///< 0: `bundle - 0`, the files are signed without a bundle
  Manifest manifest;
};

/// kStatementKind where the statement is for something else; lines of errors inside the manifest
/// count from the manifest's first line.
Error parse_update(Text statement, UpdateStatement* out);

struct RollbackOrder {
  Text product;
  uint64_t from = 0;
  uint64_t to = 0;
  Digest manifest_sha384{};
  Text reason;
};

/// kStatementKind, kRelease*; kReleaseRange where `to` is not below `from`.
Error parse_rollback_order(Text statement, RollbackOrder* out);

}  // namespace bitnet::release
