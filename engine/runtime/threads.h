// A fixed team of threads without futex: they spin briefly, then park in `read` on a pipe.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "base/arena.h"
#include "base/limits.h"
#include "base/status.h"
#include "platform/os.h"

namespace bitnet::runtime {

/// Things [begin, end) of many.
struct Range {
  uint32_t begin;
  uint32_t end;
};

/// Runs a function on all threads of the team. Between runs the workers park and use no processor.
///
/// Steady state uses `read` and `write` on the park pipes and nothing else. How work is divided
/// must not change results; the team promises only that every index 0 … size-1 runs once, and that
/// `barrier` orders memory between all of them.
class ThreadTeam {
 public:
  using Function = void (*)(void* context, uint32_t thread_index);

  /// Starts `thread_count` - 1 workers (1 … kThreadCountMax). Thread i stays on processor cores[i];
  /// without cores the system chooses. The team must not move afterwards.
  /// kNoThread, kNoCore, kSystem; then what was begun is there until `stop`.
  Error start(uint32_t thread_count, std::span<const uint32_t> cores = {});
  /// Ends the workers and closes the pipes. Only for the library; a program just exits.
  void stop();

  /// Calls function(context, i) on every thread; returns when all have returned.
  void run(Function function, void* context);
  /// Inside `run`: waits until every thread of the team has come here.
  void barrier(uint32_t thread_index);
  uint32_t size() const { return size_; }
  /// The part of `count` things that a thread of the team does.
  Range share(uint32_t count, uint32_t thread_index) const {
    const uint64_t all = count;
    return {static_cast<uint32_t>(all * thread_index / size_),
            static_cast<uint32_t>(all * (thread_index + 1) / size_)};
  }
  /// The park pipes, one a thread; none where there is one thread.
  uint32_t pipe_count() const { return pipe_count_; }
  const platform::ParkPipe& pipe(uint32_t index) const { return waiters_[index].pipe; }

 private:
  /// One thread, which waits until a counter differs from what it has seen. Each stands on cache
  /// lines of its own.
  struct alignas(128) Waiter {
    uint32_t parked = 0;
    platform::ParkPipe pipe;
    ThreadTeam* team;
    platform::Thread thread;
  };

  static void* worker_main(void* argument);
  void wait_for_change(const uint32_t* counter, uint32_t seen, uint32_t thread_index);
  void wake_all(uint32_t except);

  uint32_t size_ = 1;
  uint32_t pipe_count_ = 0;
  uint32_t spin_count_ = 0;
  std::span<const uint32_t> cores_;
  Error core_errors_[kThreadCountMax];
  Function function_ = nullptr;
  void* context_ = nullptr;
  alignas(128) uint32_t job_ = 0;
  alignas(128) uint32_t arrived_ = 0;
  alignas(128) uint32_t phase_ = 0;
  Waiter waiters_[kThreadCountMax];
};

}  // namespace bitnet::runtime
