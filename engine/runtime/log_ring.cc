// SPDX-License-Identifier: Apache-2.0
#include "runtime/log_ring.h"

#include <cstring>

#include "base/text.h"
#include "crypto/crypto.h"
#include "platform/fs.h"
#include "platform/os.h"

namespace bitnet::runtime {
namespace {

constexpr uint8_t kStartDomain = 2;
constexpr uint8_t kRecordDomain = 3;

LogChain digest(uint8_t domain, Text first, Text second) {
  const Digest whole = Sha3().add({&domain, 1}).add(first).add(second).digest();
  LogChain chain;
  std::memcpy(chain.data(), whole.data(), chain.size());
  return chain;
}

/// Whether the record at its place is number `sequence` and follows `before`, which becomes its
/// chain.
bool follows(Text ring, uint64_t sequence, LogChain* before) {
  const LogRecord& record = log_record(ring, sequence);
  *before = log_chain_next(*before, record);
  return record.sequence == sequence && record.data_bytes <= kLogDataBytes &&
         *before == record.chain;
}

Error check_header(Text ring) {
  if (ring.size() != kLogBytes) return Error{Status::kLogFormat, "size", ring.size()};
  if (std::memcmp(ring.data(), &kNewLogHeader, offsetof(LogHeader, made_unix_ns)) != 0)
    return Error{Status::kLogFormat, "header"};
  for (size_t i = offsetof(LogHeader, reserved_a); i < kLogHeaderBytes; ++i) {
    const bool head = i >= offsetof(LogHeader, head) && i < sizeof(LogHeader);
    if (!head && ring[i] != 0) return Error{Status::kLogFormat, "header", i};
  }
  return kNoError;
}

}  // namespace

LogChain log_chain_start(const LogHeader& header) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(&header);
  return digest(kStartDomain, {bytes, offsetof(LogHeader, head)}, {});
}

LogChain log_chain_next(const LogChain& before, const LogRecord& record) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(&record);
  return digest(kRecordDomain, before, {bytes, offsetof(LogRecord, chain)});
}

Result<LogRange> check_log(Text ring, uint64_t head_after, bool writing) {
  BITNET_TRY(check_header(ring));
  const auto& header = *reinterpret_cast<const LogHeader*>(ring.data());
  const uint64_t end = header.head;
  if (head_after < end || head_after > UINT64_MAX / 2) return Error{Status::kLogFormat, "head", 64};
  // The record that a writer overwrites next may be half written, so it is not looked at. The one
  // after it is only where the chain begins again.
  uint64_t first = head_after < kLogCapacity ? 0 : head_after - kLogCapacity + 1;
  LogChain chain = log_chain_start(header);
  if (first > 0 && first < end) chain = log_record(ring, first++).chain;
  if (first > end) return LogRange{end, end};
  for (uint64_t sequence = first; sequence < end; ++sequence) {
    if (!follows(ring, sequence, &chain)) return Error{Status::kLogChain, "ring", sequence};
  }
  // More records than a writer can be ahead: the head was set back.
  if (head_after == end && follows(ring, end, &chain) &&
      (!writing || follows(ring, end + 1, &chain)))
    return Error{Status::kLogChain, "head", end};
  return LogRange{first, end};
}

Error LogWriter::open(const char* path) {
  uint8_t* const memory = BITNET_VALUE(platform::open_log_file(path, kLogBytes));
  const Text ring(memory, kLogBytes);
  auto& header = *reinterpret_cast<LogHeader*>(memory);
  // A file without a header is new, or its first writer died before it had written one.
  constexpr LogHeader kNone{};
  if (std::memcmp(&header, &kNone, sizeof header) == 0) {
    LogHeader made = kNewLogHeader;
    made.made_unix_ns = platform::unix_ns();
    header = made;
  }
  (void)BITNET_VALUE(check_log(ring, header.head, true));
  chain_ = header.head == 0 ? log_chain_start(header) : log_record(ring, header.head - 1).chain;
  ring_ = memory;
  return kNoError;
}

void LogWriter::write(Event event, uint64_t a, uint64_t b, uint64_t c, Text data) {
  if (ring_ == nullptr) return;
  auto& header = *reinterpret_cast<LogHeader*>(ring_);
  LogRecord record{
      header.head, platform::clock_ns(), static_cast<uint32_t>(event), 0, {a, b, c}, {}, {}};
  const size_t bytes = data.size() < kLogDataBytes ? data.size() : kLogDataBytes;
  if (bytes > 0) std::memcpy(record.data, data.data(), bytes);
  record.data_bytes = static_cast<uint32_t>(bytes);
  record.chain = chain_ = log_chain_next(chain_, record);
  const uint64_t place = header.head % kLogCapacity;
  std::memcpy(ring_ + kLogHeaderBytes + place * sizeof record, &record, sizeof record);
  __atomic_store_n(&header.head, record.sequence + 1, __ATOMIC_RELEASE);
}

void LogWriter::write_text(Event event, Text text, uint64_t at, uint64_t total) {
  for (size_t done = 0; done < text.size(); done += kLogDataBytes) {
    write(event, at + done, total, 0, text.subspan(done));
  }
}

}  // namespace bitnet::runtime
