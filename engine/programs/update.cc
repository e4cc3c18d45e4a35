// bitnet-update: verifies, installs, and tells what is installed. release/update.h does the work.
// SPDX-License-Identifier: Apache-2.0
#include "release/update.h"

#include <cstring>

#include "platform/os.h"
#include "programs/arguments.h"
#include "programs/report.h"
#include "programs/signers.h"
#include "release/trust.h"

namespace {

using namespace bitnet;
using programs::Line;
using programs::print;

constexpr char kHelp[] =
    R"(usage: bitnet-update apply BUNDLE [--sig FILE] [--order FILE] [--prefix DIR]
       bitnet-update apply PART... | FOLDER [--sig FILE] [--order FILE] [--prefix DIR]
       bitnet-update root install FILE [--digest SHA-384] [--prefix DIR]
       bitnet-update status [--json] [--prefix DIR]
       bitnet-update recover [--prefix DIR]
       bitnet-update verify-log [--prefix DIR]

apply       verify a bundle against the installed trust root, unpack it beside, ask it for its
            known answer, and switch to it by one rename; the release before is kept
root        install a trust root: the first, or one in place of a lost one, by its digest,
            later ones by the threshold of the one before
status      what is installed and kept, the floor, the log's head, and what is doubtful
recover     finish or undo what was interrupted (each of the above but status does so first);
            run it at every start and once an hour, so that this host counts its time
verify-log  follow the chain of the log

  --sig FILE     signatures; `update.sig` beside the bundle where it is not given
  --order FILE   signed rollback order that permits this step below the floor
  --prefix DIR   put before /opt and /etc

exit codes: 0 done, 1 failed, 2 usage, 3 not trusted, 4 rollback refused, 5 environment
)";

constexpr char kVerbs[] = "apply BUNDLE, root install FILE, status, recover or verify-log";

struct Arguments {
  std::span<char*> words;  ///< the verb and what it is about
  const char* signature = nullptr;
  const char* order = nullptr;
  const char* prefix = "";
  const char* digest = nullptr;
  bool json = false;
};

Arguments arguments;
release::Host host;
uint8_t beside[platform::kPathBytesMax];
const char* between = "";  ///< an item of a list in JSON and the one before

bool is_verb(const char* name, size_t words_min, size_t words_max) {
  const size_t count = arguments.words.size();
  return count >= words_min && count <= words_max && std::strcmp(arguments.words[0], name) == 0;
}

/// Names each part that does not help.
void print_parts() {
  Line line;
  for (uint32_t i = 0; i < host.bundle.part_count; ++i) {
    const release::PartState state = host.bundle.parts[i].state;
    if (state == release::PartState::kFound) continue;
    const bool missing = state == release::PartState::kMissing;
    line.text(missing ? "missing  part " : "damaged  part ").number(i + 1).text(" of ");
    print(platform::kStderr, line.number(host.bundle.part_count).text("\n"));
  }
  if (host.bundle.foreign == 0) return;
  line.text("not parts of this bundle, or there twice: ").number(host.bundle.foreign);
  print(platform::kStderr, line.text("\n"));
}

Error run_apply() {
  const char*& signature = arguments.signature;
  const std::span<char*> paths = arguments.words.subspan(1);
  if (signature == nullptr) BITNET_TRY(programs::find_signature(paths[0], beside, &signature));
  const Error error = release::apply(&host, paths, signature, arguments.order);
  if (error.status == Status::kParts) print_parts();
  if (failed(error) && !host.changed) return error;
  const release::Manifest& manifest = host.release.update.manifest;
  Line line;
  line.text(host.changed ? "verified   " : "signed     ").escaped(manifest.product).text(" ");
  line.escaped(manifest.version).text(", counter ").number(manifest.counter);
  print(platform::kStdout, line.text("\n"));
  programs::tell_signers(platform::kStdout, host.root, host.release.approvals, false);
  line.text(host.changed ? "installed  " : "installed already  ").text(host.state.current.text);
  if (host.changed && !host.state.old.none()) line.text("\nbefore     ").text(host.state.old.text);
  print(platform::kStdout, line.text("\n"));
  return error;
}

Error run_root() {
  const bool given = arguments.digest != nullptr;
  release::Scanner scanner(text_of(given ? arguments.digest : ""), "--digest");
  const Digest digest = given ? scanner.digest() : Digest{};
  scanner.end();
  if (!scanner.ok()) return Error{Status::kOptionValue, "--digest"};
  BITNET_TRY(release::install_root(&host, arguments.words[2], given ? &digest : nullptr));
  Line line;
  line.text(host.changed ? "installed  trust root version " : "installed already  version ");
  print(platform::kStdout, line.number(host.state.root_version).text("\n"));
  return kNoError;
}

/// A list in JSON begins, ends, or both; in text it has no sign.
void print_bracket(const char* sign) {
  if (arguments.json) print(platform::kStdout, Line().text(sign));
  between = "";
}

void print_item(const char* head, Text words) {
  Line line;
  print(platform::kStdout, arguments.json ? line.text(between).quoted(words)
                                          : line.text(head).escaped(words).text("\n"));
  between = ",";
}

/// What does not agree with the state, or makes its record of time a lower bound only.
void print_doubts() {
  const release::State& state = host.state;
  const struct {
    bool doubtful;
    const char* words;
  } doubts[] = {
      {!state.trial.none(), "a switch was interrupted: run bitnet-update recover"},
      {!links_fit(host), "/opt/bitnet or /opt/bitnet.old does not point to what is recorded"},
      {state.time.set_back != 0, "the clock on the wall was set back"},
      {state.time.uncounted_s != 0, "time passed while nothing counted it, or the clock was set"},
      {failed(check_log(&host)), "the log does not fit its chain"},
  };
  for (const auto& doubt : doubts) {
    if (doubt.doubtful) print_item("doubt ", text_of(doubt.words));
  }
}

Error run_status() {
  BITNET_TRY(release::open_host(arguments.prefix, false, &host));
  print_bracket("{\"state\":[");
  Text rest = emit_state(host.state, host.buffer);  // as it stands on the disk, a line a fact
  while (!rest.empty()) print_item("", take_line(&rest));
  print_bracket("],\"doubts\":[");
  print_doubts();
  print_bracket("]}\n");
  return kNoError;
}

Error run_verify_log() {
  BITNET_TRY(release::open_host(arguments.prefix, false, &host));
  BITNET_TRY(release::check_log(&host));
  Line line;
  line.text("verified   ").number(host.state.log_lines).text(" lines, head ");
  print(platform::kStdout, line.hex(host.state.log_head).text("\n"));
  return kNoError;
}

Error run(int count, char** values) {
  programs::Option options[] = {{.name = "verb", .words = &arguments.words},
                                {.name = "--sig", .text = &arguments.signature},
                                {.name = "--order", .text = &arguments.order},
                                {.name = "--prefix", .text = &arguments.prefix},
                                {.name = "--digest", .text = &arguments.digest},
                                {.name = "--json", .flag = &arguments.json}};
  BITNET_TRY(programs::parse_arguments(count, values, options, kHelp));
  const bool applies = is_verb("apply", 2, SIZE_MAX);
  const bool roots = is_verb("root", 3, 3) && std::strcmp(arguments.words[1], "install") == 0;
  const bool status = is_verb("status", 1, 1);
  const bool reads = status || is_verb("verify-log", 1, 1);
  if (!applies && !roots && !reads && !is_verb("recover", 1, 1)) {
    return Error{Status::kOptionMissing, kVerbs};
  }
  // What a verb does not look at would be thought to have been.
  if (arguments.digest != nullptr && !roots) return Error{Status::kUsage, "--digest"};
  if (arguments.signature != nullptr && !applies) return Error{Status::kUsage, "--sig"};
  if (arguments.order != nullptr && !applies) return Error{Status::kUsage, "--order"};
  if (arguments.json && !status) return Error{Status::kUsage, "--json"};
  if (reads) return status ? run_status() : run_verify_log();
  BITNET_TRY(release::run_selftest());
  BITNET_TRY(release::open_host(arguments.prefix, true, &host));
  if (applies) return run_apply();
  const Error error = release::recover(&host);
  if (!roots || (failed(error) && error.status != Status::kRootChanged)) return error;
  return run_root();
}

}  // namespace

int main(int count, char** values) { return programs::report(run(count, values)); }
