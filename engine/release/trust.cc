// SPDX-License-Identifier: Apache-2.0
#include "release/trust.h"

#include <cstring>

namespace bitnet::release {
namespace {

constexpr char kKeyIdDomain[] = "bitnet-key-id v1\n";
constexpr size_t kRevokedLineBytes = sizeof "revoked " - 1 + kDigestDigits + 1;
constexpr const char* kRoleNames[kRoleCount] = {"root", "release", "site"};
constexpr size_t kNoKey = kKeysMax;

Digest key_id(const Key& key) {
  BitnetDigestState state;
  bitnet_sha384_init(&state);
  const auto* domain = reinterpret_cast<const uint8_t*>(kKeyIdDomain);
  bitnet_sha384_update(&state, domain, sizeof kKeyIdDomain - 1);
  bitnet_sha384_update(&state, key.ed25519.data(), key.ed25519.size());
  bitnet_sha384_update(&state, key.mldsa87.data(), key.mldsa87.size());
  Digest id;
  bitnet_sha384_final(&state, id.data());
  return id;
}

size_t find_key(const TrustRoot& root, const Digest& id) {
  for (size_t i = 0; i < root.key_count; ++i) {
    if (root.keys[i].id == id) return i;
  }
  return kNoKey;
}

size_t revoked_count(const TrustRoot& root) { return root.revoked.size() / kRevokedLineBytes; }

Digest revoked_id(const TrustRoot& root, size_t index) {
  Scanner line(root.revoked.subspan(index * kRevokedLineBytes, kRevokedLineBytes), "");
  line.expect("revoked ");
  return line.digest();
}

bool is_revoked(const TrustRoot& root, const Digest& id) {
  for (size_t i = 0; i < revoked_count(root); ++i) {
    if (revoked_id(root, i) == id) return true;
  }
  return false;
}

/// Key ids of a role line, which stands before the keys: its place is kept until they are read.
struct RoleLine {
  uint64_t line = 0;
  std::array<Digest, kKeysMax> ids{};
};

/// ` M KEY-ID …` behind the name of a role.
void read_role(Scanner& scanner, RoleKeys* role, RoleLine* ids) {
  ids->line = scanner.line();
  role->threshold = scanner.number();
  while (scanner.accept(" ")) {
    if (role->key_count == kKeysMax) {
      return scanner.fail(Status::kReleaseCount, kKeysMax + 1, kKeysMax);
    }
    ids->ids[role->key_count] = scanner.digest();
    if (role->key_count > 0 &&
        compare(ids->ids[role->key_count], ids->ids[role->key_count - 1]) <= 0) {
      scanner.fail(Status::kReleaseOrder);
    }
    ++role->key_count;
  }
  scanner.end_line();
}

void read_revoked(Scanner& scanner, TrustRoot* out) {
  const Text begin = scanner.rest();
  Digest last{};
  for (size_t count = 0; scanner.accept("revoked "); ++count) {
    const Digest id = scanner.digest();
    if (count > 0 && compare(id, last) <= 0) scanner.fail(Status::kReleaseOrder);
    last = id;
    scanner.end_line();
  }
  if (scanner.ok()) out->revoked = begin.first(begin.size() - scanner.rest().size());
}

/// A line `key …`: its id must be that of its halves, and no other key may hold one of them.
void read_key(Scanner& scanner, TrustRoot* out) {
  if (out->key_count == kKeysMax) {
    return scanner.fail(Status::kReleaseCount, kKeysMax + 1, kKeysMax);
  }
  Key& key = out->keys[out->key_count];
  key.id = scanner.digest();
  scanner.expect(" ");
  key.name = scanner.name();
  scanner.expect(" ");
  key.custodian = scanner.name();
  scanner.expect(" ");
  scanner.hex(key.ed25519);
  scanner.expect(" ");
  scanner.base64(key.mldsa87);
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

/// Different custodians among keys given by index.
size_t count_custodians(const TrustRoot& root, std::span<const uint8_t> keys) {
  size_t count = 0;
  for (size_t i = 0; i < keys.size(); ++i) {
    bool first = true;
    for (size_t j = 0; j < i; ++j) {
      first &= !same(root.keys[keys[i]].custodian, root.keys[keys[j]].custodian);
    }
    count += first;
  }
  return count;
}

/// Turns the ids of a role into keys, which must exist, be valid, and suffice for the threshold.
Error resolve_role(const TrustRoot& root, const RoleLine& ids, RoleKeys* role) {
  for (size_t i = 0; i < role->key_count; ++i) {
    const size_t index = find_key(root, ids.ids[i]);
    if (index == kNoKey) return Error{Status::kRootKeyMissing, "trust root", ids.line, i + 1};
    if (is_revoked(root, ids.ids[i])) {
      return Error{Status::kRootKeyRevoked, "trust root", ids.line, i + 1};
    }
    role->keys[i] = static_cast<uint8_t>(index);
  }
  const size_t people = count_custodians(root, std::span(role->keys).first(role->key_count));
  if (role->threshold == 0 || role->threshold > people) {
    return Error{Status::kRootThreshold, "trust root", ids.line, role->threshold, people};
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

bool has_key(const RoleKeys& role, size_t index) {
  for (size_t i = 0; i < role.key_count; ++i) {
    if (role.keys[i] == index) return true;
  }
  return false;
}

/// The most telling reason why a threshold is not met.
Status shortfall(const Approval& approval) {
  if (approval.invalid > 0) return Status::kSignatureInvalid;
  if (approval.revoked > 0) return Status::kKeyRevoked;
  if (approval.signer_count >= approval.threshold) return Status::kCustodianTwice;
  const bool none = approval.signer_count == 0 && approval.other_role + approval.unknown > 0;
  return none ? Status::kSignersUnknown : Status::kSignaturesTooFew;
}

}  // namespace

const char* role_name(Role role) { return kRoleNames[static_cast<size_t>(role)]; }

Error parse_trust_root(Text statement, TrustRoot* out) {
  std::array<RoleLine, kRoleCount> lines;
  *out = TrustRoot{};
  Scanner scanner(statement, "trust root");
  if (!scanner.accept("bitnet-trust-root v1\n")) {
    return Error{Status::kStatementKind, "bitnet-trust-root"};
  }
  scanner.expect("version ");
  out->version = scanner.number();
  scanner.expect("\nrole root ");
  read_role(scanner, &out->roles[0], &lines[0]);
  scanner.expect("role release ");
  read_role(scanner, &out->roles[1], &lines[1]);
  const bool has_site = scanner.accept("role site ");
  if (has_site) read_role(scanner, &out->roles[2], &lines[2]);
  read_revoked(scanner, out);
  while (scanner.accept("key ")) read_key(scanner, out);
  if (scanner.ok() && !scanner.at_end()) scanner.fail(Status::kReleaseSyntax);
  if (!scanner.ok()) return scanner.error();
  for (size_t i = 0; i < (has_site ? kRoleCount : kRoleCount - 1); ++i) {
    BITNET_TRY(resolve_role(*out, lines[i], &out->roles[i]));
  }
  return kNoError;
}

Error parse_public_key(Text file, const char* subject, TrustRoot* out) {
  *out = TrustRoot{};
  Scanner scanner(file, subject);
  Key& key = out->keys[0];
  scanner.expect("bitnet-public-key v1\nname ");
  key.name = scanner.name();
  scanner.expect("\ncustodian ");
  key.custodian = scanner.name();
  scanner.expect("\ned25519 ");
  scanner.hex(key.ed25519);
  scanner.expect("\nml-dsa-87 ");
  scanner.base64(key.mldsa87);
  scanner.end_line();
  scanner.end();
  key.id = key_id(key);
  out->key_count = 1;
  RoleKeys& release = out->roles[static_cast<size_t>(Role::kRelease)];
  release.threshold = 1;
  release.key_count = 1;
  return scanner.error();
}

Error check_threshold(const TrustRoot& root, Role role, const Container& container,
                      const char* subject, Approval* out) {
  const RoleKeys& keys = root.roles[static_cast<size_t>(role)];
  *out = Approval{};
  out->threshold = keys.threshold;
  for (size_t i = 0; i < container.signature_count; ++i) {
    const Signature& signature = container.signatures[i];
    const size_t index = find_key(root, signature.key_id);
    if (is_revoked(root, signature.key_id)) {
      ++out->revoked;
    } else if (index == kNoKey) {
      ++out->unknown;
    } else if (!has_key(keys, index)) {
      ++out->other_role;
    } else if (!verify(root.keys[index], signature, container.statement)) {
      ++out->invalid;
    } else {
      out->signers[out->signer_count++] = static_cast<uint8_t>(index);
    }
  }
  out->custodians = count_custodians(root, std::span(out->signers).first(out->signer_count));
  // A role that does not exist (threshold 0) approves nothing.
  if (keys.threshold > 0 && out->custodians >= keys.threshold) return kNoError;
  return Error{shortfall(*out), subject, 0, out->custodians, keys.threshold};
}

Role order_role(const TrustRoot& root) {
  return root.roles[static_cast<size_t>(Role::kSite)].threshold > 0 ? Role::kSite : Role::kRelease;
}

Error check_release(const TrustRoot& root, const Container& container, const char* subject,
                    Approvals* out) {
  for (const Role role : {Role::kRelease, order_role(root)}) {
    Approval* approval = &(*out)[static_cast<size_t>(role)];
    const Error error = check_threshold(root, role, container, subject, approval);
    if (failed(error)) return error;
    if (order_role(root) == Role::kRelease) break;
  }
  return kNoError;
}

Error check_own_root(const TrustRoot& root, const Container& container, const char* subject) {
  Approval approval;
  return check_threshold(root, Role::kRoot, container, subject, &approval);
}

Error check_successor(const TrustRoot& installed, const TrustRoot& next, const Container& container,
                      const char* subject) {
  if (next.version != installed.version + 1) {
    return Error{Status::kRootVersion, subject, 0, next.version, installed.version + 1};
  }
  for (size_t i = 0; i < revoked_count(installed); ++i) {
    if (!is_revoked(next, revoked_id(installed, i))) {
      return Error{Status::kRootUnrevoked, subject, 0, i + 1};
    }
  }
  const Error error = check_own_root(installed, container, subject);
  return failed(error) ? error : check_own_root(next, container, subject);
}

}  // namespace bitnet::release
