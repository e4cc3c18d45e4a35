// SPDX-License-Identifier: Apache-2.0
#include "runtime/lockdown.h"

#include "format/executable.h"

namespace bitnet::runtime {
namespace {

using format::Protection;

constexpr int kFirstOther = platform::kStderr + 1;

bool contains(std::span<const uint8_t> outer, std::span<const uint8_t> inner) {
  return inner.data() >= outer.data() && inner.data() < outer.data() + outer.size();
}

}  // namespace

void Lockdown::add(Protection layer, platform::Reason reason, uint64_t detail) {
  LayerState& sum = state(layer);
  sum.tried = true;
  if (reason == 0) sum.detail += detail;
  if (sum.reason == 0) sum.reason = reason;
}

Error Lockdown::first_missing() const {
  for (uint32_t i = 0; i < format::kProtectionCount; ++i) {
    const LayerState& layer = layers_[i];
    if (!layer.tried || layer.on() || accepts(i)) continue;
    const bool memory = static_cast<Protection>(i) == Protection::kMemoryLock;
    const Status status = memory                                  ? Status::kProtectionMemory
                          : platform::means_unknown(layer.reason) ? Status::kProtectionKernel
                                                                  : Status::kProtectionRefused;
    return Error{status, format::kProtectionNames[i], 0, layer.reason};
  }
  return kNoError;
}

Error Lockdown::before_threads() {
  BITNET_TRY(platform::prepare_streams());
  platform::ignore_broken_pipes();
  add(Protection::kCoreLimit, platform::forbid_core_files());
  add(Protection::kNotDumpable, platform::forbid_inspection());
  add(Protection::kNoNewPrivileges, platform::forbid_new_privileges());
  add(Protection::kMdwe, platform::forbid_executable_memory());
  uint32_t version = 0;
  const platform::Reason landlock = platform::forbid_files_and_network(&version);
  add(Protection::kLandlock, landlock, version);
  // Now, so that the pipes to come have the numbers from kFirstOther on without a gap.
  add(Protection::kDescriptors, platform::close_descriptors_from(kFirstOther), kFirstOther);
  clock_ = platform::clock_needs_system_call();
  return first_missing();
}

void Lockdown::protect(const RunMemory& run, std::span<const uint8_t> part, Kind kind) {
  const bool copied = contains(part, run.file) && !contains(part, run.weights);  // not read again
  const bool left_out = kind == Kind::kConstant && run.lock == format::LockScope::kArena;
  if (!copied && !left_out) {
    add(Protection::kMemoryLock, platform::lock_memory(part), part.size());
  }
  add(Protection::kDontDump, platform::exclude_from_dumps(part), part.size());
  if (kind != Kind::kStack) add(Protection::kMseal, platform::seal_mapping(part), part.size());
}

void Lockdown::protect_memory(const RunMemory& run, ThreadTeam& team) {
  const format::Image image = format::read_image(platform::program_headers());
  // What the prompt touches comes first: where memory may not be locked in full, it is.
  std::span<const uint8_t> stacks[kThreadCountMax];  // each found by its own thread
  const auto find_own = [](void* all, uint32_t thread) {
    static_cast<std::span<const uint8_t>*>(all)[thread] = platform::own_stack();
  };
  team.run(find_own, stacks);
  for (uint32_t i = 0; i < team.size(); ++i) protect(run, stacks[i], Kind::kStack);
  protect(run, run.arena, Kind::kChanging);
  if (!run.log.empty()) protect(run, run.log, Kind::kChanging);
  bool weights_inside = false;
  for (const Kind kind : {Kind::kChanging, Kind::kConstant}) {
    for (const format::Segment& segment : std::span(image.segments, image.segment_count)) {
      if (segment.writable != (kind == Kind::kChanging)) continue;
      protect(run, segment.memory, kind);
      weights_inside = weights_inside || contains(segment.memory, run.weights);
    }
  }
  if (!weights_inside) protect(run, run.weights, Kind::kConstant);
}

void Lockdown::put_filter(const ThreadTeam& team) {
  for (uint32_t i = 0; i < team.pipe_count(); ++i) {
    const platform::ParkPipe& pipe = team.pipe(i);
    const int expected = kFirstOther + 2 * static_cast<int>(i);
    if (pipe.read_descriptor != expected || pipe.write_descriptor != expected + 1) {
      return add(Protection::kFilter, platform::kBadDescriptor);
    }
  }
  const uint64_t allowed = clock_ ? 4 : 3;
  add(Protection::kFilter, platform::install_filter(team.pipe_count(), clock_), allowed);
}

Error Lockdown::after_threads(const RunMemory& memory, ThreadTeam& team) {
  state(Protection::kDescriptors).detail = kFirstOther + 2 * team.pipe_count();
  protect_memory(memory, team);
  put_filter(team);
  return first_missing();
}

}  // namespace bitnet::runtime
