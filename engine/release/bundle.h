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
  uint32_t read_part = 0;    ///< what is read next: a part …
  uint64_t read_offset = 0;  ///< … and a byte of its data
};

/// Opens what the operator named: one bundle, or parts in any order, or folders that hold parts.
/// The files stay open until the program ends. kFileSystem; kBundleDigest for a file of another
/// length than was signed; kParts (value = parts found, limit = parts in all) with the state of
/// each in `bundle`. Nothing in a part is trusted but as a hint where to look.
Error open_bundle(std::span<const char* const> paths, const Digest& sha384, uint64_t bytes,
                  Bundle* bundle);

/// Reads what comes next, at most to the end of a part; 0 at the end, also of a part that was cut
/// since it was opened. kFileSystem.
Result<size_t> read_next(Bundle* bundle, std::span<uint8_t> buffer);

/// Tells why content was not right, for which everything is read once more. kParts where parts are
/// not what their own heads say, or cannot be read; kBundleDigest where a bundle in one file is not
/// the signed one, with the subject of `reason`; kFileSystem where that cannot be read; else
/// `reason` itself.
Error explain_refusal(Bundle* bundle, std::span<uint8_t> buffer, const Error& reason);

}  // namespace bitnet::release
