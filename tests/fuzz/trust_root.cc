// Trust roots and public keys: whatever is accepted has roles that its own people can fill.
// SPDX-License-Identifier: Apache-2.0
//
// A key's id is its digest, so that no change of a key is accepted, and keys are long. Bytes that
// no text has stand for those of eight keys, in the order of their ids: 0x80 + k for an id, 0x88 +
// k for an
// Ed25519 key, 0x90 + k for one of ML-DSA.
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

namespace {

constexpr size_t kKeys = 8;
constexpr size_t kIdDigits = 96;
constexpr size_t kTextMax = 40000;

struct KeyText {
  uint8_t id[kIdDigits];
  uint8_t ed25519[64];
  uint8_t mldsa87[3456];
};
KeyText keys[kKeys];

void put_hex(uint8_t* out, std::span<const uint8_t> bytes) {
  for (const uint8_t byte : bytes) {
    *out++ = static_cast<uint8_t>("0123456789abcdef"[byte >> 4]);
    *out++ = static_cast<uint8_t>("0123456789abcdef"[byte & 15]);
  }
}

/// Keys of one byte, and of one digit of base64, over and over.
void make_key(uint8_t k, KeyText* out) {
  uint8_t ed25519[32], mldsa87[2592];
  std::memset(ed25519, k + 1, sizeof ed25519);
  for (size_t i = 0; i < sizeof mldsa87; i += 3) {
    mldsa87[i] = static_cast<uint8_t>(k << 2 | k >> 4);
    mldsa87[i + 1] = static_cast<uint8_t>(k << 4 | k >> 2);
    mldsa87[i + 2] = static_cast<uint8_t>(k << 6 | k);
  }
  const char* domain = "bitnet-key-id v1\n";
  Sha384 hash;
  hash.add({reinterpret_cast<const uint8_t*>(domain), std::strlen(domain)});
  put_hex(out->id, hash.add(ed25519).add(mldsa87).digest());
  put_hex(out->ed25519, ed25519);
  std::memset(out->mldsa87, 'A' + k, sizeof out->mldsa87);
}

void make_keys() {
  for (uint8_t k = 0; k < kKeys; ++k) {
    KeyText made;
    make_key(k, &made);
    size_t place = k;
    for (; place > 0 && std::memcmp(made.id, keys[place - 1].id, kIdDigits) < 0; --place) {
      keys[place] = keys[place - 1];
    }
    keys[place] = made;
  }
}

/// The input with the keys in their places, as far as there is room.
size_t expand(std::span<const uint8_t> input, uint8_t* out) {
  size_t count = 0;
  for (const uint8_t byte : input) {
    std::span<const uint8_t> piece(&byte, 1);
    if (byte >= 0x80 && byte < 0x88) piece = keys[byte - 0x80].id;
    if (byte >= 0x88 && byte < 0x90) piece = keys[byte - 0x88].ed25519;
    if (byte >= 0x90 && byte < 0x98) piece = keys[byte - 0x90].mldsa87;
    if (count + piece.size() > kTextMax) break;
    std::memcpy(out + count, piece.data(), piece.size());
    count += piece.size();
  }
  return count;
}

}  // namespace

extern "C" {
uint64_t fuzz_accepted = 0;
}

extern "C" int fuzz_one(const uint8_t* data, size_t bytes) {
  static release::TrustRoot root;
  static release::Container container;
  static uint8_t text[kTextMax];
  if (keys[0].id[0] == 0) make_keys();
  bytes = expand({data, bytes}, text);
  auto* buffer = static_cast<uint8_t*>(std::malloc(bytes + (bytes == 0)));
  std::memcpy(buffer, text, bytes);
  if (!failed(release::parse_trust_root({buffer, bytes}, &root))) {
    fuzz_accepted += 1;
    must(root.key_count >= 1 && root.key_count <= release::kKeysMax);
    for (const release::RoleKeys& role : root.roles) check_role(root, role);
    must(root.roles[0].threshold > 0 && root.roles[1].threshold > 0);
    // Nobody has signed: nothing is ever approved.
    container = {};
    must(failed(release::check_own_root(root, container, "fuzz")));
  }
  if (!failed(release::parse_public_key({buffer, bytes}, "fuzz", &root))) {
    fuzz_accepted += 1;
    must(root.key_count == 1 && root.roles[1].threshold == 1);
  }
  std::free(buffer);
  return 0;
}
