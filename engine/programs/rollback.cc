// bitnet-rollback: goes back to a kept release. release/update.h does the work.
// SPDX-License-Identifier: Apache-2.0
#include "platform/os.h"
#include "programs/arguments.h"
#include "programs/report.h"
#include "release/trust.h"
#include "release/update.h"

namespace {

using namespace bitnet;

constexpr char kHelp[] = R"(usage: bitnet-rollback [--keep-old=72h] [--order FILE] [--prefix DIR]

Goes back to the release that was replaced last, if it is whole, trusted, not below the floor,
and was replaced at most as long ago as --keep-old says, counted on this host's own record.
Releases that were replaced longer ago are removed afterwards. What ran before is kept.

  --keep-old=TIME  a number and h or d; 72h where it is not given
  --order FILE     signed rollback order: go back to the release that it names, below the floor
  --prefix DIR     put before /opt and /etc

exit codes: 0 done, 1 failed, 2 usage, 3 not trusted, 4 rollback refused, 5 environment
)";

constexpr char kDoubt[] =
    "note: this host's record of time is a lower bound (`bitnet-update status`): the release may "
    "have been replaced longer ago than it says\n";

release::Host host;

/// At most five digits and a unit.
bool parse_keep(const char* text, uint64_t* seconds) {
  Text rest = text_of(text);
  if (rest.size() > 6 || !take_number(&rest, 10, seconds)) return false;
  *seconds *= same(rest, "d") ? 86400 : 3600;
  return same(rest, "d") || same(rest, "h");
}

Error run(int count, char** values) {
  const char* order = nullptr;
  const char* prefix = "";
  const char* keep = "72h";
  uint64_t keep_s = 0;
  programs::Option options[] = {{.name = "--keep-old=", .text = &keep},
                                {.name = "--order", .text = &order},
                                {.name = "--prefix", .text = &prefix}};
  BITNET_TRY(programs::parse_arguments(count, values, options, kHelp));
  if (!parse_keep(keep, &keep_s)) return Error{Status::kOptionValue, "--keep-old"};
  BITNET_TRY(release::run_selftest());
  BITNET_TRY(release::open_host(prefix, true, &host));
  return release::roll_back(&host, keep_s, order);
}

}  // namespace

int main(int count, char** values) {
  const Error error = run(count, values);
  if (host.changed) {
    programs::Line line;
    line.text("installed  ").text(host.state.current.text).text("\nbefore     ");
    programs::print(platform::kStdout, line.text(host.state.old.text).text("\n"));
    if (host.state.time.uncounted_s + host.state.time.set_back != 0) {
      programs::print(platform::kStderr, line.text(kDoubt));
    }
  }
  return programs::report(error);
}
