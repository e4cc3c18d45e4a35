// Signed containers and the counting of their signatures under a root whose keys are not theirs.
// SPDX-License-Identifier: Apache-2.0
#include "release/container.h"

#include <cstdlib>
#include <cstring>
#include <string>

using namespace bitnet;

namespace {

void must(bool condition) {
  if (!condition) std::abort();
}

std::string text(release::Text part) { return {part.begin(), part.end()}; }

std::string hex(const release::Digest& digest) {
  std::string out;
  for (const uint8_t byte : digest) {
    out += "0123456789abcdef"[byte >> 4];
    out += "0123456789abcdef"[byte & 15];
  }
  return out;
}

}  // namespace

extern "C" int fuzz_one(const uint8_t* data, size_t bytes) {
  static release::Container container;
  auto* buffer = static_cast<uint8_t*>(std::malloc(bytes + (bytes == 0)));
  std::memcpy(buffer, data, bytes);
  const release::Text input(buffer, bytes);
  if (!failed(release::parse_container(input, "fuzz", &container))) {
    std::string out = "bitnet-signatures v1\nstatement-bytes " +
                      std::to_string(container.statement.size()) + "\n" + text(container.statement);
    must(container.signature_count <= release::kSignaturesMax);
    must(container.statement.size() <= release::kStatementBytesMax);
    for (size_t i = 0; i < container.signature_count; ++i) {
      const release::Signature& each = container.signatures[i];
      out += "signature " + hex(each.key_id) + "\ned25519 " + text(each.ed25519) + "\nml-dsa-87 " +
             text(each.mldsa87) + "\n";
      must(i == 0 || release::compare(container.signatures[i - 1].key_id, each.key_id) < 0);
      uint8_t decoded[kMldsa87SignatureBytes];
      must(release::decode_base64(each.ed25519, {decoded, kEd25519SignatureBytes}));
      must(release::decode_base64(each.mldsa87, {decoded, kMldsa87SignatureBytes}));
    }
    must(out == text(input));
    must(bytes <= release::kContainerBytesMax);
  }
  std::free(buffer);
  return 0;
}
