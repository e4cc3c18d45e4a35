// The one place memory comes from: a region sized before it is reserved, given out at start-up,
// then frozen.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>

#include "base/check.h"

namespace bitnet {

/// A bump allocator with three states. *Counting* (no memory behind it) adds up what a plan asks
/// for; *open* gives memory out; *frozen* stops the program on any further request, which is the
/// proof that nothing is allocated after start-up. The same plan code runs in the first two states.
class Arena {
 public:
  static constexpr size_t kAlignBytes = 64;

  /// Counting state.
  constexpr Arena() = default;
  /// Open state over zeroed memory aligned to kAlignBytes.
  explicit Arena(std::span<uint8_t> memory) : base_(memory.data()), capacity_(memory.size()) {
    ENGINE_CHECK(reinterpret_cast<uintptr_t>(base_) % kAlignBytes == 0);
  }

  /// `count` elements, aligned to 64 bytes, zeroed unless shared; none in the counting state. A
  /// request too large to be a size sets overflowed().
  template <typename T>
  std::span<T> take(size_t count) {
    ENGINE_CHECK(!frozen_);
    constexpr size_t kBytesMax = std::numeric_limits<size_t>::max() / 4;
    const size_t bytes = (count * sizeof(T) + kAlignBytes - 1) / kAlignBytes * kAlignBytes;
    if (count > kBytesMax / sizeof(T) || bytes > 2 * kBytesMax - used_) {
      overflowed_ = true;
      return {};
    }
    const size_t begin = used_;
    used_ += bytes;
    if (base_ == nullptr) return {};
    ENGINE_CHECK(used_ <= capacity_);
    return std::span<T>(reinterpret_cast<T*>(base_ + begin), count);
  }

  /// What is taken from here to `end_sharing` has the memory of what was taken since used() was
  /// `begin`: for things that are never alive together. It holds what the others left there.
  void share_from(size_t begin) {
    ENGINE_CHECK(!frozen_ && begin <= used_);
    shared_end_ = used_ > shared_end_ ? used_ : shared_end_;
    used_ = begin;
  }
  void end_sharing() { used_ = used_ > shared_end_ ? used_ : shared_end_; }

  void freeze() { frozen_ = true; }
  size_t used() const { return used_; }
  bool overflowed() const { return overflowed_; }

 private:
  uint8_t* base_ = nullptr;
  size_t capacity_ = 0;
  size_t used_ = 0;
  size_t shared_end_ = 0;
  bool frozen_ = false;
  bool overflowed_ = false;
};

}  // namespace bitnet
