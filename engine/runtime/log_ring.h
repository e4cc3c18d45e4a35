// The log: a ring of fixed records in shared memory, chained by digests. docs/formats/log.md is
// normative.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/status.h"
#include "base/text.h"

namespace bitnet::runtime {

enum class Event : uint32_t {
#define BITNET_EVENT(name, number, ...) name = number,
#include "runtime/events.def"
#undef BITNET_EVENT
};

inline constexpr size_t kLogHeaderBytes = 4096;
inline constexpr uint64_t kLogCapacity = 4096;
inline constexpr size_t kLogDataBytes = 48;
using LogChain = std::array<uint8_t, 32>;

/// The first bytes of the header page; the rest of the page is zero.
struct LogHeader {
  char magic[8];
  uint32_t version;
  uint32_t record_bytes;
  uint64_t capacity;
  uint64_t made_unix_ns;  ///< when the file was made
  uint8_t reserved_a[32];
  uint64_t head;  ///< records written so far: the next sequence; changes last
};
static_assert(offsetof(LogHeader, head) == 64);

struct LogRecord {
  uint64_t sequence;
  uint64_t monotonic_ns;
  uint32_t event;
  uint32_t data_bytes;
  uint64_t numbers[3];
  uint8_t data[kLogDataBytes];
  LogChain chain;
};
static_assert(sizeof(LogRecord) == 128 && offsetof(LogRecord, chain) == 96);
inline constexpr LogHeader kNewLogHeader = {
    {'B', 'N', 'A', 'G', 'R', 'I', 'N', 'G'}, 0, sizeof(LogRecord), kLogCapacity, 0, {}, 0};
inline constexpr size_t kLogBytes = kLogHeaderBytes + kLogCapacity * sizeof(LogRecord);

/// The chain before the first record: over the header's constant part.
LogChain log_chain_start(const LogHeader& header);
/// The chain of a record: over the chain before it and its other bytes.
LogChain log_chain_next(const LogChain& before, const LogRecord& record);

/// What a copy of a ring holds: records [first, end), each checked.
struct LogRange {
  uint64_t first;
  uint64_t end;
};

/// Checks a copy of a ring whose head was copied before the records; `head_after` is the head after
/// that. With `writing` a writer may be one record ahead of its head. kLogFormat (where = offset),
/// kLogChain (where = sequence).
Result<LogRange> check_log(Text ring, uint64_t head_after, bool writing);

inline const LogRecord& log_record(Text ring, uint64_t sequence) {
  return reinterpret_cast<const LogRecord*>(ring.data() + kLogHeaderBytes)[sequence % kLogCapacity];
}

/// The one writer. After `open` it makes no system call.
class LogWriter {
 public:
  /// Makes the ring, or goes on with one that an earlier run of the same user left behind.
  /// kLogFile (value = errno), kLogForeign, kLogBusy, kLogFormat, kLogChain.
  Error open(const char* path);
  /// Adds a record; without `open` nothing happens. Data beyond 48 bytes is left out.
  void write(Event event, uint64_t a = 0, uint64_t b = 0, uint64_t c = 0, Text data = {});
  /// Adds text that began `at` bytes ago, in as many records as it takes; it is of `total` bytes.
  void write_text(Event event, Text text, uint64_t at, uint64_t total);
  /// The ring; empty without `open`.
  Text memory() const { return {ring_, ring_ == nullptr ? 0 : kLogBytes}; }

 private:
  uint8_t* ring_ = nullptr;
  LogChain chain_ = {};
};

}  // namespace bitnet::runtime
