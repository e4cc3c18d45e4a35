// SPDX-License-Identifier: Apache-2.0
#include "programs/signers.h"

#include "platform/fs.h"
#include "programs/report.h"

namespace bitnet::programs {

void tell_signers(int descriptor, const release::TrustRoot& root,
                  const release::Approvals& approvals, bool json) {
  Line line;
  const char* between = "";
  if (json) line.text("\"signers\": [");
  for (size_t role = 0; role < release::kRoleCount; ++role) {
    const char* name = release::kRoleNames[role];
    const release::Approval& approval = approvals[role];
    if (!json && approval.threshold != 0) {
      line.text("  ").text(name).text(": ").number(approval.custodians).text(" of ");
      line.number(approval.threshold).text(" needed; not counted: ");
      line.number(approval.invalid).text(" invalid, ").number(approval.revoked);
      line.text(" revoked, ").number(approval.other_role).text(" of another role, ");
      line.number(approval.unknown).text(" unknown\n");
    }
    for (size_t i = 0; i < root.key_count; ++i) {
      if ((approval.signers >> i & 1) == 0) continue;
      const release::Key& key = root.keys[i];
      if (json) {
        line.text(between).text("{\"role\": \"").text(name).text("\", \"name\": ");
        line.quoted(key.name).text(", \"custodian\": ").quoted(key.custodian);
        line.text(", \"key\": \"").hex(key.id).text("\"}");
      } else {
        line.text("    ").escaped(key.name).text(" (").escaped(key.custodian).text("), key ");
        line.hex(std::span(key.id).first(4)).text("\n");
      }
      print(descriptor, line);  // each by itself: no number of signers overflows the buffer
      between = ", ";
    }
  }
  print(descriptor, json ? line.text("]") : line);
}

Error find_signature(const char* path, std::span<uint8_t> place, const char** found) {
  if (std::strlen(path) + sizeof "/update.sig" > place.size()) {
    return Error{Status::kOptionValue, path};
  }
  const platform::Handle folder(platform::open_folder(platform::kAnywhere, path));
  const bool is_folder = !failed(folder.error());
  Text head = text_of(path);
  while (!is_folder && !head.empty() && head.back() != '/') head = head.first(head.size() - 1);
  // Behind a file's folder its slash stands already; with none, the name stands alone.
  *found = Writer(place).bytes(head).text(is_folder ? "/update.sig" : "update.sig").ended();
  return kNoError;
}

}  // namespace bitnet::programs
