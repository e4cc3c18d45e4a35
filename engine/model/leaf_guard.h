// Weights are held against their digests before they are used: all at start, or rows of the tables
// when they are first read.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "base/arena.h"
#include "base/status.h"
#include "format/config.h"
#include "format/leaves.h"
#include "runtime/threads.h"

namespace bitnet::model {

/// `full` checks every leaf at start. `lazy` checks then what every token needs (matrices, norms,
/// frequencies, scales of rows), and of embedding and head what a thread is about to read. `off`,
/// and the state before `bind`, lets everything pass.
///
/// Why  The unit is a group of eight neighbouring leaves: the hash takes as long for one of them.
/// Each is hashed once, by the thread that claims it.
class LeafGuard {
 public:
  LeafGuard() = default;
  /// `header` stands at the beginning of a file that has passed check_model_header, and may have
  /// passed nothing else.
  LeafGuard(Arena& arena, const format::ModelHeader& header, format::VerifyMode mode);

  /// Checks what the mode wants at start, on all threads of the team. kModelLeaf.
  Error start(runtime::ThreadTeam& team);

  /// Before a thread reads rows of a table: checks those of their leaves that are not yet, or waits
  /// for the thread that does. A leaf that does not match is kept for `error`, so that a thread of
  /// the team need not stop.
  void need(const void* weights, size_t bytes) {
    if (!groups_.empty()) check(leaves_.leaves_of(weights, bytes), kAll);
  }
  /// Of the first leaf found that does not match. What was computed since is not to be used.
  Error error() const;

 private:
  static constexpr uint32_t kAll = UINT32_MAX;

  void check(format::Leaves::Range range, uint32_t share);
  void check_group(uint64_t group);
  void check_at_start(uint32_t share);

  const format::ModelHeader* header_ = nullptr;
  format::VerifyMode mode_ = format::VerifyMode::kOff;
  format::Leaves leaves_;
  uint32_t shares_ = 1;
  std::span<uint8_t> groups_;  ///< states of the groups; none if off
  uint64_t changed_ = UINT64_MAX;
};

}  // namespace bitnet::model
