// SPDX-License-Identifier: Apache-2.0
#include "programs/hardening.h"

#include "platform/os.h"
#include "programs/report.h"

namespace bitnet::programs {
namespace {

/// What LayerState::detail counts ("" for nothing), and what to do where the layer is missing.
struct Row {
  const char* unit;
  const char* remedy;
};
constexpr Row kRows[format::kProtectionCount] = {
    {"bytes", "raise the limit on locked memory (LimitMEMLOCK=, ulimit -l), or set lock: arena"},
    {"bytes", "use Linux 3.4 or newer"},
    {"", "use Linux 2.4 or newer"},
    {"", "allow setrlimit"},
    {"", "use Linux 3.5 or newer"},
    {"", "use Linux 6.3 or newer"},
    {"bytes", "use Linux 6.10 or newer"},
    {"abi", "use Linux 5.13 or newer, with landlock in the boot parameter lsm="},
    {"open", "use Linux 5.9 or newer"},
    {"calls", "use Linux 4.14 or newer, built with CONFIG_SECCOMP_FILTER"},
};

void pad(Line& line, const char* words, size_t width) {
  const size_t end = line.text(words).written().size() - std::strlen(words) + width;
  while (line.written().size() < end) line.text(" ");
}

}  // namespace

int print_hardening(const runtime::Lockdown& lockdown, bool json) {
  Line line;
  bool starts = true;
  if (json) line.text("{\"layers\": {");
  for (uint32_t i = 0; i < format::kProtectionCount; ++i) {
    const runtime::LayerState& layer = lockdown.layer(i);
    const Row& row = kRows[i];
    const char* state = layer.on() ? "on" : lockdown.accepts(i) ? "accepted" : "missing";
    starts = starts && (layer.on() || lockdown.accepts(i));
    if (json) {
      line.text(i == 0 ? "\"" : ", \"").text(format::kProtectionNames[i]);
      line.text("\": {\"state\": \"").text(state).text("\", \"errno\": ").number(layer.reason);
      if (row.unit[0] != 0) line.text(", \"").text(row.unit).text("\": ").number(layer.detail);
      line.text(", \"remedy\": \"").text(layer.on() ? "" : row.remedy).text("\"}");
      continue;
    }
    pad(line, format::kProtectionNames[i], 20);
    pad(line, state, 10);
    if (!layer.on()) line.text("errno ").number(layer.reason).text("; ").text(row.remedy);
    if (layer.on() && row.unit[0] != 0) line.text(row.unit).text(" ").number(layer.detail);
    line.text("\n");
  }
  if (json) line.text("}, \"starts\": ").text(starts ? "true" : "false").text("}\n");
  if (!print(platform::kStdout, line)) return report(kNoError);
  return starts ? 0 : status_text(Status::kProtectionRefused).exit_code;
}

}  // namespace bitnet::programs
