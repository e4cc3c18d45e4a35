// The signed container: a statement and the signatures over exactly its bytes.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "release/text.h"

namespace bitnet::release {

inline constexpr size_t kSignaturesMax = 64;
inline constexpr size_t kStatementBytesMax = 1u << 20;
/// No container is longer: 80 bytes of head and at most 6,500 for each signature.
inline constexpr size_t kContainerBytesMax = kStatementBytesMax + 80 + kSignaturesMax * 6500;

/// One signer's two signatures in base64, as they stand in the container.
struct Signature {
  Digest key_id{};
  Text ed25519;
  Text mldsa87;
};

/// Spans point into the file's bytes.
struct Container {
  Text file;
  Text statement;
  size_t signature_count = 0;
  std::array<Signature, kSignaturesMax> signatures{};
};

/// Reads a container; nothing is verified yet (trust.h). A container without signatures is well
/// formed. `subject` names the file in errors. kRelease* with the line, kReleaseRange for a
/// statement above kStatementBytesMax, kReleaseOrder for a key id that is not above the one before.
Error parse_container(Text file, const char* subject, Container* out);

}  // namespace bitnet::release
