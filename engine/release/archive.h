// The tar stream of a bundle: every byte but the files' own follows from the signed manifest.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "release/manifest.h"

namespace bitnet::release {

/// Bytes of the whole stream, which the frame of the bundle must announce.
uint64_t archive_bytes(const Manifest& manifest);

/// Where the stream comes from: gives up to `bytes` bytes and returns their count, 0 at the end, or
/// a negative number for a failure that it keeps to itself.
using StreamRead = int64_t (*)(void* context, uint8_t* out, size_t bytes);

/// Writes the files of a stream into an empty folder. Each header is made from the manifest and
/// compared, so nothing in the archive is ever interpreted: neither a name, nor a size, nor a type.
/// Each file is hashed while it is written, then made read-only and synced.
///
/// kArchiveEntry (where = byte in the stream, value = entry, 0 for MANIFEST); kArchiveLength for an
/// early end or bytes behind the end; kReleaseFile for content that is not what was signed;
/// kArchiveFrame where `read` fails; kFileSystem.
Error unpack_archive(const Manifest& manifest, int folder, StreamRead read, void* context,
                     std::span<uint8_t> buffer);

}  // namespace bitnet::release
