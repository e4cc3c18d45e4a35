// SPDX-License-Identifier: Apache-2.0
#include "release/update.h"

#include <cstring>

namespace bitnet::release {
namespace {

constexpr uint32_t kEvidenceMax = 4;
constexpr char kRoot[] = "trust.root";
constexpr char kNewRoot[] = ".trust.root-new";
#if defined(__x86_64__)
constexpr char kArchitecture[] = "x86_64";
#else
constexpr char kArchitecture[] = "aarch64";
#endif

/// Whether this host could not do its part: nothing is held against the release.
bool of_host(const Error& error) {
  return error.status == Status::kFileSystem || error.status == Status::kSelftestHost;
}

/// The entry of a release, new at the end of the list if need be; make_room has run.
InstalledRelease* list_release(State* state, const ReleaseName& name) {
  if (InstalledRelease* found = find_release(state, name); found != nullptr) return found;
  ENGINE_CHECK(state->release_count < kReleasesMax);
  const uint64_t now_s = state->time.elapsed_s;
  state->releases[state->release_count] = {name, now_s, now_s, false};
  return &state->releases[state->release_count++];
}

/// Notes a release as evidence of a failure; but one that is gone back to, and that the system kept
/// from starting, can be gone back to again. Returns `reason`, or why even this failed.
Error keep_evidence(Host* host, const ReleaseName& name, const char* event, const Error& reason) {
  InstalledRelease* release = list_release(&host->state, name);
  release->failed |= !of_host(reason) || name.counter > host->state.current.counter;
  if (release->failed) release->retired_s = host->state.time.elapsed_s;
  BITNET_TRY(commit(host, event, name.text));
  return reason;
}

/// Ends a trial that did not work; the links go back. Returns as keep_evidence.
Error undo_trial(Host* host, const Error& reason) {
  const ReleaseName name = host->state.trial;
  host->state.trial = ReleaseName{};
  host->state.ordered = false;
  const Error error = keep_evidence(host, name, "restored", reason);
  BITNET_TRY(set_links(host));
  return error;
}

/// The second half of a switch, once the trial is durable; again after a power cut.
Error finish_trial(Host* host) {
  State& state = host->state;
  const ReleaseName from = state.current;
  const ReleaseName to = state.trial;
  const bool ordered = state.ordered;
  // 1. The switch: one rename, after the one that notes what ran before.  2. It must start and
  // answer; else the links go back.
  Error error = set_links(host);
  if (!failed(error) && !links_fit(*host)) error = Error{Status::kFileSystem, "bitnet"};
  if (!failed(error)) error = selftest(host, to);
  if (failed(error)) return undo_trial(host, error);
  // 3. Floor, list and end of the trial, in one write.
  if (InstalledRelease* before = find_release(&state, from); before != nullptr) {
    before->retired_s = state.time.elapsed_s;
    before->failed = to.counter < from.counter;
  }
  *find_release(&state, to) = {to, find_release(&state, to)->installed_s, 0, false};
  const uint64_t brought = host->release.update.manifest.minimum_counter;
  if (ordered) state.floor = to.counter;
  if (!ordered && brought > state.floor) state.floor = brought;
  state.old = from;
  state.current = to;
  state.trial = ReleaseName{};
  state.ordered = false;
  return commit(host, "installed", to.text);
}

/// Forgets a release, then removes its files; recovery repeats the second.
Error prune(Host* host, const ReleaseName& name) {
  forget_release(&host->state, name);
  BITNET_TRY(commit(host, "pruned", name.text));
  host->at = name;
  return remove_folder(host, host->at.text);
}

/// What is to go first: evidence beyond its quota, else what was replaced longest ago and at least
/// `keep_s` ago. Never what runs or ran before.
ReleaseName pick_prunable(const State& state, uint64_t keep_s, uint32_t evidence_max) {
  const InstalledRelease* oldest[2] = {nullptr, nullptr};
  uint32_t evidence = 0;
  for (const InstalledRelease& release : state.kept()) {
    evidence += release.failed ? 1 : 0;
    if (release.name == state.current || release.name == state.old) continue;
    if (!release.failed && state.time.elapsed_s - release.retired_s <= keep_s) continue;
    const InstalledRelease*& place = oldest[release.failed ? 0 : 1];
    if (place == nullptr || release.retired_s < place->retired_s) place = &release;
  }
  if (evidence > evidence_max && oldest[0] != nullptr) return oldest[0]->name;
  return oldest[1] != nullptr ? oldest[1]->name : ReleaseName{};
}

/// Removes evidence beyond its quota, and what was replaced longer ago than `keep_s`.
Error prune_all(Host* host, uint64_t keep_s) {
  for (ReleaseName old; !(old = pick_prunable(host->state, keep_s, kEvidenceMax)).none();) {
    BITNET_TRY(prune(host, old));
  }
  return kNoError;
}

/// The switch, from the first note of it; then what was replaced longer ago than `keep_s` goes.
Error switch_to(Host* host, const ReleaseName& name, bool ordered, uint64_t keep_s) {
  State& state = host->state;
  (void)list_release(&state, name);
  state.trial = name;
  state.ordered = ordered;
  BITNET_TRY(commit(host, "trial", name.text));
  BITNET_TRY(finish_trial(host));
  host->changed = true;
  return prune_all(host, keep_s);
}

/// Makes room for one more on the list.
Error make_room(Host* host) {
  if (host->state.release_count < kReleasesMax) return kNoError;
  const ReleaseName name = pick_prunable(host->state, 0, 0);
  if (name.none()) return Error{Status::kReleasesFull, "state", 0, kReleasesMax, kReleasesMax};
  return prune(host, name);
}

/// Reads and checks a rollback order, if there is one. It permits one step, from what runs.
Error load_order(Host* host, const char* path) {
  if (path == nullptr) return kNoError;
  Container container;
  BITNET_TRY(load_container(platform::kAnywhere, path, host->other_file, &container));
  BITNET_TRY(parse_rollback_order(container.statement, &host->order));
  Approval approval;
  BITNET_TRY(check_threshold(host->root, order_role(host->root), container, path, &approval));
  const uint64_t current = host->state.current.counter;
  const bool fits = same(host->order.product, host->state.product) && host->order.from == current;
  return fits ? kNoError : Error{Status::kOrder, path, 0, host->order.from, current};
}

Error check_signers(Host* host, const char* subject) {
  return check_release(host->root, host->release.container, subject, &host->release.approvals);
}

/// Reads update.sig and decides whether its release is trusted, and meant for this host.
Error load_update(Host* host, const char* signature) {
  BITNET_TRY(load_release(platform::kAnywhere, signature, &host->release));
  BITNET_TRY(check_signers(host, signature));
  const Manifest& manifest = host->release.update.manifest;
  if (!same(manifest.architecture, kArchitecture)) return Error{Status::kProduct, kArchitecture};
  const char* product = host->state.product;
  if (product[0] != 0 && !same(manifest.product, product)) return Error{Status::kProduct, product};
  return kNoError;
}

/// Newer than what runs, and not below the floor; or exactly what an order permits.
Error check_counter(const Host& host, bool ordered) {
  const Manifest& manifest = host.release.update.manifest;
  const uint64_t counter = manifest.counter;
  if (ordered) {
    const bool fits = host.order.to == counter && host.order.manifest_sha384 == manifest.sha384;
    return fits ? kNoError : Error{Status::kOrder, "order", 0, host.order.to, counter};
  }
  const uint64_t current = host.state.current.counter;
  const uint64_t least = current >= host.state.floor ? current + 1 : host.state.floor;
  if (counter >= least) return kNoError;
  return Error{Status::kDowngrade, "update.sig", 0, counter, least};
}

/// Unpacks the bundle into a folder that nobody else can open. Whatever can be decided without
/// the content has been decided before the folder is made.
Error unpack(Host* host) {
  const Manifest& manifest = host->release.update.manifest;
  BITNET_TRY(open_archive(manifest, &host->bundle, host->zstd, host->buffer, &host->archive));
  BITNET_TRY(platform::make_folder(host->folder, kIncoming, 0700));
  const platform::Handle folder(BITNET_VALUE(platform::open_folder(host->folder, kIncoming)));
  BITNET_TRY(unpack_archive(&host->archive, folder));
  BITNET_TRY(write_file(folder, "MANIFEST", 0444, 0, manifest.text));
  BITNET_TRY(write_file(folder, "update.sig", 0444, 0, host->release.container.file));
  BITNET_TRY(platform::set_mode(folder, 0555));
  return platform::sync_file(folder);
}

/// Puts the release that was verified into its folder. What was kept under this name is replaced.
Error obtain(Host* host, const ReleaseName& name, std::span<const char* const> paths) {
  const UpdateStatement& update = host->release.update;
  if (update.bundle_bytes == 0) return Error{Status::kNoBundle, "update.sig"};
  BITNET_TRY(open_bundle(paths, update.bundle_sha384, update.bundle_bytes, &host->bundle));
  Error error = unpack(host);
  if (failed(error) && (error.status != Status::kFileSystem || failed(host->archive.source))) {
    error = explain_refusal(&host->bundle, host->buffer, error);
  }
  // All of it is on the disk, and right: only now it gets its name.
  if (!failed(error) && find_release(&host->state, name) != nullptr) error = prune(host, name);
  if (!failed(error)) error = make_room(host);
  host->at = name;
  if (!failed(error)) error = platform::rename_file(host->folder, kIncoming, host->at.text);
  if (!failed(error)) return platform::sync_file(host->folder);
  (void)failed(remove_folder(host, kIncoming));
  return error;
}

/// The kept release that was replaced last; where only the floor forbids one, *error says so,
/// unless it tells of one that was looked at.
ReleaseName pick_retained(const State& state, uint64_t keep_s, Error* error) {
  const InstalledRelease* best = nullptr;
  for (const InstalledRelease& release : state.kept()) {
    const uint64_t counter = release.name.counter;
    const uint64_t age_s = state.time.elapsed_s - release.retired_s;
    if (release.failed || release.name == state.current || age_s > keep_s) continue;
    if (counter < state.floor) {
      if (error->status != Status::kNothingRetained) continue;
      *error = {Status::kDowngrade, "floor", 0, counter, state.floor};
    } else if (best == nullptr || release.retired_s > best->retired_s ||
               (release.retired_s == best->retired_s && counter > best->name.counter)) {
      best = &release;
    }
  }
  return best != nullptr ? best->name : ReleaseName{};
}

/// Whether a kept release is what it was, and is trusted today or through an order.
Error check_kept(Host* host, const ReleaseName& name, bool ordered) {
  BITNET_TRY(check_installed(host, name));
  return ordered ? kNoError : check_signers(host, "update.sig");
}

/// Loads the root that the state names. Where only its new name is missing, it gets that.
Error load_root(Host* host) {
  if (host->state.root_version == 0) return kNoError;
  for (const char* name : {kRoot, kNewRoot}) {
    Container container;
    const Error error = load_container(host->etc, name, host->root_file, &container);
    if (error.status == Status::kFileSystem && !platform::is_absent(error)) return error;
    if (failed(error) || digest_of(container.statement) != host->state.root_sha384) continue;
    if (name == kNewRoot) {
      BITNET_TRY(platform::rename_file(host->etc, kNewRoot, kRoot));
      BITNET_TRY(platform::sync_file(host->etc));
    }
    return parse_trust_root(container.statement, &host->root);
  }
  return Error{Status::kRootChanged, kRoot};
}

/// Removes folders that look like ours and that no state names.
Error remove_orphans(Host* host) {
  BITNET_TRY(platform::list_names(host->folder, &host->names));
  for (uint32_t i = 0; i < host->names.count; ++i) {
    ReleaseName orphan;
    if (!parse_release_name(text_of(host->names.names[i]), &orphan)) continue;
    if (find_release(&host->state, orphan) != nullptr) continue;
    BITNET_TRY(remove_folder(host, host->names.names[i]));
  }
  return kNoError;
}

/// Numbered as it must be done: each step is permitted by those before it.
Error install(Host* host, std::span<const char* const> paths, const char* signature,
              const char* order) {
  State& state = host->state;
  const bool ordered = order != nullptr;
  // 1. Trust: root, an order where one is given, thresholds, product, processor.
  if (state.root_version == 0) return Error{Status::kRootMissing, kRoot};
  BITNET_TRY(load_order(host, order));
  BITNET_TRY(load_update(host, signature));
  const Manifest& manifest = host->release.update.manifest;
  const ReleaseName name = release_name(manifest.counter, manifest.sha384);
  if (name == state.current) return kNoError;
  // 2. Never older, never below the floor.
  BITNET_TRY(check_counter(*host, ordered));
  // 3. Every byte of the bundle is that which was signed; it is written beside, and gets its name.
  BITNET_TRY(obtain(host, name, paths));
  // 4. The known answer, before anything points to it.
  const Error error = selftest(host, name);
  if (failed(error)) return keep_evidence(host, name, "failed", error);
  // 5. The switch.
  const Text product = manifest.product;
  if (state.product[0] == 0) std::memcpy(state.product, product.data(), product.size());
  return switch_to(host, name, ordered, kKeepSecondsDefault);
}

Error go_back(Host* host, uint64_t keep_s, const char* order) {
  State& state = host->state;
  const bool ordered = order != nullptr;
  Error last{Status::kNothingRetained, "state", 0, state.release_count};
  if (state.current.none()) return last;
  BITNET_TRY(load_order(host, order));
  for (ReleaseName name;;) {
    // 1. The candidate.
    name = ordered ? release_name(host->order.to, host->order.manifest_sha384)
                   : pick_retained(state, keep_s, &last);
    if (name.none() || find_release(&state, name) == nullptr) return last;
    // 2. It is whole, trusted, and answers; else it is marked, and the next one is looked at.
    Error error = check_kept(host, name, ordered);
    if (!failed(error) && ordered) error = check_counter(*host, true);
    if (!failed(error)) error = selftest(host, name);
    if (!failed(error)) return switch_to(host, name, ordered, keep_s);
    if (ordered || of_host(error)) return error;
    last = keep_evidence(host, name, "failed", error);
    if (of_host(last)) return last;
  }
}

/// Recovers, then tries a step. What fails without a line of its own in the log, and not because of
/// this host, was refused.
template <typename Step>
Error attempt(Host* host, Step step) {
  Error error = recover(host);
  host->release.update = UpdateStatement{};
  const uint64_t lines = host->state.log_lines;
  if (!failed(error)) error = step();
  const bool told = of_host(error) || host->state.log_lines != lines;
  if (failed(error) && !told) (void)failed(note_refusal(host, error.status));
  return error;
}

}  // namespace

Error recover(Host* host) {
  // 1. What an interrupted unpacking left goes first: it may have taken the room that all else
  // needs.  2. The root: the old or the new file, whole.  3. Time.
  BITNET_TRY(remove_folder(host, kIncoming));
  BITNET_TRY(load_root(host));
  BITNET_TRY(tick(host));
  // 4. A trial goes on where it can: its release is verified again, to the last byte.
  State& state = host->state;
  if (!state.trial.none()) {
    Error error = check_kept(host, state.trial, state.ordered);
    error = failed(error) ? undo_trial(host, error) : finish_trial(host);
    if (!state.trial.none() || of_host(error)) return error;
  }
  // 5. The links follow the state.  6. What was left lying about goes, and too much evidence.
  BITNET_TRY(set_links(host));
  BITNET_TRY(remove_orphans(host));
  return prune_all(host, UINT64_MAX);
}

Error apply(Host* host, std::span<const char* const> paths, const char* signature,
            const char* order) {
  return attempt(host, [&] { return install(host, paths, signature, order); });
}

Error roll_back(Host* host, uint64_t keep_s, const char* order) {
  return attempt(host, [&] { return go_back(host, keep_s, order); });
}

Error install_root(Host* host, const char* path, const Digest* sha384) {
  State& state = host->state;
  Container container;
  BITNET_TRY(load_container(platform::kAnywhere, path, host->other_file, &container));
  const Digest digest = digest_of(container.statement);
  if (sha384 != nullptr && digest != *sha384) return Error{Status::kRootDigest, path};
  const bool none = host->root.version == 0;  // never installed, or not what was installed
  const bool known = digest == state.root_sha384;
  if (known && !none) return kNoError;
  // 1. The first root, and one in place of what is lost, is the one that a person compared, or that
  // the state names; later ones follow from the one before. Signatures may not be lost either.
  BITNET_TRY(parse_trust_root(container.statement, &host->next_root));
  if (none && !known && sha384 == nullptr) {
    return Error{state.root_version == 0 ? Status::kRootMissing : Status::kRootChanged, path};
  }
  BITNET_TRY(none ? check_own_root(host->next_root, container, path)
                  : check_successor(host->root, host->next_root, container, path));
  BITNET_TRY(denied(host, platform::check_writable(host->etc), kEtcPath));
  // 2. The file beside, on the disk.  3. The state that names it.  4. Its name.
  BITNET_TRY(write_file(host->etc, kNewRoot, 0444, 0, container.file));
  BITNET_TRY(platform::sync_file(host->etc));
  if (!known) {
    state.root_version = host->next_root.version;
    state.root_sha384 = digest;
    BITNET_TRY(commit(host, "root", ""));
  }
  host->changed = true;
  return load_root(host);
}

Error check_log(Host* host) {
  const platform::Handle file(BITNET_VALUE(platform::open_file(host->folder, "log")));
  const State& state = host->state;
  Digest head{};
  uint64_t offset = 0;
  uint64_t fitting = 0;
  for (size_t bytes = 1; bytes > 0 && fitting < state.log_lines; offset += bytes) {
    const std::span<uint8_t> buffer = std::span(host->buffer).first(kLogLineBytesMax);
    const Text text = buffer.first(platform::read_at(file, offset, buffer).value());
    bytes = check_log_line(text, fitting + 1, &head);
    fitting += bytes > 0 ? 1 : 0;
  }
  const bool lines = fitting == state.log_lines;
  if (lines && offset == state.log_bytes && head == state.log_head) return kNoError;
  return Error{Status::kUpdateLog, "log", lines ? fitting : fitting + 1, fitting, state.log_lines};
}

}  // namespace bitnet::release
