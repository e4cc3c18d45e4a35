// Trust roots and public keys: whatever is accepted has roles that its own people can fill.
// SPDX-License-Identifier: Apache-2.0
#include "release/trust.h"
#include "walk.h"

using namespace bitnet;

namespace {

/// Whether a revocation of that key stands among the revoked lines.
bool revoked(const release::TrustRoot& root, const Digest& id) {
  constexpr size_t kHeadBytes = sizeof "revoked " - 1;
  constexpr size_t kLineBytes = kHeadBytes + release::kDigestDigits + 1;
  const Text lines = root.revoked.text;
  for (size_t at = 0; at + kLineBytes <= lines.size(); at += kLineBytes) {
    release::Scanner line(lines.subspan(at + kHeadBytes), "");
    if (line.digest() == id) return true;
  }
  return false;
}

void check_role(const release::TrustRoot& root, const release::RoleKeys& role) {
  uint64_t count = 0;
  for (size_t i = 0; i < release::kKeysMax; ++i) {
    if ((role.keys >> i & 1) == 0) continue;
    count += 1;
    must(i < root.key_count && !revoked(root, root.keys[i].id));
  }
  must(count == role.ids.count() && role.threshold <= count);
}

}  // namespace

extern "C" int fuzz_one(const uint8_t* data, size_t bytes) {
  static release::TrustRoot root;
  static release::Container container;
  auto* buffer = static_cast<uint8_t*>(std::malloc(bytes + (bytes == 0)));
  std::memcpy(buffer, data, bytes);
  if (!failed(release::parse_trust_root({buffer, bytes}, &root))) {
    must(root.key_count >= 1 && root.key_count <= release::kKeysMax);
    for (const release::RoleKeys& role : root.roles) check_role(root, role);
    must(root.roles[0].threshold > 0 && root.roles[1].threshold > 0);
    // Nobody has signed: nothing is ever approved.
    container = {};
    must(failed(release::check_own_root(root, container, "fuzz")));
  }
  if (!failed(release::parse_public_key({buffer, bytes}, "fuzz", &root))) {
    must(root.key_count == 1 && root.roles[1].threshold == 1);
  }
  std::free(buffer);
  return 0;
}
