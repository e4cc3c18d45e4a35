// The record of what is installed, and a line of the log: accepted is only the one form of a value.
// SPDX-License-Identifier: Apache-2.0
#include "release/state.h"

#include <cstdlib>
#include <cstring>

using namespace bitnet;

namespace {

void must(bool condition) {
  if (!condition) std::abort();
}

bool listed(release::State* state, const release::ReleaseName& name) {
  return name.none() || release::find_release(state, name) != nullptr;
}

}  // namespace

extern "C" {
uint64_t fuzz_accepted = 0;
}

extern "C" int fuzz_one(const uint8_t* data, size_t bytes) {
  static release::State state;
  static uint8_t buffer[release::kStateBytesMax];
  if (bytes > release::kStateBytesMax) return 0;
  auto* copy = static_cast<uint8_t*>(std::malloc(bytes + (bytes == 0)));
  std::memcpy(copy, data, bytes);
  const Text text(copy, bytes);
  if (!failed(release::parse_state(text, &state))) {
    fuzz_accepted += 1;
    must(same(release::emit_state(state, buffer), text));
    must(listed(&state, state.current) && listed(&state, state.old) && listed(&state, state.trial));
    must(state.release_count <= release::kReleasesMax);
  }
  Digest head{};
  const size_t line = release::check_log_line(text, 1, &head);
  fuzz_accepted += line != 0;
  must(line <= bytes && line <= release::kLogLineBytesMax);
  must(line == 0 || copy[line - 1] == '\n');
  release::ReleaseName name;
  if (release::parse_release_name(text, &name)) {
    must(std::strlen(name.text) == bytes && std::strtoull(name.text, nullptr, 10) == name.counter);
  }
  std::free(copy);
  return 0;
}
