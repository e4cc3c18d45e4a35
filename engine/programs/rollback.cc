// bitnet-rollback: goes back to a kept release. release/update.h does the work.
// SPDX-License-Identifier: Apache-2.0
#include <cstring>

#include "base/version.h"
#include "platform/os.h"
#include "programs/report.h"
#include "release/selftest.h"
#include "release/update.h"

namespace {

using namespace bitnet;

constexpr char kHelp[] =
    "usage: bitnet-rollback [--keep-old=72h] [--order FILE] [--prefix DIR]\n"
    "\n"
    "Goes back to the release that was replaced last, if it is whole, trusted, not below the "
    "floor,\n"
    "and was replaced at most as long ago as --keep-old says, counted on this host's own record.\n"
    "Releases that were replaced longer ago are removed afterwards. What ran before is kept.\n"
    "\n"
    "  --keep-old=TIME  a number and h or d; 72h where it is not given\n"
    "  --order FILE     signed rollback order: go back to the release that it names, below the "
    "floor\n"
    "  --prefix DIR     put before /opt and /etc\n"
    "\n"
    "exit codes: 0 done, 1 failed, 2 usage, 3 not trusted, 4 rollback refused, 5 environment\n";

struct Arguments {
  const char* order = nullptr;
  const char* prefix = "";
  uint64_t keep_s = release::kKeepSecondsDefault;
};

release::Host host;

void print(const programs::Line& line) {
  (void)failed(platform::write_all(platform::kStdout, line.bytes()));
}

/// At most five digits and a unit.
bool parse_keep(const char* text, uint64_t* seconds) {
  uint64_t value = 0;
  size_t digits = 0;
  for (; text[digits] >= '0' && text[digits] <= '9' && digits < 5; ++digits) {
    value = 10 * value + static_cast<uint64_t>(text[digits] - '0');
  }
  const char unit = text[digits];
  *seconds = value * (unit == 'd' ? 86400 : 3600);
  return digits > 0 && (unit == 'h' || unit == 'd') && text[digits + 1] == 0;
}

Error parse_arguments(int count, char** values, Arguments* out) {
  constexpr char kKeep[] = "--keep-old=";
  for (int i = 1; i < count; ++i) {
    const char* value = values[i];
    if (std::strncmp(value, kKeep, sizeof kKeep - 1) == 0) {
      if (!parse_keep(value + sizeof kKeep - 1, &out->keep_s)) {
        return Error{Status::kOptionValue, value};
      }
      continue;
    }
    const char** target = std::strcmp(value, "--order") == 0    ? &out->order
                          : std::strcmp(value, "--prefix") == 0 ? &out->prefix
                                                                : nullptr;
    if (target == nullptr) return Error{Status::kUsage, value};
    if (i + 1 == count) return Error{Status::kOptionValue, value};
    *target = values[++i];
  }
  return kNoError;
}

}  // namespace

int main(int count, char** values) {
  programs::Line line;
  if (count == 2 &&
      (std::strcmp(values[1], "--help") == 0 || std::strcmp(values[1], "--version") == 0)) {
    print(values[1][2] == 'h' ? line.text(kHelp) : line.text(kVersion).text("\n"));
    return 0;
  }
  Arguments arguments;
  Error error = parse_arguments(count, values, &arguments);
  if (!failed(error)) error = release::run_selftest();
  if (!failed(error)) error = release::open_host(arguments.prefix, true, &host);
  if (!failed(error)) error = release::recover(&host);
  if (!failed(error)) error = release::roll_back(&host, arguments.keep_s, arguments.order);
  if (failed(error) && !host.changed) return programs::report(error);
  line.text("installed  ").text(host.state.current.text).text("\nbefore     ");
  print(line.text(host.state.old.text).text("\n"));
  return failed(error) ? programs::report(error) : 0;
}
