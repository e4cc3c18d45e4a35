// The parsers and decisions of engine/release for tests in Python: status, line, numbers.
// SPDX-License-Identifier: Apache-2.0
#include "release/manifest.h"
#include "release/trust.h"

using namespace bitnet;

namespace {

struct Told {
  uint64_t where;
  uint64_t value;
  uint64_t limit;
};

int tell(const Error& error, Told* out) {
  *out = {error.where, error.value, error.limit};
  return static_cast<int>(error.status);
}

release::TrustRoot roots[2];
release::Container containers[2];
release::UpdateStatement update;
release::Approvals approvals;

/// Six numbers for each role.
void tell_approvals(uint64_t* out) {
  for (const release::Approval& each : approvals) {
    for (const uint64_t number : {each.custodians, each.threshold, each.invalid, each.revoked,
                                  each.other_role, each.unknown}) {
      *out++ = number;
    }
  }
}

Error load_root(Text file, size_t index) {
  const Error error = release::parse_container(file, "root", &containers[index]);
  return failed(error) ? error
                       : release::parse_trust_root(containers[index].statement, &roots[index]);
}

}  // namespace

extern "C" {

/// kind: c(ontainer), m(anifest), u(pdate), t(rust root), o(rder), k(ey).
int probe_parse(char kind, const uint8_t* data, size_t bytes, Told* out) {
  const Text text(data, bytes);
  release::RollbackOrder order;
  switch (kind) {
    case 'c':
      return tell(release::parse_container(text, "", &containers[0]), out);
    case 'm':
      return tell(release::parse_manifest(text, &update.manifest), out);
    case 'u':
      return tell(release::parse_update(text, &update), out);
    case 't':
      return tell(release::parse_trust_root(text, &roots[0]), out);
    case 'o':
      return tell(release::parse_rollback_order(text, &order), out);
    default:
      return tell(release::parse_public_key(text, "", &roots[0]), out);
  }
}

/// The root's statement may be signed by nobody here: its own threshold is probe_root's matter.
int probe_release(const uint8_t* root, size_t root_bytes, const uint8_t* file, size_t bytes,
                  Told* out, uint64_t* counts) {
  approvals = {};
  Error error = release::parse_trust_root({root, root_bytes}, &roots[0]);
  if (!failed(error)) error = release::parse_container({file, bytes}, "", &containers[0]);
  if (!failed(error)) error = release::parse_update(containers[0].statement, &update);
  if (!failed(error)) error = release::check_release(roots[0], containers[0], "", &approvals);
  tell_approvals(counts);
  return tell(error, out);
}

int probe_order(const uint8_t* root, size_t root_bytes, const uint8_t* file, size_t bytes,
                Told* out) {
  release::RollbackOrder order;
  Error error = release::parse_trust_root({root, root_bytes}, &roots[0]);
  if (!failed(error)) error = release::parse_container({file, bytes}, "", &containers[0]);
  if (!failed(error)) error = release::parse_rollback_order(containers[0].statement, &order);
  if (!failed(error)) {
    error = release::check_threshold(roots[0], release::order_role(roots[0]), containers[0], "",
                                     &approvals[0]);
  }
  return tell(error, out);
}

int probe_root(const uint8_t* file, size_t bytes, Told* out) {
  Error error = load_root({file, bytes}, 0);
  if (!failed(error)) error = release::check_own_root(roots[0], containers[0], "");
  return tell(error, out);
}

int probe_successor(const uint8_t* installed, size_t installed_bytes, const uint8_t* next,
                    size_t next_bytes, Told* out) {
  Error error = load_root({installed, installed_bytes}, 0);
  if (!failed(error)) error = load_root({next, next_bytes}, 1);
  if (!failed(error)) error = release::check_successor(roots[0], roots[1], containers[1], "");
  return tell(error, out);
}

}  // extern "C"
