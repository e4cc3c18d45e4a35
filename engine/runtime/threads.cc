// SPDX-License-Identifier: Apache-2.0
#include "runtime/threads.h"

#include "platform/fs.h"

namespace bitnet::runtime {
namespace {

// Between two sections of one token a thread waits well under a microsecond if its peers run; a
// thread that a busy machine has put aside should not make the others burn their time slice.
constexpr uint32_t kSpinCount = 1000;
// With more threads than processors a spinning thread keeps its peer from running.
constexpr uint32_t kSpinCountCrowded = 20;

uint32_t load(const uint32_t* word) { return __atomic_load_n(word, __ATOMIC_SEQ_CST); }
void store(uint32_t* word, uint32_t value) { __atomic_store_n(word, value, __ATOMIC_SEQ_CST); }

/// Orders a store before a later load. Sequentially consistent accesses do that on their own; an
/// emulator was seen that orders an AArch64 store-release and load-acquire less than the
/// architecture.
void fence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  __asm__ volatile("yield");
#endif
}

}  // namespace

Error ThreadTeam::start(uint32_t thread_count, std::span<const uint32_t> cores) {
  ENGINE_CHECK(thread_count >= 1 && thread_count <= kThreadCountMax);
  ENGINE_CHECK(cores.empty() || cores.size() == thread_count);
  spin_count_ = thread_count <= platform::processor_count() ? kSpinCount : kSpinCountCrowded;
  cores_ = cores;
  for (uint32_t i = 0; thread_count > 1 && i < thread_count; ++i) {
    const platform::ParkPipe pipe = BITNET_VALUE(platform::make_park_pipe());
    waiters_[pipe_count_++].pipe = pipe;
  }
  for (; size_ < thread_count; ++size_) {
    Waiter& worker = waiters_[size_];
    worker.team = this;
    worker.thread = BITNET_VALUE(platform::start_thread(worker_main, &worker));
  }
  // All workers have begun their loop when this returns, so what the C library does at the start
  // of a thread is over before steady state.
  const auto pin = [](void* self, uint32_t i) {
    ThreadTeam& team = *static_cast<ThreadTeam*>(self);
    if (!team.cores_.empty()) team.core_errors_[i] = platform::pin_to_core(team.cores_[i]);
  };
  run(pin, this);
  for (uint32_t i = 0; i < thread_count; ++i) BITNET_TRY(core_errors_[i]);
  return kNoError;
}

void ThreadTeam::stop() {
  if (size_ > 1) {
    run(nullptr, nullptr);
    for (uint32_t i = 1; i < size_; ++i) platform::join_thread(waiters_[i].thread);
  }
  for (const Waiter& waiter : std::span(waiters_, pipe_count_)) {
    platform::close_file(waiter.pipe.read_descriptor);
    platform::close_file(waiter.pipe.write_descriptor);
  }
  pipe_count_ = 0;
  size_ = 1;
}

void* ThreadTeam::worker_main(void* argument) {
  auto* own = static_cast<Waiter*>(argument);
  ThreadTeam& team = *own->team;
  const auto index = static_cast<uint32_t>(own - team.waiters_);
  for (uint32_t seen = 0;; ++seen) {
    team.wait_for_change(&team.job_, seen, index);
    if (team.function_ == nullptr) return nullptr;
    team.function_(team.context_, index);
    team.barrier(index);
  }
}

void ThreadTeam::run(Function function, void* context) {
  if (size_ == 1) {
    function(context, 0);
    return;
  }
  function_ = function;
  context_ = context;
  __atomic_add_fetch(&job_, 1, __ATOMIC_SEQ_CST);
  wake_all(0);
  if (function == nullptr) return;
  function(context, 0);
  barrier(0);
}

void ThreadTeam::barrier(uint32_t thread_index) {
  if (size_ == 1) return;
  const uint32_t phase = load(&phase_);
  if (__atomic_add_fetch(&arrived_, 1, __ATOMIC_SEQ_CST) == size_) {
    store(&arrived_, 0);
    store(&phase_, phase + 1);
    wake_all(thread_index);
    return;
  }
  wait_for_change(&phase_, phase, thread_index);
}

// Parking must not miss a wake: the waiter raises its flag and looks again before it reads; the
// waker changes the counter first and writes exactly one byte for every flag that it takes down. So
// a byte is in the pipe if and only if somebody took the flag down, and the waiter then reads it.
void ThreadTeam::wait_for_change(const uint32_t* counter, uint32_t seen, uint32_t thread_index) {
  for (uint32_t spin = 0; spin < spin_count_; ++spin) {
    if (load(counter) != seen) return;
    pause();
  }
  Waiter& waiter = waiters_[thread_index];
  while (load(counter) == seen) {
    store(&waiter.parked, 1);
    fence();
    const bool changed = load(counter) != seen;
    if (changed && __atomic_exchange_n(&waiter.parked, 0, __ATOMIC_SEQ_CST) == 1) return;
    platform::park_wait(waiter.pipe);
  }
}

void ThreadTeam::wake_all(uint32_t except) {
  fence();
  for (uint32_t i = 0; i < size_; ++i) {
    if (i == except) continue;
    if (load(&waiters_[i].parked) == 0) continue;
    if (__atomic_exchange_n(&waiters_[i].parked, 0, __ATOMIC_SEQ_CST) == 1) {
      platform::park_wake(waiters_[i].pipe);
    }
  }
}

}  // namespace bitnet::runtime
