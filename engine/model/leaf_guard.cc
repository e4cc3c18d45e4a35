// SPDX-License-Identifier: Apache-2.0
#include "model/leaf_guard.h"

#include "base/processor.h"
#include "platform/os.h"

namespace bitnet::model {
namespace {

constexpr uint64_t kGroupLeaves = crypto::kLeafLanesMax;

enum GroupState : uint8_t { kUnchecked, kClaimed, kChecked };

}  // namespace

LeafGuard::LeafGuard(Arena& arena, const format::ModelHeader& header, format::VerifyMode mode)
    : mode_(mode) {
  if (mode != format::VerifyMode::kOff) {
    groups_ = arena.take<uint8_t>((header.leaf_count + kGroupLeaves - 1) / kGroupLeaves);
  }
}

Error LeafGuard::start(std::span<const uint8_t> file, runtime::ThreadTeam& team) {
  const Processor processor = detect_processor(platform::hardware_capabilities());
  file_ = file;
  leaves_ = format::Leaves(file, crypto::choose_leaf_hash(processor));
  if (mode_ != format::VerifyMode::kOff) {
    struct Job {
      LeafGuard* guard;
      uint32_t threads;
    } job{this, team.size()};
    team.run(
        [](void* context, uint32_t thread) {
          const Job& all = *static_cast<Job*>(context);
          all.guard->check_at_start(thread, all.threads);
        },
        &job);
  }
  return error();
}

/// One thread's share. With `lazy` places come from the table that nobody has checked yet: an entry
/// that points outside the data is left to load_model.
void LeafGuard::check_at_start(uint32_t share, uint32_t shares) {
  if (mode_ == format::VerifyMode::kFull) return check({0, leaves_.count()}, share, shares);
  const auto& header = *reinterpret_cast<const format::ModelHeader*>(file_.data());
  const auto* entries =
      reinterpret_cast<const format::TensorEntry*>(file_.data() + sizeof(format::ModelHeader));
  for (const format::TensorEntry& entry : std::span(entries, header.tensor_count)) {
    const uint64_t end = header.leaves_offset;
    if (entry.offset < header.data_offset || entry.offset >= end || entry.bytes == 0 ||
        entry.bytes > end - entry.offset || entry.rows == 0 || entry.rows > kVocabSizeMax)
      continue;
    if (entry.kind == format::kF32Rows && entry.rows > 1) continue;
    const uint64_t scales = 8ull * pad_lanes(entry.rows);
    const bool whole = entry.kind != format::kInt8Rows || scales > entry.bytes;
    const uint64_t bytes = whole ? entry.bytes : scales;
    const uint8_t* first = file_.data() + entry.offset + entry.bytes - bytes;
    check(leaves_.leaves_of(first, bytes), share, shares);
  }
}

/// The groups of `range` whose number leaves `share` when divided by `shares`.
void LeafGuard::check(format::Leaves::Range range, uint32_t share, uint32_t shares) {
  const uint64_t end = (range.end + kGroupLeaves - 1) / kGroupLeaves;
  for (uint64_t group = range.begin / kGroupLeaves; group < end; ++group) {
    if (shares == 1 || group % shares == share) check_group(group);
  }
}

void LeafGuard::check_group(uint64_t group) {
  uint8_t* state = &groups_[group];
  if (__atomic_load_n(state, __ATOMIC_ACQUIRE) == kChecked) return;
  uint8_t expected = kUnchecked;
  if (__atomic_compare_exchange_n(state, &expected, uint8_t{kClaimed}, false, __ATOMIC_ACQUIRE,
                                  __ATOMIC_ACQUIRE)) {
    const uint64_t begin = group * kGroupLeaves;
    const uint64_t rest = leaves_.count() - begin;
    const uint64_t end = begin + (rest < kGroupLeaves ? rest : kGroupLeaves);
    const uint64_t changed = leaves_.first_changed(begin, end);
    if (changed != end) note_changed(changed);
    __atomic_store_n(state, uint8_t{kChecked}, __ATOMIC_RELEASE);
  }
  // Another thread is at it, where the shares of two threads meet: well under a millisecond.
  while (__atomic_load_n(state, __ATOMIC_ACQUIRE) != kChecked) {
  }
}

void LeafGuard::note_changed(uint64_t leaf) {
  uint64_t seen = __atomic_load_n(&changed_, __ATOMIC_RELAXED);
  while (leaf < seen && !__atomic_compare_exchange_n(&changed_, &seen, leaf, true, __ATOMIC_RELEASE,
                                                     __ATOMIC_RELAXED)) {
  }
}

Error LeafGuard::error() const {
  const uint64_t leaf = __atomic_load_n(&changed_, __ATOMIC_ACQUIRE);
  return leaf == UINT64_MAX ? kNoError : leaves_.changed(leaf);
}

}  // namespace bitnet::model
