// What this host knows about its releases: one text file, replaced as a whole.
// SPDX-License-Identifier: Apache-2.0
//
// docs/formats/release.md, "State" and "Log". Nothing here reads a file or a clock.
#pragma once

#include "platform/fs.h"
#include "release/manifest.h"

namespace bitnet::release {

inline constexpr uint32_t kReleasesMax = 16;
inline constexpr size_t kStateBytesMax = 8192;
inline constexpr size_t kLogLineBytesMax = 512;

/// Name of a release's folder, `<counter>-<16 digits>`, ended by 0; empty for none.
struct ReleaseName {
  char text[40] = "";
  uint64_t counter = 0;
  bool none() const { return text[0] == 0; }
  bool operator==(const ReleaseName& other) const = default;
};
ReleaseName release_name(uint64_t counter, const Digest& manifest_sha384);
/// Reads such a name; false for any other text.
bool parse_release_name(Text text, ReleaseName* name);

struct InstalledRelease {
  ReleaseName name;
  uint64_t installed_s = 0;  ///< on this host's own record of elapsed time
  uint64_t retired_s = 0;    ///< when another one took its place; 0 where it runs
  bool failed = false;       ///< kept as evidence, never gone back to
};

/// This host's own record of time. `elapsed_s` counts seconds that certainly passed: within a boot
/// the difference of CLOCK_BOOTTIME, across boots what the new boot has lasted. It never runs fast,
/// so nothing is dropped too early; time between the last run before a shutdown and the next boot
/// is not counted. The clock on the wall is compared, never believed.
struct OwnTime {
  platform::HostTime last;
  uint64_t elapsed_s = 0;
  uint64_t uncounted_s = 0;  ///< by how much the clock on the wall went ahead in all
  uint64_t set_back = 0;     ///< how often it went back
};
void advance(OwnTime* time, const platform::HostTime& now);

/// Releases that were refused: how many, how many since the last event of another kind, and the
/// last one.
struct Refusals {
  uint64_t total = 0;
  uint64_t streak = 0;
  uint64_t last_s = 0;
  uint64_t status = 0;       ///< number of its Status
  Digest manifest_sha384{};  ///< zeros where it could not be read
};

struct State {
  char product[kNameBytesMax + 1] = "";  ///< set by the first release
  uint64_t floor = 0;
  uint64_t root_version = 0;  ///< 0: none installed
  Digest root_sha384{};       ///< of its statement
  OwnTime time;
  uint64_t log_lines = 0;
  uint64_t log_bytes = 0;
  Digest log_head{};
  Refusals refused;
  ReleaseName current;   ///< what runs, and has given its answer where it runs
  ReleaseName old;       ///< what ran before
  ReleaseName trial;     ///< what is being switched to; the links already may point to it
  bool ordered = false;  ///< the trial is trusted through a rollback order, not through update.sig
  uint32_t release_count = 0;
  InstalledRelease releases[kReleasesMax];
  std::span<const InstalledRelease> kept() const { return {releases, release_count}; }
};

/// kRelease* with the line of `state`.
Error parse_state(Text text, State* state);
/// Writes the one form of a state; `buffer` has kStateBytesMax.
Text emit_state(const State& state, std::span<uint8_t> buffer);

/// The entry of that name, or null.
InstalledRelease* find_release(State* state, const ReleaseName& name);
void forget_release(State* state, const ReleaseName& name);

/// Makes the next line of the log and counts it in the state; `buffer` has kLogLineBytesMax.
/// SHA-384 over the digest of the line before (zeros for none) and the line binds the whole log.
Text emit_log_line(State* state, const char* event, const char* subject, std::span<uint8_t> buffer);
/// Recomputes a line's digest from `head`, the one before, and replaces it. Returns the bytes of
/// the line, 0 where `text` does not begin with the line that has this number and fits.
size_t check_log_line(Text text, uint64_t number, Digest* head);

}  // namespace bitnet::release
