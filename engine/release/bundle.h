// A bundle as one file, or as parts in any order, read in place.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "release/text.h"

namespace bitnet::release {

inline constexpr uint32_t kPartCountMax = 999;
inline constexpr size_t kPartHeadBytes = 512;
inline constexpr size_t kBundleBufferBytes = 256u << 10;

enum class PartState : uint8_t { kMissing, kFound, kDamaged };

struct Part {
  int descriptor = -1;
  PartState state = PartState::kMissing;
  uint64_t head_bytes = 0;  ///< in front of the data in its file
  uint64_t offset = 0;      ///< in the bundle
  uint64_t bytes = 0;
  Digest sha384{};
};

/// Where the bytes of a bundle come from. About 100 KiB: keep it in static storage.
struct Bundle {
  Digest sha384{};  ///< of the whole, as signed
  uint64_t bytes = 0;
  uint32_t part_count = 0;  ///< 1 for a bundle in one file; 0 while no part is found
  uint32_t foreign = 0;     ///< files that are parts of something else, or of nothing
  Part parts[kPartCountMax];
  uint32_t read_part = 0;    ///< where the last read was
  uint64_t read_offset = 0;  ///< of the next byte of read_next
};

/// Opens what the operator named: one bundle, or parts in any order, or folders that hold parts.
/// The files stay open until close_bundle. kFileSystem; kBundleDigest for a file of another length
/// than was signed; kParts (value = parts found, limit = parts in all) with the state of each in
/// `bundle`. Nothing in a part is trusted but as a hint where to look: the whole is hashed.
Error open_bundle(std::span<const char* const> paths, const Digest& sha384, uint64_t bytes,
                  Bundle* bundle);
void close_bundle(Bundle* bundle);

/// Fills `buffer` with what comes next, less only at the end. kFileSystem.
Result<size_t> read_next(Bundle* bundle, std::span<uint8_t> buffer);

/// Hashes everything. kBundleDigest, or kParts where single parts turn out to be damaged.
Error check_bundle(Bundle* bundle, std::span<uint8_t> buffer);

}  // namespace bitnet::release
