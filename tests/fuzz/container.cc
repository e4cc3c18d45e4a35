// Signed containers: what is accepted is the one form of its statement and signatures.
// SPDX-License-Identifier: Apache-2.0
#include "release/trust.h"
#include "walk.h"

using namespace bitnet;

extern "C" {
uint64_t fuzz_accepted = 0;
}

extern "C" int fuzz_one(const uint8_t* data, size_t bytes) {
  static release::Container container;
  auto* buffer = static_cast<uint8_t*>(std::malloc(bytes + (bytes == 0)));
  std::memcpy(buffer, data, bytes);
  const Text input(buffer, bytes);
  if (!failed(release::parse_container(input, "fuzz", &container))) {
    fuzz_accepted += 1;
    must(container.signature_count <= release::kSignaturesMax);
    must(container.statement.size() <= release::kStatementBytesMax);
    Walk walk(input);
    walk.text("bitnet-signatures v1\nstatement-bytes ").number(container.statement.size());
    walk.text("\n").bytes(container.statement);
    for (size_t i = 0; i < container.signature_count; ++i) {
      const release::Signature& each = container.signatures[i];
      walk.text("signature ").hex(each.key_id).text("\ned25519 ").bytes(each.ed25519);
      walk.text("\nml-dsa-87 ").bytes(each.mldsa87).text("\n");
      must(i == 0 || compare(container.signatures[i - 1].key_id, each.key_id) < 0);
      uint8_t decoded[kMldsa87SignatureBytes];
      must(release::decode_base64(each.ed25519, {decoded, kEd25519SignatureBytes}));
      must(release::decode_base64(each.mldsa87, {decoded, kMldsa87SignatureBytes}));
    }
    walk.end();
    must(bytes <= release::kContainerBytesMax);
  }
  std::free(buffer);
  return 0;
}
