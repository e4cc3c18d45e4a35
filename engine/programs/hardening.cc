// SPDX-License-Identifier: Apache-2.0
#include "programs/hardening.h"

#include <cstring>

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
    {"calls", "use Linux 3.17 or newer, built with CONFIG_SECCOMP_FILTER"},
};

void pad(Line& line, const char* text, size_t width) {
  line.text(text);
  for (size_t count = std::strlen(text); count < width; ++count) line.text(" ");
}

void add_table_row(Line& line, uint32_t index, const runtime::LayerState& layer,
                   const char* state) {
  pad(line, format::kProtectionNames[index], 20);
  pad(line, state, 10);
  const Row& row = kRows[index];
  if (!layer.on) {
    line.text("errno ").number(layer.reason).text("; ").text(row.remedy);
  } else if (row.unit[0] != 0) {
    line.text(row.unit).text(" ").number(layer.detail);
  }
  line.text("\n");
}

void add_json_row(Line& line, uint32_t index, const runtime::LayerState& layer, const char* state) {
  const Row& row = kRows[index];
  line.text(index == 0 ? "\"" : ", \"").text(format::kProtectionNames[index]);
  line.text("\": {\"state\": \"").text(state).text("\", \"errno\": ").number(layer.reason);
  if (row.unit[0] != 0) line.text(", \"").text(row.unit).text("\": ").number(layer.detail);
  line.text(", \"remedy\": \"").text(layer.on ? "" : row.remedy).text("\"}");
}

}  // namespace

int print_hardening(const runtime::Lockdown& lockdown, bool json) {
  Line line;
  bool missing = false;
  if (json) line.text("{\"layers\": {");
  for (uint32_t i = 0; i < format::kProtectionCount; ++i) {
    const runtime::LayerState& layer = lockdown.layer(i);
    const char* state = layer.on ? "on" : lockdown.accepts(i) ? "accepted" : "missing";
    missing = missing || (!layer.on && !lockdown.accepts(i));
    if (json) {
      add_json_row(line, i, layer, state);
    } else {
      add_table_row(line, i, layer, state);
    }
  }
  if (json) line.text("}, \"starts\": ").text(missing ? "false" : "true").text("}\n");
  if (const Error error = platform::write_all(platform::kStdout, line.bytes()); failed(error)) {
    return report(error);
  }
  return missing ? status_text(Status::kProtectionRefused).exit_code : 0;
}

}  // namespace bitnet::programs
