// SPDX-License-Identifier: Apache-2.0
#include "release/container.h"

namespace bitnet::release {

Error parse_container(Text file, const char* subject, Container* out) {
  *out = Container{};
  out->file = file;
  Scanner scanner(file, subject);
  scanner.expect("bitnet-signatures v1\nstatement-bytes ");
  const uint64_t bytes = scanner.number();
  if (bytes > kStatementBytesMax) scanner.fail(Status::kReleaseRange, bytes, kStatementBytesMax);
  scanner.end_line();
  out->statement = scanner.take(bytes);
  if (scanner.ok() && (bytes == 0 || out->statement.back() != '\n')) {
    scanner.fail(Status::kReleaseSyntax);
  }
  while (scanner.ok() && !scanner.at_end()) {
    if (!scanner.has_room(out->signature_count, kSignaturesMax)) break;
    Signature& signature = out->signatures[out->signature_count];
    scanner.expect("signature ");
    signature.key_id = scanner.digest();
    if (out->signature_count > 0 &&
        compare(signature.key_id, out->signatures[out->signature_count - 1].key_id) <= 0) {
      scanner.fail(Status::kReleaseOrder);
    }
    std::array<uint8_t, kMldsa87SignatureBytes> decoded;
    scanner.expect("\ned25519 ");
    signature.ed25519 = scanner.base64(std::span(decoded).first(kEd25519SignatureBytes));
    scanner.expect("\nml-dsa-87 ");
    signature.mldsa87 = scanner.base64(decoded);
    scanner.end_line();
    ++out->signature_count;
  }
  return scanner.error();
}

}  // namespace bitnet::release
