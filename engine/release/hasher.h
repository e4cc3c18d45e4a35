// SHA-384 beside the work that brings the bytes.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "platform/os.h"
#include "release/text.h"

namespace bitnet::release {

/// Hashes on a thread of its own while the next piece is decompressed and written: on two cores an
/// update then takes little longer than its two digests. Without a thread it hashes at once.
class Hasher {
 public:
  void begin() {
    const Result<platform::ParkPipe> ask = platform::make_park_pipe();
    const Result<platform::ParkPipe> answer = platform::make_park_pipe();
    ask_ = ask.value();
    answer_ = answer.value();
    if (!ask.ok() || !answer.ok()) return;
    const Result<platform::Thread> thread = platform::start_thread(&Hasher::loop, this);
    thread_ = thread.value();
    threaded_ = thread.ok();
  }
  void end() {
    if (threaded_) {
      hash({});
      platform::join_thread(thread_);
    }
    platform::close_park_pipe(ask_);
    platform::close_park_pipe(answer_);
  }
  void start_digest() { bitnet_sha384_init(&state_); }
  Digest digest() {
    wait();
    Digest digest;
    bitnet_sha384_final(&state_, digest.data());
    return digest;
  }
  /// `piece` stays as it is until the next call. An empty one ends the thread.
  void hash(Text piece) {
    wait();
    piece_ = piece;
    busy_ = threaded_;
    if (threaded_) return platform::park_wake(ask_);
    bitnet_sha384_update(&state_, piece_.data(), piece_.size());
  }
  /// Until the last piece has been hashed.
  void wait() {
    if (busy_) platform::park_wait(answer_);
    busy_ = false;
  }

 private:
  static void* loop(void* self) {
    Hasher& hasher = *static_cast<Hasher*>(self);
    for (;;) {
      platform::park_wait(hasher.ask_);
      if (hasher.piece_.empty()) return nullptr;
      bitnet_sha384_update(&hasher.state_, hasher.piece_.data(), hasher.piece_.size());
      platform::park_wake(hasher.answer_);
    }
  }

  platform::ParkPipe ask_;
  platform::ParkPipe answer_;
  platform::Thread thread_;
  bool threaded_ = false;
  bool busy_ = false;
  Text piece_;
  BitnetDigestState state_{};
};

}  // namespace bitnet::release
