// SPDX-License-Identifier: Apache-2.0
#include "runtime/lockdown.h"

#include "format/payload.h"

namespace bitnet::runtime {
namespace {

using format::Protection;

constexpr int kFirstOther = platform::kStderr + 1;
constexpr const char* kStreamNames[] = {"standard input", "standard output", "standard error"};

/// A part of the program's memory; `constant` is what `lock: arena` leaves out.
struct Region {
  std::span<const uint8_t> memory;
  bool constant;
};

/// Adds up one layer over several regions: the first refusal is the layer's.
struct Sum {
  platform::Reason reason = 0;
  uint64_t bytes = 0;

  void add(platform::Reason result, uint64_t count) {
    if (result == 0) bytes += count;
    if (reason == 0) reason = result;
  }
};

/// Each thread keeps its own stack in memory and out of dumps.
struct Stacks {
  Sum lock[kThreadCountMax];
  Sum dump[kThreadCountMax];

  static void protect_own(void* context, uint32_t index) {
    auto& self = *static_cast<Stacks*>(context);
    const std::span<const uint8_t> stack = platform::own_stack();
    self.lock[index].add(platform::lock_memory(stack), stack.size());
    self.dump[index].add(platform::exclude_from_dumps(stack), stack.size());
  }
};

bool contains(std::span<const uint8_t> outer, std::span<const uint8_t> inner) {
  return inner.data() >= outer.data() && inner.data() < outer.data() + outer.size();
}

Status status_of(Protection layer, platform::Reason reason) {
  if (layer == Protection::kMemoryLock) return Status::kProtectionMemory;
  return platform::means_unknown(reason) ? Status::kProtectionKernel : Status::kProtectionRefused;
}

}  // namespace

void Lockdown::set(Protection layer, platform::Reason reason, uint64_t detail) {
  state(layer) = {reason == 0, reason, detail};
}

Error Lockdown::first_missing(std::span<const Protection> layers) const {
  for (const Protection layer : layers) {
    const auto index = static_cast<uint32_t>(layer);
    if (layers_[index].on || accepts(index)) continue;
    const platform::Reason reason = layers_[index].reason;
    return Error{status_of(layer, reason), format::kProtectionNames[index], 0, reason};
  }
  return kNoError;
}

Error Lockdown::before_threads() {
  for (int stream = 0; stream < kFirstOther; ++stream) {
    // A pipe or file would take its number, and be taken for it.
    if (!platform::is_open(stream)) return Error{Status::kStreamClosed, kStreamNames[stream]};
  }
  set(Protection::kCoreLimit, platform::forbid_core_files());
  set(Protection::kNotDumpable, platform::forbid_inspection());
  set(Protection::kNoNewPrivileges, platform::forbid_new_privileges());
  set(Protection::kMdwe, platform::forbid_executable_memory());
  uint32_t version = 0;
  const platform::Reason landlock = platform::forbid_files_and_network(&version);
  set(Protection::kLandlock, landlock, version);
  // Now, so that the pipes to come have the numbers from kFirstOther on without a gap.
  set(Protection::kDescriptors, platform::close_descriptors_from(kFirstOther), kFirstOther);
  clock_ = platform::clock_needs_system_call();
  constexpr Protection kLayers[] = {Protection::kCoreLimit,       Protection::kNotDumpable,
                                    Protection::kNoNewPrivileges, Protection::kMdwe,
                                    Protection::kLandlock,        Protection::kDescriptors};
  return first_missing(kLayers);
}

void Lockdown::protect_memory(const RunMemory& memory, ThreadTeam& team) {
  format::Segment segments[format::kSegmentCountMax];
  const platform::ProgramHeaders headers = platform::program_headers();
  const size_t segment_count = format::list_segments(headers.data, headers.count, segments);
  // What the prompt touches comes first: where memory may not be locked in full, it is.
  Region regions[format::kSegmentCountMax + 2] = {{memory.arena, false}};
  size_t count = 1;
  bool weights_inside = false;
  for (size_t i = 0; i < segment_count; ++i) {
    regions[count++] = {segments[i].memory, !segments[i].writable};
    weights_inside = weights_inside || contains(segments[i].memory, memory.weights);
  }
  if (!weights_inside) regions[count++] = {memory.weights, true};

  Stacks stacks;
  team.run(Stacks::protect_own, &stacks);
  Sum lock, dump, seal;
  for (uint32_t i = 0; i < team.size(); ++i) {
    lock.add(stacks.lock[i].reason, stacks.lock[i].bytes);
    dump.add(stacks.dump[i].reason, stacks.dump[i].bytes);
  }
  for (const bool constant : {false, true}) {
    if (constant && memory.lock == format::LockScope::kArena) break;
    for (const Region& region : std::span(regions, count)) {
      if (region.constant != constant) continue;
      // What was copied is not read again.
      if (contains(region.memory, memory.file) && !contains(region.memory, memory.weights))
        continue;
      lock.add(platform::lock_memory(region.memory), region.memory.size());
    }
  }
  for (const Region& region : std::span(regions, count)) {
    dump.add(platform::exclude_from_dumps(region.memory), region.memory.size());
    seal.add(platform::seal_mapping(region.memory), region.memory.size());
  }
  set(Protection::kMemoryLock, lock.reason, lock.bytes);
  set(Protection::kDontDump, dump.reason, dump.bytes);
  set(Protection::kMseal, seal.reason, seal.bytes);
}

void Lockdown::put_filter(const ThreadTeam& team) {
  const platform::FilterPlan plan{kFirstOther, team.pipe_count(), clock_};
  for (uint32_t i = 0; i < plan.pipe_count; ++i) {
    const platform::ParkPipe& pipe = team.pipe(i);
    const int expected = kFirstOther + 2 * static_cast<int>(i);
    if (pipe.read_descriptor != expected || pipe.write_descriptor != expected + 1) {
      return set(Protection::kFilter, platform::kBadDescriptor);
    }
  }
  const uint64_t allowed = clock_ ? 4 : 3;
  set(Protection::kFilter, platform::install_filter(plan), allowed);
}

Error Lockdown::after_threads(const RunMemory& memory, ThreadTeam& team) {
  state(Protection::kDescriptors).detail = kFirstOther + 2 * team.pipe_count();
  protect_memory(memory, team);
  put_filter(team);
  constexpr Protection kLayers[] = {Protection::kMemoryLock, Protection::kDontDump,
                                    Protection::kMseal, Protection::kFilter};
  return first_missing(kLayers);
}

}  // namespace bitnet::runtime
