// SPDX-License-Identifier: Apache-2.0
#include "release/store.h"

#include <cstring>

#include "platform/os.h"

namespace bitnet::release {
namespace {

constexpr char kState[] = "state";
constexpr char kNewState[] = ".state-new";
constexpr char kNewLink[] = ".bitnet-new";
constexpr char kFolder[] = "bitnet.d";
constexpr char kFolderPath[] = "/opt/bitnet.d";
constexpr uint64_t kTickSeconds = 600;
constexpr uint64_t kExitEnvironment = 5;  // docs/errors.md

bool is_missing(const Error& error) { return error.value == platform::kErrnoMissing; }

/// Opens the folder at the end of a path, after making it where it is missing and may be made.
Error open_kept(Host* host, int parent, const char* path, bool to_write, int* folder) {
  const char* name = std::strrchr(path, '/') + 1;
  Result<int> opened = platform::open_folder(parent, name);
  if (!opened.ok() && is_missing(opened.error()) && to_write) {
    BITNET_TRY(denied(host, platform::make_folder(parent, name, 0755), path));
    opened = platform::open_folder(parent, name);
  }
  *folder = opened.value();
  return denied(host, opened.error(), path);
}

/// Reads `state`. Without one there must be no release either: a floor is not forgotten by removing
/// a file.
Error load_state(Host* host, bool may_be_new) {
  Text text;
  const std::span<uint8_t> buffer(host->buffer, kStateBytesMax);
  const Error error = read_whole(host->folder, kState, buffer, &text);
  if (!failed(error)) return parse_state(text, &host->state);
  if (error.status != Status::kFileSystem || !is_missing(error)) return error;
  BITNET_TRY(platform::list_names(host->folder, &host->names));
  for (uint32_t i = 0; i < host->names.count && may_be_new; ++i) {
    ReleaseName name;
    may_be_new = !parse_release_name(text_of(host->names.names[i]), &name);
  }
  host->state = State{};
  return may_be_new ? kNoError : Error{Status::kStateMissing, kState};
}

Error count_time(Host* host) {
  advance(&host->state.time, BITNET_VALUE(platform::host_time()));
  return kNoError;
}

/// Writes the state as it is in memory: beside, then by one rename.
Error save(Host* host) {
  const Text text = emit_state(host->state, std::span(host->buffer).first(kStateBytesMax));
  BITNET_TRY(write_file(host->folder, kNewState, 0644, 0, text));
  BITNET_TRY(platform::rename_file(host->folder, kNewState, kState));
  return platform::sync_file(host->folder);
}

/// Writes a line of the log, then the state that counts it: durable together, or not at all.
Error write_line(Host* host, const char* event, const char* subject) {
  const uint64_t offset = host->state.log_bytes;
  const Text line =
      emit_log_line(&host->state, event, subject, std::span(host->buffer).first(kLogLineBytesMax));
  // What no state counts, behind the offset, is dropped.
  BITNET_TRY(write_file(host->folder, "log", 0644, offset, line));
  if (offset == 0) BITNET_TRY(platform::sync_file(host->folder));  // a new log has a new name
  return save(host);
}

bool link_is(const Host& host, const char* link, const ReleaseName& to) {
  char found[64];
  const Error error = platform::read_link(host.opt, link, found);
  if (failed(error)) return to.none() && is_missing(error);
  const size_t head = sizeof kFolder;
  return std::strncmp(found, "bitnet.d/", head) == 0 && std::strcmp(found + head, to.text) == 0;
}

Error set_link(Host* host, const char* link, const ReleaseName& to) {
  if (link_is(*host, link, to)) return kNoError;
  const Error error = platform::remove_file(host->opt, to.none() ? link : kNewLink, false);
  if (failed(error) && !is_missing(error)) return error;
  if (!to.none()) {
    uint8_t place[64];
    const char* target = Writer(place).text(kFolder).text("/").text(to.text).ended();
    BITNET_TRY(platform::make_link(host->opt, kNewLink, target));
    BITNET_TRY(platform::rename_file(host->opt, kNewLink, link));
  }
  return platform::sync_file(host->opt);
}

/// What the links are to say: during a trial the new release already runs.
const ReleaseName& runs(const State& state) {
  return state.trial.none() ? state.current : state.trial;
}
const ReleaseName& ran(const State& state) {
  return state.trial.none() ? state.old : state.current;
}

}  // namespace

Error denied(Host* host, const Error& error, const char* path) {
  if (error.status != Status::kFileSystem || !platform::is_denied(error)) return error;
  return Error{Status::kFolderForeign, Writer(host->denied).text(host->prefix).text(path).ended()};
}

Error open_host(const char* prefix, bool to_write, Host* host) {
  // What is opened would take the number of a stream that is not.
  BITNET_TRY(platform::prepare_streams());
  host->prefix = prefix;
  const platform::Handle base(
      BITNET_VALUE(platform::open_folder(platform::kAnywhere, prefix[0] == 0 ? "/" : prefix)));
  BITNET_TRY(open_kept(host, base, "/opt", to_write, &host->opt));
  const Error error = open_kept(host, host->opt, kFolderPath, to_write, &host->folder);
  if (failed(error)) return is_missing(error) ? Error{Status::kStateMissing, kState} : error;
  if (!to_write) return load_state(host, false);
  // Who may not write is told before anything is begun. The lock is a file that only its owner can
  // open, so that no other user can hold it.
  BITNET_TRY(denied(host, platform::check_writable(host->opt), "/opt"));
  BITNET_TRY(denied(host, platform::check_writable(host->folder), kFolderPath));
  const Result<int> lock = platform::create_file(host->folder, "lock", false);
  BITNET_TRY(denied(host, lock.error(), kFolderPath));
  BITNET_TRY(platform::lock_file(lock.value()));
  int etc = platform::kNone;
  BITNET_TRY(open_kept(host, base, "/etc", true, &etc));
  BITNET_TRY(open_kept(host, etc, kEtcPath, true, &host->etc));
  // A run that was killed may have left names that are not on the disk yet. What is decided now
  // must not be decided by them.
  for (const int folder : {int{base}, etc, host->etc, host->opt, host->folder}) {
    BITNET_TRY(platform::sync_file(folder));
  }
  platform::close_file(etc);
  return load_state(host, true);
}

Error tick(Host* host) {
  const OwnTime before = host->state.time;
  BITNET_TRY(count_time(host));
  const OwnTime& now = host->state.time;
  const bool same_boot = std::strcmp(before.last.boot_id, now.last.boot_id) == 0;
  const bool soon = now.elapsed_s - before.elapsed_s < kTickSeconds;
  return before.last.boot_id[0] == 0 || (same_boot && soon) ? kNoError : save(host);
}

Error commit(Host* host, const char* event, const char* subject) {
  BITNET_TRY(count_time(host));
  host->state.refused.streak = 0;
  return write_line(host, event, subject);
}

Error note_refusal(Host* host, Status status) {
  BITNET_TRY(count_time(host));
  Refusals& refused = host->state.refused;
  refused = {refused.total + 1, refused.streak + 1, host->state.time.elapsed_s,
             static_cast<uint64_t>(status), host->release.update.manifest.sha384};
  if ((refused.streak & (refused.streak - 1)) != 0) return save(host);
  uint8_t subject[160];
  Writer out(subject);
  out.number(refused.total).text(" ").number(refused.status).text(" ").hex(refused.manifest_sha384);
  return write_line(host, "refused", out.ended());
}

bool links_fit(const Host& host) {
  return link_is(host, "bitnet", runs(host.state)) && link_is(host, "bitnet.old", ran(host.state));
}

Error set_links(Host* host) {
  BITNET_TRY(set_link(host, "bitnet.old", ran(host->state)));
  return set_link(host, "bitnet", runs(host->state));
}

Error write_file(int folder, const char* name, uint32_t mode, uint64_t offset, Text bytes) {
  const platform::Handle file(BITNET_VALUE(platform::create_file(folder, name, false)));
  BITNET_TRY(platform::set_length(file, offset));
  BITNET_TRY(platform::write_at(file, offset, bytes));
  BITNET_TRY(platform::set_mode(file, mode));
  return platform::sync_file(file);
}

Error check_installed(Host* host, const ReleaseName& name) {
  const Error gone{Status::kFileMissing, "release"};
  host->at = name;
  const platform::Handle folder(platform::open_folder(host->folder, host->at.text));
  if (failed(folder.error())) return is_missing(folder.error()) ? gone : folder.error();
  const Error error = load_release(folder, "update.sig", &host->release);
  if (failed(error)) return error.status == Status::kFileSystem && is_missing(error) ? gone : error;
  const Manifest& manifest = host->release.update.manifest;
  if (release_name(manifest.counter, manifest.sha384) != name) {
    return Error{Status::kFileDigest, "update.sig"};
  }
  return check_folder(folder, manifest, nullptr, &host->look);
}

Error selftest(Host* host, const ReleaseName& name) {
  const Manifest& manifest = host->release.update.manifest;
  host->at = name;
  const platform::Handle folder(BITNET_VALUE(platform::open_folder(host->folder, host->at.text)));
  for (const char* wanted : {"selftest.answer", "selftest.prompt", "bitnet-infer"}) {
    if (find_file(manifest, wanted) == nullptr) return Error{Status::kSelftest, wanted};
  }
  Text answer;
  const std::span<uint8_t> buffer(host->buffer, kAnswerBytesMax);
  BITNET_TRY(read_whole(folder, "selftest.answer", buffer, &answer));
  const platform::Handle input(BITNET_VALUE(platform::open_file(folder, "selftest.prompt")));
  const platform::Handle program(BITNET_VALUE(platform::open_file(folder, "bitnet-infer")));
  uint8_t place[24];
  const char* seed = Writer(place).number(manifest.selftest_seed).ended();
  const char* arguments[] = {"bitnet-infer", "--config", "config.yaml", "--seed",
                             seed,           "--no-log", nullptr};
  const std::span<uint8_t> output = std::span(host->buffer).subspan(kAnswerBytesMax, answer.size());
  const platform::Finished run =
      BITNET_VALUE(platform::run_program({program, folder, input, arguments, kSelftestMs, output}));
  const Text given(output.first(run.output_bytes));
  const uint64_t code = run.exit_code;
  if (code == 0 && same(given, answer)) return kNoError;
  return Error{code == kExitEnvironment ? Status::kSelftestHost : Status::kSelftest, "bitnet-infer",
               code, given.size(), answer.size()};
}

Error remove_folder(Host* host, const char* name) {
  const platform::Handle folder(platform::open_folder(host->folder, name));
  if (failed(folder.error())) return is_missing(folder.error()) ? kNoError : folder.error();
  BITNET_TRY(platform::set_mode(folder, 0700));
  BITNET_TRY(platform::list_names(folder, &host->look.names));
  for (uint32_t i = 0; i < host->look.names.count; ++i) {
    BITNET_TRY(platform::remove_file(folder, host->look.names.names[i], false));
  }
  return platform::remove_file(host->folder, name, true);
}

}  // namespace bitnet::release
