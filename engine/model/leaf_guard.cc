// SPDX-License-Identifier: Apache-2.0
#include "model/leaf_guard.h"

#include "base/processor.h"
#include "platform/os.h"

namespace bitnet::model {

LeafGuard::LeafGuard(Arena& arena, const format::ModelHeader& header, format::VerifyMode mode)
    : mode_(mode) {
  if (mode == format::VerifyMode::kLazy) {
    checked_ = arena.take<uint64_t>(header.leaf_count / 64 + 1);
  }
}

Error LeafGuard::start(std::span<const uint8_t> file, runtime::ThreadTeam& team) {
  const Processor processor = detect_processor(platform::hardware_capabilities());
  leaves_ = format::Leaves(file, crypto::choose_leaf_hash(processor));
  if (mode_ == format::VerifyMode::kLazy) check_vectors(file);
  if (mode_ == format::VerifyMode::kFull) {
    struct Job {
      LeafGuard* guard;
      uint64_t threads;
    } job{this, team.size()};
    team.run(
        [](void* context, uint32_t thread) {
          const Job& all = *static_cast<Job*>(context);
          const format::Leaves& leaves = all.guard->leaves_;
          const uint64_t begin = leaves.count() * thread / all.threads;
          const uint64_t end = leaves.count() * (uint64_t{thread} + 1) / all.threads;
          const uint64_t leaf = leaves.first_changed(begin, end);
          if (leaf != end) all.guard->note_changed(leaf);
        },
        &job);
  }
  return error();
}

/// What load_model reads, found through the table that it has not checked yet: an entry that
/// points outside the data is left to it.
void LeafGuard::check_vectors(std::span<const uint8_t> file) {
  const auto& header = *reinterpret_cast<const format::ModelHeader*>(file.data());
  const auto* entries =
      reinterpret_cast<const format::TensorEntry*>(file.data() + sizeof(format::ModelHeader));
  for (const format::TensorEntry& entry : std::span(entries, header.tensor_count)) {
    const bool vector = entry.kind == format::kF32Rows && entry.rows == 1;
    if (!vector && entry.kind != format::kInt8Rows) continue;
    const uint64_t end = header.leaves_offset;
    if (entry.offset < header.data_offset || entry.offset >= end || entry.bytes == 0 ||
        entry.bytes > end - entry.offset || entry.rows > kVocabSizeMax)
      continue;
    const uint64_t scales = 8ull * pad_lanes(entry.rows);
    const uint64_t read = vector || scales > entry.bytes ? entry.bytes : scales;
    need(file.data() + entry.offset + entry.bytes - read, read);
  }
}

// Two threads that share a leaf may both check it; a bit is set after its leaf was found to match.
void LeafGuard::check(format::Leaves::Range range) {
  for (uint64_t leaf = range.begin; leaf < range.end;) {
    const uint64_t bit = leaf % 64;
    const uint64_t count = range.end - leaf < 64 - bit ? range.end - leaf : 64 - bit;
    const uint64_t mask = (count == 64 ? UINT64_MAX : (1ull << count) - 1) << bit;
    uint64_t* word = &checked_[leaf / 64];
    if ((~__atomic_load_n(word, __ATOMIC_ACQUIRE) & mask) != 0) {
      const uint64_t changed = leaves_.first_changed(leaf, leaf + count);
      if (changed != leaf + count) return note_changed(changed);
      __atomic_fetch_or(word, mask, __ATOMIC_RELEASE);
    }
    leaf += count;
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
