// The lock-down: which layers there are, in which order they are put on, and what happens where one
// is missing. docs/threat_model.md says what each of them stops.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "base/status.h"
#include "format/config.h"
#include "platform/lockdown.h"
#include "runtime/threads.h"

namespace bitnet::runtime {

/// What became of one layer. `detail` is what the layer counts: bytes of memory_lock, dont_dump and
/// mseal, the ABI of landlock, the open descriptors of descriptors, the system calls that filter
/// allows.
struct LayerState {
  bool tried = false;
  platform::Reason reason = 0;  ///< of the first refusal
  uint64_t detail = 0;
  bool on() const { return tried && reason == 0; }
};

/// Memory of the run besides the program's own segments and stacks.
struct RunMemory {
  std::span<const uint8_t> file;     ///< model.bin; may lie in a segment of the program
  std::span<const uint8_t> weights;  ///< what is read of it: the same, or a copy elsewhere
  std::span<const uint8_t> arena;
  std::span<const uint8_t> log;  ///< the ring; empty where there is none
  format::LockScope lock;
};

/// Puts the layers on, in two parts with the start of the threads between them. Each part tries all
/// of its layers, so that a report can show every one; it then returns the first that is missing
/// and not accepted: kProtectionMemory, kProtectionKernel or kProtectionRefused (subject = the
/// layer, value = errno).
class Lockdown {
 public:
  /// `accept_missing`: bit i set where Protection i may be missing.
  explicit Lockdown(uint32_t accept_missing = 0) : accept_missing_(accept_missing) {}

  /// What threads inherit; after it no file can be opened. Everything that will ever be opened must
  /// be open and mapped, and no thread or pipe may exist yet. Also kStreamClosed.
  Error before_threads();
  /// The memory, then the filter. Afterwards the process can read standard input, write standard
  /// output and standard error, and exit.
  Error after_threads(const RunMemory& memory, ThreadTeam& team);

  const LayerState& layer(uint32_t index) const { return layers_[index]; }
  bool accepts(uint32_t index) const { return (accept_missing_ >> index & 1) != 0; }

 private:
  LayerState& state(format::Protection layer) { return layers_[static_cast<uint32_t>(layer)]; }
  /// What one call, of as many as the layer takes, has come to.
  void add(format::Protection layer, platform::Reason reason, uint64_t detail = 0);
  /// Parts of the memory: `lock: arena` leaves out what is constant; stacks are not sealed, the
  /// main one may still grow.
  enum class Kind : uint8_t { kConstant, kChanging, kStack };
  void protect(const RunMemory& run, std::span<const uint8_t> part, Kind kind);
  void protect_memory(const RunMemory& run, ThreadTeam& team);
  void put_filter(const ThreadTeam& team);
  Error first_missing() const;

  uint32_t accept_missing_;
  bool clock_ = true;
  LayerState layers_[format::kProtectionCount];
};

}  // namespace bitnet::runtime
