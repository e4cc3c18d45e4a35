// SPDX-License-Identifier: Apache-2.0
#include "programs/signers.h"

#include <cstring>

#include "platform/fs.h"
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
                  const release::Approvals& approvals, bool json) {
  Line line;
  const char* between = "";
  if (json) line.text("\"signers\": [");
  for (size_t role = 0; role < release::kRoleCount; ++role) {
    const char* name = release::role_name(static_cast<release::Role>(role));
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
        line.text(between).text("{\"role\": \"").text(name).text("\", \"name\": \"");
        line.escaped(key.name).text("\", \"custodian\": \"").escaped(key.custodian);
        line.text("\", \"key\": \"").hex(key.id).text("\"}");
      } else {
        line.text("    ").escaped(key.name).text(" (").escaped(key.custodian).text("), key ");
        line.hex(std::span(key.id).first(kShortIdBytes)).text("\n");
      }
      flush(descriptor, &line);
      between = ", ";
    }
  }
  flush(descriptor, json ? &line.text("]") : &line);
}

Result<const char*> find_signature(const char* path, std::span<char> place) {
  constexpr char kName[] = "/update.sig";
  const platform::Handle folder(platform::open_folder(platform::kAnywhere, path));
  size_t bytes = std::strlen(path);
  while (failed(folder.error()) && bytes > 0 && path[bytes - 1] != '/') --bytes;
  // Behind a file's folder its slash stands already; with none, the name stands alone.
  const char* name = failed(folder.error()) ? kName + 1 : kName;
  if (bytes + sizeof kName > place.size()) return Error{Status::kOptionValue, path};
  std::memcpy(place.data(), path, bytes);
  std::memcpy(place.data() + bytes, name, std::strlen(name) + 1);
  return static_cast<const char*>(place.data());
}

}  // namespace bitnet::programs
