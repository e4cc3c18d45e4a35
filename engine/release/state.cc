// SPDX-License-Identifier: Apache-2.0
#include "release/state.h"

namespace bitnet::release {
namespace {

constexpr uint64_t kClockToleranceSeconds = 60;
constexpr size_t kNameDigits = 16;

const char* or_dash(const char* text) { return text[0] == 0 ? "-" : text; }

/// The limits are known beforehand: all of it fits.
Text whole(const Writer& out) {
  ENGINE_CHECK(!out.cut());
  return out.written();
}

/// Takes the fields of a state from a text: words, and values with a space before each.
class Reader {
 public:
  explicit Reader(Scanner* scanner) : scanner_(*scanner) {}

  void operator()(const char* words) { scanner_.expect(words); }
  void operator()(uint64_t& value) {
    scanner_.expect(" ");
    value = scanner_.number();
  }
  void operator()(Digest& value) {
    scanner_.expect(" ");
    value = scanner_.digest();
  }
  /// A name that fits and is ended by 0, or `-` for none.
  void operator()(std::span<char> value) {
    if (scanner_.accept(" -")) return;
    scanner_.expect(" ");
    const Text name = scanner_.name();
    if (name.size() >= value.size()) return scanner_.fail(Status::kReleaseName);
    if (!name.empty()) std::memcpy(value.data(), name.data(), name.size());
  }
  void operator()(ReleaseName& value) {
    if (scanner_.accept(" -")) return;
    scanner_.expect(" ");
    if (!parse_release_name(scanner_.name(), &value)) scanner_.fail(Status::kReleaseName);
  }
  void flag(bool& value, const char* yes, const char* no) {
    value = scanner_.accept(yes);
    if (!value) scanner_.expect(no);
  }
  /// Whether there is a further release, for which it makes room.
  bool more(uint32_t index, uint32_t& count) {
    if (!scanner_.ok() || scanner_.at_end()) return false;
    if (index < kReleasesMax) count = index + 1;
    if (index == kReleasesMax) scanner_.fail(Status::kReleaseRange, index + 1, kReleasesMax);
    return index < kReleasesMax;
  }

 private:
  Scanner& scanner_;
};

/// Writes them in the same order.
class Emitter {
 public:
  explicit Emitter(Writer* out) : out_(*out) {}

  void operator()(const char* words) { out_.text(words); }
  void operator()(uint64_t value) { out_.text(" ").number(value); }
  void operator()(const Digest& value) { out_.text(" ").hex(value); }
  void operator()(std::span<const char> value) { out_.text(" ").text(or_dash(value.data())); }
  void operator()(const ReleaseName& value) { (*this)(std::span(value.text)); }
  void flag(bool value, const char* yes, const char* no) { out_.text(value ? yes : no); }
  bool more(uint32_t index, uint32_t count) { return index < count; }

 private:
  Writer& out_;
};

/// The one form of a state, for both ways: docs/formats/release.md, "State".
template <typename Way, typename AnyState>
void walk(Way way, AnyState& state) {
  const auto go = [&](auto&&... each) { (way(each), ...); };
  auto& time = state.time;
  auto& refused = state.refused;
  go("bitnet-state v1\nproduct", std::span(state.product), "\nfloor", state.floor);
  go("\nroot", state.root_version, state.root_sha384);
  go("\ntime", std::span(time.last.boot_id), time.last.boot_s, time.last.wall_s, time.elapsed_s,
     time.uncounted_s, time.set_back);
  go("\nlog", state.log_lines, state.log_bytes, state.log_head);
  go("\nrefused", refused.total, refused.streak, refused.last_s, refused.status,
     refused.manifest_sha384);
  go("\ncurrent", state.current, "\nold", state.old, "\ntrial", state.trial);
  way.flag(state.ordered, " ordered\n", "\n");
  for (uint32_t i = 0; way.more(i, state.release_count); ++i) {
    auto& release = state.releases[i];
    go("release", release.name, release.installed_s, release.retired_s);
    way.flag(release.failed, " failed\n", " kept\n");
  }
}

/// The name is that of a release in the list, or none.
bool listed(State* state, const ReleaseName& name) {
  return name.none() || find_release(state, name) != nullptr;
}

/// SHA-384 over the digest before and the line up to its own digest.
Digest chain(const Digest& head, Text line) { return Sha384().add(head).add(line).digest(); }

}  // namespace

ReleaseName release_name(uint64_t counter, const Digest& manifest_sha384) {
  ReleaseName name;
  uint8_t place[sizeof name.text];
  const Text digits = Text(manifest_sha384).first(kNameDigits / 2);
  const Text text = Writer(place).number(counter).text("-").hex(digits).written();
  ENGINE_CHECK(parse_release_name(text, &name));
  return name;
}

bool parse_release_name(Text text, ReleaseName* name) {
  uint8_t digits[kNameDigits / 2];
  Scanner scanner(text, "");
  *name = ReleaseName{};
  name->counter = scanner.number();
  scanner.expect("-");
  scanner.hex(digits);
  scanner.end();
  if (scanner.ok()) std::memcpy(name->text, text.data(), text.size());
  return scanner.ok();
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
  walk(Reader(&scanner), *state);
  if (!scanner.ok()) return scanner.error();
  const bool whole = find_release(state, ReleaseName{}) == nullptr &&
                     listed(state, state->current) && listed(state, state->old) &&
                     listed(state, state->trial);
  return whole ? kNoError : Error{Status::kReleaseName, "state", scanner.line(), 0, 0};
}

Text emit_state(const State& state, std::span<uint8_t> buffer) {
  Writer out(buffer);
  walk(Emitter(&out), state);
  return whole(out);
}

InstalledRelease* find_release(State* state, const ReleaseName& name) {
  for (InstalledRelease& release : std::span(state->releases, state->release_count)) {
    if (release.name == name) return &release;
  }
  return nullptr;
}

void forget_release(State* state, const ReleaseName& name) {
  uint32_t kept = 0;
  for (const InstalledRelease& release : state->kept()) {
    if (release.name != name) state->releases[kept++] = release;
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
  return whole(out);
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
