// SPDX-License-Identifier: Apache-2.0
#include "programs/signers.h"

#include "platform/os.h"
#include "programs/report.h"

namespace bitnet::programs {
namespace {

constexpr size_t kShortIdBytes = 4;

// Each line is written by itself, so that no number of signers overflows the buffer.
void flush(int descriptor, Line* line) {
  (void)failed(platform::write_all(descriptor, line->bytes()));
  line->clear();
}

}  // namespace

void tell_signers(int descriptor, const release::TrustRoot& root,
                  const release::Approvals& approvals) {
  Line line;
  for (size_t role = 0; role < release::kRoleCount; ++role) {
    const release::Approval& approval = approvals[role];
    if (approval.threshold == 0) continue;
    line.text("  ").text(release::role_name(static_cast<release::Role>(role))).text(": ");
    line.number(approval.custodians).text(" of ").number(approval.threshold);
    line.text(" needed; not counted: ").number(approval.invalid).text(" invalid, ");
    line.number(approval.revoked).text(" revoked, ").number(approval.other_role);
    line.text(" of another role, ").number(approval.unknown).text(" unknown\n");
    flush(descriptor, &line);
    for (size_t i = 0; i < approval.signer_count; ++i) {
      const release::Key& key = root.keys[approval.signers[i]];
      line.text("    ").escaped(key.name).text(" (").escaped(key.custodian).text("), key ");
      line.hex(std::span(key.id).first(kShortIdBytes)).text("\n");
      flush(descriptor, &line);
    }
  }
}

void tell_signers_json(int descriptor, const release::TrustRoot& root,
                       const release::Approvals& approvals) {
  Line line;
  const char* separator = "";
  line.text("\"signers\": [");
  for (size_t role = 0; role < release::kRoleCount; ++role) {
    for (size_t i = 0; i < approvals[role].signer_count; ++i) {
      const release::Key& key = root.keys[approvals[role].signers[i]];
      line.text(separator).text("{\"role\": \"");
      line.text(release::role_name(static_cast<release::Role>(role)));
      line.text("\", \"name\": \"").escaped(key.name).text("\", \"custodian\": \"");
      line.escaped(key.custodian).text("\", \"key\": \"").hex(key.id).text("\"}");
      flush(descriptor, &line);
      separator = ", ";
    }
  }
  flush(descriptor, &line.text("]"));
}

}  // namespace bitnet::programs
