// SPDX-License-Identifier: Apache-2.0
#include "release/trust.h"

#include <bit>
#include <cstring>

namespace bitnet::release {
namespace {

#include "release/known_answers.inc"

constexpr char kSubject[] = "trust root";
constexpr size_t kNoKey = kKeysMax;

Digest key_id(const Key& key) {
  return Sha384().add(text_of("bitnet-key-id v1\n")).add(key.ed25519).add(key.mldsa87).digest();
}

size_t find_key(const TrustRoot& root, const Digest& id) {
  for (size_t i = 0; i < root.key_count; ++i) {
    if (root.keys[i].id == id) return i;
  }
  return kNoKey;
}

bool is_revoked(const TrustRoot& root, const Digest& id) {
  for (size_t i = 0; i < root.revoked.count(); ++i) {
    if (root.revoked.at(i) == id) return true;
  }
  return false;
}

/// Reads ids in increasing order, each between two words, for as long as they go on.
IdList read_ids(Scanner& scanner, const char* before, const char* behind, size_t count_max) {
  const Text begin = scanner.rest();
  const size_t word_bytes = std::strlen(before);
  Digest last{};
  for (size_t count = 0; scanner.accept(before); ++count) {
    if (!scanner.has_room(count, count_max)) break;
    const Digest id = scanner.digest();
    if (count > 0 && compare(id, last) <= 0) scanner.fail(Status::kReleaseOrder);
    last = id;
    scanner.expect(behind);
  }
  if (!scanner.ok()) return IdList{};
  return IdList{begin.first(begin.size() - scanner.rest().size()), word_bytes,
                word_bytes + kDigestDigits + std::strlen(behind)};
}

/// ` M KEY-ID …` behind the name of a role.
void read_role(Scanner& scanner, RoleKeys* role) {
  role->line = scanner.line();
  role->threshold = scanner.number();
  role->ids = read_ids(scanner, " ", "", kKeysMax);
  scanner.end_line();
}

/// Name, custodian and both halves of a key, with the words between them.
void read_halves(Scanner& scanner, const char* custodian, const char* ed25519, const char* mldsa87,
                 Key* key) {
  key->name = scanner.name();
  scanner.expect(custodian);
  key->custodian = scanner.name();
  scanner.expect(ed25519);
  scanner.hex(key->ed25519);
  scanner.expect(mldsa87);
  scanner.base64(key->mldsa87);
}

/// A line `key …`: its id must be that of its halves, and no other key may hold one of them.
void read_key(Scanner& scanner, TrustRoot* out) {
  if (!scanner.has_room(out->key_count, kKeysMax)) return;
  Key& key = out->keys[out->key_count];
  key.id = scanner.digest();
  scanner.expect(" ");
  read_halves(scanner, " ", " ", " ", &key);
  if (scanner.ok() && key_id(key) != key.id) scanner.fail(Status::kRootKeyId);
  if (out->key_count > 0 && compare(key.id, out->keys[out->key_count - 1].id) <= 0) {
    scanner.fail(Status::kReleaseOrder);
  }
  for (size_t i = 0; i < out->key_count; ++i) {
    const Key& other = out->keys[i];
    if (key.ed25519 == other.ed25519 || key.mldsa87 == other.mldsa87) {
      scanner.fail(Status::kRootKeyShared);
    }
  }
  scanner.end_line();
  ++out->key_count;
}

bool has_key(uint64_t keys, size_t index) { return (keys >> index & 1) != 0; }

/// Different custodians among a set of keys.
size_t count_custodians(const TrustRoot& root, uint64_t keys) {
  size_t count = 0;
  for (size_t i = 0; i < root.key_count; ++i) {
    bool first = has_key(keys, i);
    for (size_t j = 0; j < i; ++j) {
      first &= !has_key(keys, j) || !same(root.keys[i].custodian, root.keys[j].custodian);
    }
    count += first;
  }
  return count;
}

/// Turns the ids of a role into keys, which must exist, be valid, and suffice for the threshold.
Error resolve_role(const TrustRoot& root, RoleKeys* role) {
  for (size_t i = 0; i < role->ids.count(); ++i) {
    const size_t index = find_key(root, role->ids.at(i));
    if (index == kNoKey) return Error{Status::kRootKeyMissing, kSubject, role->line, i + 1};
    if (is_revoked(root, role->ids.at(i))) {
      return Error{Status::kRootKeyRevoked, kSubject, role->line, i + 1};
    }
    role->keys |= uint64_t{1} << index;
  }
  const size_t people = count_custodians(root, role->keys);
  if (role->threshold == 0 || role->threshold > people) {
    return Error{Status::kRootThreshold, kSubject, role->line, role->threshold, people};
  }
  return kNoError;
}

/// Both halves over the statement.
bool verify(const Key& key, const Signature& signature, Text statement) {
  std::array<uint8_t, kEd25519SignatureBytes> ed25519;
  std::array<uint8_t, kMldsa87SignatureBytes> mldsa87;
  return decode_base64(signature.ed25519, ed25519) && decode_base64(signature.mldsa87, mldsa87) &&
         bitnet_ed25519_verify(key.ed25519.data(), ed25519.data(), statement.data(),
                               statement.size()) &&
         bitnet_mldsa87_verify(key.mldsa87.data(), mldsa87.data(), statement.data(),
                               statement.size());
}

/// The most telling reason why a threshold is not met.
Status shortfall(const Approval& approval) {
  if (approval.invalid > 0) return Status::kSignatureInvalid;
  if (approval.revoked > 0) return Status::kKeyRevoked;
  const int signers = std::popcount(approval.signers);
  if (static_cast<uint64_t>(signers) >= approval.threshold) return Status::kCustodianTwice;
  const bool none = signers == 0 && approval.other_role + approval.unknown > 0;
  return none ? Status::kSignersUnknown : Status::kSignaturesTooFew;
}

template <typename Hash>
bool digest_known(const char* known) {
  Digest expected;
  return decode_base64(text_of(known), expected) && Hash().add(text_of("abc")).digest() == expected;
}

template <size_t kKeyBytes, size_t kSignatureBytes>
bool signature_known(bool (*verify)(const uint8_t*, const uint8_t*, const uint8_t*, size_t),
                     const char* key_text, const char* signature_text, const char* message_text) {
  std::array<uint8_t, kKeyBytes> key;
  std::array<uint8_t, kSignatureBytes> signature;
  const Text message = text_of(message_text);
  if (!decode_base64(text_of(key_text), key)) return false;
  if (!decode_base64(text_of(signature_text), signature)) return false;
  if (!verify(key.data(), signature.data(), message.data(), message.size())) return false;
  signature[0] ^= 1;
  return !verify(key.data(), signature.data(), message.data(), message.size());
}

}  // namespace

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

Error parse_trust_root(Text statement, TrustRoot* out) {
  *out = TrustRoot{};
  Scanner scanner(statement, kSubject);
  if (!scanner.accept("bitnet-trust-root v1\n")) {
    return Error{Status::kStatementKind, "bitnet-trust-root"};
  }
  scanner.expect("version ");
  out->version = scanner.number();
  scanner.expect("\nrole root ");
  read_role(scanner, &out->roles[kRoleRoot]);
  scanner.expect("role release ");
  read_role(scanner, &out->roles[kRoleRelease]);
  if (scanner.accept("role site ")) read_role(scanner, &out->roles[kRoleSite]);
  out->revoked = read_ids(scanner, "revoked ", "\n", statement.size());
  while (scanner.accept("key ")) read_key(scanner, out);
  if (scanner.ok() && !scanner.at_end()) scanner.fail(Status::kReleaseSyntax);
  if (!scanner.ok()) return scanner.error();
  for (RoleKeys& role : out->roles) {
    if (role.line != 0) BITNET_TRY(resolve_role(*out, &role));
  }
  return kNoError;
}

Error parse_public_key(Text file, const char* subject, TrustRoot* out) {
  *out = TrustRoot{};
  Scanner scanner(file, subject);
  Key& key = out->keys[0];
  scanner.expect("bitnet-public-key v1\nname ");
  read_halves(scanner, "\ncustodian ", "\ned25519 ", "\nml-dsa-87 ", &key);
  scanner.end_line();
  scanner.end();
  key.id = key_id(key);
  out->key_count = 1;
  RoleKeys& release = out->roles[kRoleRelease];
  release.threshold = 1;
  release.keys = 1;
  return scanner.error();
}

Error check_threshold(const TrustRoot& root, Role role, const Container& container,
                      const char* subject, Approval* out) {
  const RoleKeys& keys = root.roles[role];
  *out = Approval{};
  out->threshold = keys.threshold;
  for (size_t i = 0; i < container.signature_count; ++i) {
    const Signature& signature = container.signatures[i];
    const size_t index = find_key(root, signature.key_id);
    if (is_revoked(root, signature.key_id)) {
      ++out->revoked;
    } else if (index == kNoKey) {
      ++out->unknown;
    } else if (!has_key(keys.keys, index)) {
      ++out->other_role;
    } else if (!verify(root.keys[index], signature, container.statement)) {
      ++out->invalid;
    } else {
      out->signers |= uint64_t{1} << index;
    }
  }
  out->custodians = count_custodians(root, out->signers);
  // A role that does not exist (threshold 0) approves nothing.
  if (keys.threshold > 0 && out->custodians >= keys.threshold) return kNoError;
  return Error{shortfall(*out), subject, 0, out->custodians, keys.threshold};
}

Role order_role(const TrustRoot& root) {
  return root.roles[kRoleSite].threshold > 0 ? kRoleSite : kRoleRelease;
}

Error check_release(const TrustRoot& root, const Container& container, const char* subject,
                    Approvals* out) {
  for (const Role role : {kRoleRelease, kRoleSite}) {
    if (role == kRoleSite && order_role(root) != role) break;
    Approval* approval = &(*out)[role];
    BITNET_TRY(check_threshold(root, role, container, subject, approval));
  }
  return kNoError;
}

Error check_own_root(const TrustRoot& root, const Container& container, const char* subject) {
  Approval approval;
  return check_threshold(root, kRoleRoot, container, subject, &approval);
}

Error check_successor(const TrustRoot& installed, const TrustRoot& next, const Container& container,
                      const char* subject) {
  if (next.version != installed.version + 1) {
    return Error{Status::kRootVersion, subject, 0, next.version, installed.version + 1};
  }
  for (size_t i = 0; i < installed.revoked.count(); ++i) {
    if (!is_revoked(next, installed.revoked.at(i))) {
      return Error{Status::kRootUnrevoked, subject, 0, i + 1};
    }
  }
  BITNET_TRY(check_own_root(installed, container, subject));
  return check_own_root(next, container, subject);
}

Error run_selftest() {
  const char* wrong = nullptr;
  if (!digest_known<Sha384>(kAbcSha384)) wrong = "SHA-384";
  if (!digest_known<Sha3>(kAbcSha3)) wrong = "SHA3-384";
  if (!signature_known<kEd25519KeyBytes, kEd25519SignatureBytes>(
          bitnet_ed25519_verify, kEd25519Key, kEd25519Signature, kEd25519Message)) {
    wrong = "Ed25519";
  }
  if (!signature_known<kMldsa87KeyBytes, kMldsa87SignatureBytes>(
          bitnet_mldsa87_verify, kMldsa87Key, kMldsa87Signature, kMldsa87Message)) {
    wrong = "ML-DSA-87";
  }
  return wrong == nullptr ? kNoError : Error{Status::kSelftestFailed, wrong};
}

}  // namespace bitnet::release
