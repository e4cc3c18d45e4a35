// Signed statements, the trust root, and the decision whether a statement is trusted.
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

/// Reads a container; nothing is verified yet. A container without signatures is well
/// formed. `subject` names the file in errors. kRelease* with the line, kReleaseRange for a
/// statement above kStatementBytesMax, kReleaseOrder for a key id that is not above the one before.
Error parse_container(Text file, const char* subject, Container* out);

inline constexpr size_t kKeysMax = 64;  // what a set of 64 bits holds

/// Ed25519 and ML-DSA-87 halves of one signer; both are always required.
struct Key {
  Digest id{};
  Text name;
  Text custodian;
  std::array<uint8_t, kEd25519KeyBytes> ed25519{};
  std::array<uint8_t, kMldsa87KeyBytes> mldsa87{};
};

enum Role : uint8_t { kRoleRoot, kRoleRelease, kRoleSite };
inline constexpr size_t kRoleCount = 3;
inline constexpr const char* kRoleNames[kRoleCount] = {"root", "release", "site"};

/// Key ids in increasing order, as they stand in the statement: each behind the same word.
struct IdList {
  Text text;
  size_t word_bytes = 0;
  size_t stride = 1;
  size_t count() const { return text.size() / stride; }
  Digest at(size_t index) const {
    return Scanner(text.subspan(index * stride + word_bytes), "").digest();
  }
};

struct RoleKeys {
  uint64_t threshold = 0;  ///< 0: the role does not exist (only `site`)
  IdList ids;
  uint64_t line = 0;  ///< of the statement, for errors
  uint64_t keys = 0;  ///< a set: bit i stands for TrustRoot::keys[i]
};

/// Spans point into the statement. About 175 KiB: keep it in static storage.
struct TrustRoot {
  uint64_t version = 0;
  std::array<RoleKeys, kRoleCount> roles{};
  IdList revoked;
  size_t key_count = 0;
  std::array<Key, kKeysMax> keys{};
};

/// Reads the statement of a trust root. kStatementKind, kRelease* with the line, kRootThreshold,
/// kRootKeyMissing, kRootKeyRevoked, kRootKeyId, kRootKeyShared.
Error parse_trust_root(Text statement, TrustRoot* out);

/// Reads a public key file as a root whose only key is 1-of-1 in `release`.
Error parse_public_key(Text file, const char* subject, TrustRoot* out);

/// How the signatures of a container count for one role.
struct Approval {
  uint64_t custodians = 0;  ///< different people with a valid signature: what the threshold counts
  uint64_t threshold = 0;
  uint64_t invalid = 0;     ///< keys of the role whose Ed25519 or ML-DSA-87 signature is wrong
  uint64_t revoked = 0;     ///< never count
  uint64_t other_role = 0;  ///< known keys without this role: ignored
  uint64_t unknown = 0;     ///< ignored
  uint64_t signers = 0;     ///< keys with a valid signature: a set, as in RoleKeys
};

/// Whether the container's statement carries the role's threshold. Fills `out` in any case. Without
/// it, the most telling reason: kSignatureInvalid, kKeyRevoked, kCustodianTwice, kSignersUnknown,
/// else kSignaturesTooFew; each with custodians found and needed. `subject` names the file.
/// The caller has parsed the statement, which fixes its kind.
Error check_threshold(const TrustRoot& root, Role role, const Container& container,
                      const char* subject, Approval* out);

/// The role that approves rollback orders: `site` where it exists, else `release`.
Role order_role(const TrustRoot& root);

/// A release needs `release`, and `site` where it exists; approvals by role.
using Approvals = std::array<Approval, kRoleCount>;
Error check_release(const TrustRoot& root, const Container& container, const char* subject,
                    Approvals* out);

/// A root must carry the threshold of its own `root` role. (Who trusts it first compares its
/// digest.)
Error check_own_root(const TrustRoot& root, const Container& container, const char* subject);

/// Whether `next`, read from `container`, may replace `installed`: kRootVersion unless exactly one
/// higher, kRootUnrevoked where a key that is revoked now would come back; then the threshold of
/// the installed root's `root` role and that of its own.
Error check_successor(const TrustRoot& installed, const TrustRoot& next, const Container& container,
                      const char* subject);

/// SHA-384, SHA3-384, Ed25519 and ML-DSA-87 must give what others have published, and refuse the
/// same signatures with one bit changed. kSelftestFailed with the algorithm's name. About 1 ms.
Error run_selftest();

}  // namespace bitnet::release
