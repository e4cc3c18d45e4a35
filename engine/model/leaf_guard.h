// Weights are held against their digests before they are used: all at start, or each in its time.
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

/// `full` checks every leaf at start. `lazy` keeps a bit for each leaf: at start it checks what
/// the start itself reads (norms, frequencies, scales of rows), later each leaf when a thread first
/// needs it. `off`, and the state before `bind`, lets everything pass.
class LeafGuard {
 public:
  LeafGuard() = default;
  LeafGuard(Arena& arena, const format::ModelHeader& header, format::VerifyMode mode);

  /// Checks what the mode wants at start, on all threads. `file` has passed check_model_header and
  /// nothing else. kModelLeaf.
  Error start(std::span<const uint8_t> file, runtime::ThreadTeam& team);

  /// Before a thread reads weights: with `lazy`, checks those of their leaves that are not yet. A
  /// leaf that does not match is kept for `error`, so that a thread of the team need not stop.
  void need(const void* weights, size_t bytes) {
    if (!checked_.empty()) check(leaves_.leaves_of(weights, bytes));
  }
  /// Of the first leaf found that does not match. What was computed since is not to be used.
  Error error() const;

 private:
  void check(format::Leaves::Range range);
  void check_vectors(std::span<const uint8_t> file);
  void note_changed(uint64_t leaf);

  format::VerifyMode mode_ = format::VerifyMode::kOff;
  format::Leaves leaves_;
  std::span<uint64_t> checked_;  ///< bit i % 64 of word i / 64: leaf i matches; empty unless lazy
  uint64_t changed_ = UINT64_MAX;
};

}  // namespace bitnet::model
