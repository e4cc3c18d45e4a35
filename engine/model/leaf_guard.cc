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
    : header_(&header), mode_(mode) {
  if (mode != format::VerifyMode::kOff) {
    groups_ = arena.take<uint8_t>((header.leaf_count + kGroupLeaves - 1) / kGroupLeaves);
  }
}

Error LeafGuard::start(runtime::ThreadTeam& team) {
  const Processor processor = detect_processor(platform::hardware_capabilities());
  const auto* file = reinterpret_cast<const uint8_t*>(header_);
  leaves_ = format::Leaves({file, header_->file_bytes}, crypto::choose_leaf_hash(processor));
  shares_ = team.size();
  const auto check = [](void* self, uint32_t thread) {
    static_cast<LeafGuard*>(self)->check_at_start(thread);
  };
  if (mode_ != format::VerifyMode::kOff) team.run(check, this);
  return error();
}

/// One thread's share. With `lazy` places come from the table that nobody has checked yet: an entry
/// that points outside the data is left to load_model.
void LeafGuard::check_at_start(uint32_t share) {
  if (mode_ == format::VerifyMode::kFull) return check({0, leaves_.count()}, share);
  const auto* file = reinterpret_cast<const uint8_t*>(header_);
  const auto* entries = reinterpret_cast<const format::TensorEntry*>(header_ + 1);
  for (const format::TensorEntry& entry : std::span(entries, header_->tensor_count)) {
    const uint64_t end = header_->leaves_offset;
    if (entry.offset < header_->data_offset || entry.offset >= end || entry.bytes == 0 ||
        entry.bytes > end - entry.offset || entry.rows == 0 || entry.rows > kVocabSizeMax)
      continue;
    if (entry.kind == format::kF32Rows && entry.rows > 1) continue;
    const uint64_t scales = 8ull * pad_lanes(entry.rows);
    const bool whole = entry.kind != format::kInt8Rows || scales > entry.bytes;
    const uint64_t bytes = whole ? entry.bytes : scales;
    const uint8_t* first = file + entry.offset + entry.bytes - bytes;
    check(leaves_.leaves_of(first, bytes), share);
  }
}

/// One thread's share of the groups of `range`, or all of them.
void LeafGuard::check(format::Leaves::Range range, uint32_t share) {
  const uint64_t end = (range.end + kGroupLeaves - 1) / kGroupLeaves;
  for (uint64_t group = range.begin / kGroupLeaves; group < end; ++group) {
    if (share == kAll || group % shares_ == share) check_group(group);
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
    if (changed != end) __atomic_fetch_min(&changed_, changed, __ATOMIC_RELEASE);
    __atomic_store_n(state, uint8_t{kChecked}, __ATOMIC_RELEASE);
  }
  // Another thread is at it, where the shares of two threads meet: well under a millisecond.
  while (__atomic_load_n(state, __ATOMIC_ACQUIRE) != kChecked) {
  }
}

Error LeafGuard::error() const {
  const uint64_t leaf = __atomic_load_n(&changed_, __ATOMIC_ACQUIRE);
  return leaf == UINT64_MAX ? kNoError : leaves_.changed(leaf);
}

}  // namespace bitnet::model
