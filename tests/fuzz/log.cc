// The reader of the log ring: any bytes are a ring or are refused, and a ring's records are within.
// SPDX-License-Identifier: Apache-2.0
//
// A ring has half a megabyte and chains that no mutation hits. The input is a recipe instead: it
// says what a writer wrote, then which bytes were changed and where the head is.
#include <cstdlib>
#include <cstring>

#include "runtime/log_ring.h"

using namespace bitnet;
using namespace bitnet::runtime;

namespace {

struct Input {
  const uint8_t* data;
  size_t bytes;
  template <typename T>
  T take() {
    T value = 0;
    const size_t count = bytes < sizeof value ? bytes : sizeof value;
    if (count > 0) std::memcpy(&value, data, count);
    data += count;
    bytes -= count;
    return value;
  }
};

/// A ring with records [first, end), made as docs/formats/log.md says.
void make(uint8_t* ring, uint64_t first, uint64_t end, Input& input) {
  auto& header = *reinterpret_cast<LogHeader*>(ring);
  header = kNewLogHeader;
  header.head = end;
  LogChain chain = log_chain_start(header);
  for (uint64_t sequence = first; sequence < end; ++sequence) {
    LogRecord record{};
    record.sequence = sequence;
    record.event = input.take<uint8_t>();
    record.data_bytes = input.take<uint8_t>() % (kLogDataBytes + 1);
    record.chain = chain = log_chain_next(chain, record);
    std::memcpy(ring + kLogHeaderBytes + sequence % kLogCapacity * sizeof record, &record,
                sizeof record);
  }
}

}  // namespace

extern "C" int fuzz_one(const uint8_t* data, size_t bytes) {
  static uint8_t ring[kLogBytes];
  std::memset(ring, 0, 1u << 14);
  Input input{data, bytes};
  const uint64_t first = input.take<uint8_t>() % 2 == 0 ? 0 : input.take<uint64_t>();
  make(ring, first, first + input.take<uint8_t>() % 64, input);
  const uint64_t head = reinterpret_cast<LogHeader*>(ring)->head;
  const uint64_t head_after = head + input.take<uint8_t>() - 4;
  for (uint32_t changes = input.take<uint8_t>() % 8; changes > 0; --changes) {
    uint8_t& place = ring[input.take<uint32_t>() % (1u << 14)];
    place = static_cast<uint8_t>(place ^ input.take<uint8_t>());
  }
  const size_t size = input.take<uint8_t>() % 16 == 1 ? input.take<uint16_t>() : kLogBytes;
  const Result<LogRange> range =
      check_log({ring, size}, head_after, input.take<uint8_t>() % 2 == 0);
  if (!range.ok()) return 0;
  const LogRange& found = range.value();
  if (found.first > found.end || found.end - found.first > kLogCapacity) std::abort();
  for (uint64_t sequence = found.first; sequence < found.end; ++sequence) {
    const LogRecord& record = log_record(ring, sequence);
    if (record.sequence != sequence || record.data_bytes > kLogDataBytes) std::abort();
  }
  return 0;
}
