// SPDX-License-Identifier: Apache-2.0
#include "release/state.h"

#include "release/writer.h"

namespace bitnet::release {
namespace {

constexpr uint64_t kClockToleranceSeconds = 60;
constexpr size_t kNameDigits = 16;

/// A name, or `-` for none.
ReleaseName read_release(Scanner* scanner) {
  ReleaseName name;
  uint64_t counter;
  if (scanner->accept("-")) return name;
  const Text text = scanner->name();
  if (scanner->ok() && !parse_release_name(text, &name, &counter)) {
    scanner->fail(Status::kReleaseName);
  }
  return name;
}

const char* or_dash(const char* text) { return text[0] == 0 ? "-" : text; }

void read_time(Scanner* scanner, OwnTime* time) {
  scanner->expect("time ");
  const Text boot = scanner->name();
  if (boot.size() != sizeof time->last.boot_id - 1) scanner->fail(Status::kReleaseName);
  if (scanner->ok()) std::memcpy(time->last.boot_id, boot.data(), boot.size());
  for (uint64_t* value : {&time->last.boot_s, &time->last.wall_s, &time->elapsed_s,
                          &time->uncounted_s, &time->set_back}) {
    scanner->expect(" ");
    *value = scanner->number();
  }
}

void read_releases(Scanner* scanner, State* state) {
  while (scanner->ok() && !scanner->at_end()) {
    if (state->release_count == kReleasesMax) {
      scanner->fail(Status::kReleaseRange, kReleasesMax + 1, kReleasesMax);
      return;
    }
    InstalledRelease& release = state->releases[state->release_count++];
    scanner->expect("release ");
    release.name = read_release(scanner);
    scanner->expect(" ");
    release.installed_s = scanner->number();
    scanner->expect(" ");
    release.retired_s = scanner->number();
    release.failed = scanner->accept(" failed");
    if (!release.failed) scanner->expect(" kept");
    scanner->end_line();
  }
}

/// The name is that of a release in the list, or none.
bool listed(State* state, const ReleaseName& name) {
  return name.none() || find_release(state, name) != nullptr;
}

/// SHA-384 over the digest before and the line up to its own digest.
Digest chain(const Digest& head, Text line) {
  BitnetDigestState digest;
  Digest next;
  bitnet_sha384_init(&digest);
  bitnet_sha384_update(&digest, head.data(), head.size());
  bitnet_sha384_update(&digest, line.data(), line.size());
  bitnet_sha384_final(&digest, next.data());
  return next;
}

}  // namespace

ReleaseName release_name(uint64_t counter, const Digest& manifest_sha384) {
  ReleaseName name;
  uint8_t buffer[sizeof name.text];
  Writer writer(buffer);
  writer.number(counter).text("-").hex(Text(manifest_sha384).first(kNameDigits / 2));
  std::memcpy(name.text, buffer, writer.written().size());
  return name;
}

bool parse_release_name(Text text, ReleaseName* name, uint64_t* counter) {
  uint8_t digits[kNameDigits / 2];
  Scanner scanner(text, "");
  *counter = scanner.number();
  scanner.expect("-");
  scanner.hex(digits);
  scanner.end();
  if (!scanner.ok()) return false;
  *name = ReleaseName{};
  std::memcpy(name->text, text.data(), text.size());
  return true;
}

uint64_t counter_of(const char* name) {
  ReleaseName copy;
  uint64_t counter = 0;
  const Text text(reinterpret_cast<const uint8_t*>(name), std::strlen(name));
  return parse_release_name(text, &copy, &counter) ? counter : 0;
}

void advance(OwnTime* time, const platform::HostTime& now) {
  const bool same_boot = std::strcmp(time->last.boot_id, now.boot_id) == 0;
  const bool first = time->last.boot_id[0] == 0;
  uint64_t passed = now.boot_s;
  if (same_boot) passed = now.boot_s > time->last.boot_s ? now.boot_s - time->last.boot_s : 0;
  if (first) passed = 0;
  const uint64_t expected = time->last.wall_s + passed;
  if (!first && now.wall_s + kClockToleranceSeconds < expected) time->set_back += 1;
  if (!first && now.wall_s > expected + kClockToleranceSeconds) {
    time->uncounted_s += now.wall_s - expected;
  }
  time->elapsed_s += passed;
  time->last = now;
}

Error parse_state(Text text, State* state) {
  *state = State{};
  Scanner scanner(text, "state");
  scanner.expect("bitnet-state v1\nproduct ");
  if (!scanner.accept("-")) {
    const Text product = scanner.name();
    if (scanner.ok()) std::memcpy(state->product, product.data(), product.size());
  }
  scanner.expect("\nfloor ");
  state->floor = scanner.number();
  scanner.expect("\nroot ");
  state->root_version = scanner.number();
  scanner.expect(" ");
  state->root_sha384 = scanner.digest();
  scanner.end_line();
  read_time(&scanner, &state->time);
  scanner.expect("\nlog ");
  state->log_lines = scanner.number();
  scanner.expect(" ");
  state->log_bytes = scanner.number();
  scanner.expect(" ");
  state->log_head = scanner.digest();
  scanner.expect("\ncurrent ");
  state->current = read_release(&scanner);
  scanner.expect("\nold ");
  state->old = read_release(&scanner);
  scanner.expect("\ntrial ");
  state->trial = read_release(&scanner);
  state->ordered = scanner.accept(" ordered");
  scanner.end_line();
  read_releases(&scanner, state);
  if (!scanner.ok()) return scanner.error();
  const bool whole =
      listed(state, state->current) && listed(state, state->old) && listed(state, state->trial);
  return whole ? kNoError : Error{Status::kReleaseName, "state", scanner.line(), 0, 0};
}

Text emit_state(const State& state, std::span<uint8_t> buffer) {
  const OwnTime& time = state.time;
  Writer out(buffer);
  out.text("bitnet-state v1\nproduct ").text(or_dash(state.product));
  out.text("\nfloor ").number(state.floor);
  out.text("\nroot ").number(state.root_version).text(" ").hex(state.root_sha384);
  out.text("\ntime ").text(time.last.boot_id);
  for (const uint64_t value :
       {time.last.boot_s, time.last.wall_s, time.elapsed_s, time.uncounted_s, time.set_back}) {
    out.text(" ").number(value);
  }
  out.text("\nlog ").number(state.log_lines).text(" ").number(state.log_bytes);
  out.text(" ").hex(state.log_head);
  out.text("\ncurrent ").text(or_dash(state.current.text));
  out.text("\nold ").text(or_dash(state.old.text));
  out.text("\ntrial ").text(or_dash(state.trial.text)).text(state.ordered ? " ordered\n" : "\n");
  for (uint32_t i = 0; i < state.release_count; ++i) {
    const InstalledRelease& release = state.releases[i];
    out.text("release ").text(release.name.text).text(" ").number(release.installed_s);
    out.text(" ").number(release.retired_s).text(release.failed ? " failed\n" : " kept\n");
  }
  return out.written();
}

InstalledRelease* find_release(State* state, const ReleaseName& name) {
  for (uint32_t i = 0; i < state->release_count; ++i) {
    if (state->releases[i].name == name) return &state->releases[i];
  }
  return nullptr;
}

void forget_release(State* state, const ReleaseName& name) {
  uint32_t kept = 0;
  for (uint32_t i = 0; i < state->release_count; ++i) {
    if (state->releases[i].name != name) state->releases[kept++] = state->releases[i];
  }
  state->release_count = kept;
  if (state->old == name) state->old = ReleaseName{};
}

Text emit_log_line(State* state, const char* event, const char* subject,
                   std::span<uint8_t> buffer) {
  Writer out(buffer);
  out.number(state->log_lines + 1).text(" ").number(state->time.elapsed_s).text(" ");
  out.number(state->time.last.wall_s).text(" ").text(event).text(" ").text(or_dash(subject));
  out.text(" ");
  state->log_head = chain(state->log_head, out.written());
  out.hex(state->log_head).text("\n");
  state->log_lines += 1;
  state->log_bytes += out.written().size();
  return out.written();
}

size_t check_log_line(Text text, uint64_t number, Digest* head) {
  size_t bytes = 0;
  while (bytes < text.size() && bytes < kLogLineBytesMax && text[bytes] != '\n') ++bytes;
  if (bytes >= text.size() || text[bytes] != '\n' || bytes < kDigestDigits) return 0;
  Scanner line(text.first(bytes), "log");
  if (line.number() != number) return 0;
  Scanner tail(text.subspan(bytes - kDigestDigits, kDigestDigits), "log");
  const Digest found = tail.digest();
  *head = chain(*head, text.first(bytes - kDigestDigits));
  return tail.ok() && found == *head ? bytes + 1 : 0;
}

}  // namespace bitnet::release
