// The log ring: its reader, its writer, and bitnet-log over it; held against docs/formats/log.md.
// SPDX-License-Identifier: Apache-2.0
//
// A ring has half a megabyte and chains that no mutation hits. The input is a recipe instead: it
// says how far a writer came (near the ends of the ring, most of all), then what was changed, and
// what the head says. The records come from one history that is made once; of a ring only those
// places are written again that the run before left otherwise. Digests are stand-ins.
#include <cstdlib>
#include <cstring>

#include "quick_digest.h"
#include "walk.h"

#define main log_main
#include "programs/log.cc"
#undef main

extern "C" {
uint64_t fuzz_accepted = 0;
}

namespace {

using runtime::LogChain;
using runtime::LogHeader;
using runtime::LogRange;

constexpr uint64_t kPlaces = 4096;
constexpr uint64_t kHeaderBytes = 4096;
constexpr uint64_t kBytes = kHeaderBytes + 128 * kPlaces;
constexpr uint64_t kHeadMax = 2 * kPlaces + 128;
constexpr uint64_t kHistory = kHeadMax + 512;
constexpr uint32_t kUnknown = UINT32_MAX;

enum Mode : uint8_t {
  kProgram = 3,    // 0, 1 the reader's check; 2 the writer; 3 bitnet-log
  kWriting = 4,    // a writer lives
  kRechain = 8,    // changed by somebody who makes the chains right again
  kRawHeads = 16,  // heads of any size
  kOtherSize = 32,
  kJson = 64,  // and for the writer: a new file
  kFollow = 128,
};

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

LogRecord history[kHistory];
uint8_t* file = nullptr;  // a ring of exactly its size
uint64_t file_bytes = 0;  // what the readers are told of it
uint32_t holds[kPlaces];  // 1 + the sequence of the record there; 0 none; kUnknown
uint64_t written = 0;     // records of the history that the ring has
LogHeader* header() { return reinterpret_cast<LogHeader*>(file); }
LogRecord* place(uint64_t sequence) {
  return reinterpret_cast<LogRecord*>(file + kHeaderBytes) + sequence % kPlaces;
}

LogChain digest(uint8_t domain, const void* first, size_t first_bytes, const void* second,
                size_t second_bytes) {
  Digest whole;
  BitnetDigestState state;
  bitnet_sha3_384_init(&state);
  bitnet_sha3_384_update(&state, &domain, 1);
  bitnet_sha3_384_update(&state, static_cast<const uint8_t*>(first), first_bytes);
  bitnet_sha3_384_update(&state, static_cast<const uint8_t*>(second), second_bytes);
  bitnet_sha3_384_final(&state, whole.data());
  LogChain chain;
  std::memcpy(chain.data(), whole.data(), chain.size());
  return chain;
}
LogChain start_of(const uint8_t* head) { return digest(2, head, 64, head, 0); }
LogChain next_of(const LogChain& before, const LogRecord& record) {
  return digest(3, before.data(), before.size(), &record, 96);
}

void set_header(uint64_t head) {
  static const uint32_t numbers[] = {0, 128, 4096, 0, 7, 0};  // version to made_unix_ns
  std::memset(file, 0, kHeaderBytes);
  std::memcpy(file, "BNAGRING", 8);
  std::memcpy(file + 8, numbers, sizeof numbers);
  header()->head = head;
}

FUZZ_UNSEEN void make_history() {
  file = static_cast<uint8_t*>(std::malloc(kBytes));
  std::memset(file, 0, kBytes);
  set_header(0);
  LogChain chain = start_of(file);
  uint64_t random = 1;
  for (uint64_t i = 0; i < kHistory; ++i) {
    LogRecord& record = history[i];
    record.sequence = i;
    record.monotonic_ns = i * 1000;
    record.event = static_cast<uint32_t>(i % 12);
    record.data_bytes = static_cast<uint32_t>(i % 3 == 0 ? 48 : i % 49);
    for (size_t k = 0; k < record.data_bytes; ++k) {
      random = random * 6364136223846793005u + 1442695040888963407u;
      record.data[k] = static_cast<uint8_t>(random >> 56);
    }
    record.numbers[0] = random;
    chain = record.chain = next_of(chain, record);
  }
}

/// The ring as a writer leaves it that wrote `count` records of the history.
FUZZ_UNSEEN void write_ring(uint64_t count) {
  for (uint64_t i = 0; i < kPlaces; ++i) {
    const uint64_t last = count > i ? i + (count - 1 - i) / kPlaces * kPlaces : 0;
    const auto want = static_cast<uint32_t>(count > i ? last + 1 : 0);
    if (holds[i] == want) continue;
    if (want == 0) {
      *place(i) = {};
    } else {
      *place(i) = history[last];
    }
    holds[i] = want;
  }
  written = count;
}

/// What was written on top of the history.
void go_on(uint64_t count) {
  for (; count > 0 && written < kHistory; --count, ++written) {
    *place(written) = history[written];
    holds[written % kPlaces] = static_cast<uint32_t>(written + 1);
  }
}

/// By somebody who knows the format: from the record `first` on the chains are right again.
FUZZ_UNSEEN void rechain(uint64_t first) {
  if (first >= written || written - first >= kPlaces) return;
  LogChain chain = first == 0 ? start_of(file) : place(first - 1)->chain;
  for (uint64_t i = first; i < written; ++i) {
    chain = place(i)->chain = next_of(chain, *place(i));
    holds[i % kPlaces] = kUnknown;
  }
}

/// Returns how many changes there were.
uint64_t change(Input& input, bool chains) {
  const uint64_t head = written;
  const uint64_t count = input.take<uint8_t>() % 8;
  uint64_t first = UINT64_MAX;
  for (uint64_t i = 0; i < count; ++i) {
    const auto where = static_cast<uint64_t>(input.take<int16_t>());
    const auto byte = input.take<uint8_t>();
    const auto with = input.take<uint8_t>();
    if (byte >= 128) {
      file[where % kHeaderBytes] ^= with;
      continue;
    }
    const uint64_t sequence =
        head + where % kPlaces - (where % kPlaces < kPlaces / 2 ? 0 : kPlaces);
    reinterpret_cast<uint8_t*>(place(head + where))[byte] ^= with;
    holds[(head + where) % kPlaces] = kUnknown;
    if (sequence < first) first = sequence;
  }
  if (chains) rechain(first);
  return count;
}

/// Whether a reader accepts, and which records; as the page says it.
FUZZ_UNSEEN bool accepts(uint64_t bytes, uint64_t after, bool writing, LogRange* range) {
  static const uint32_t numbers[] = {0, 128, 4096, 0};
  if (bytes != 528384 || std::memcmp(file, "BNAGRING", 8) != 0) return false;
  if (std::memcmp(file + 8, numbers, sizeof numbers) != 0) return false;
  for (uint64_t i = 32; i < kHeaderBytes; ++i) {
    if ((i < 64 || i >= 72) && file[i] != 0) return false;
  }
  const uint64_t head = header()->head;
  if (after < head || after > UINT64_MAX / 2) return false;
  LogChain chain = start_of(file);
  uint64_t first = 0;
  if (after >= kPlaces) {
    // after - 4096 is being overwritten; the chain of the next one is where checking begins.
    first = after - 4094;
    if (first >= head) first = head;
    chain = place(first - 1)->chain;
  }
  *range = {first, head};
  const auto follows = [&chain](uint64_t sequence) {
    const LogRecord& record = *place(sequence);
    chain = next_of(chain, record);
    return record.sequence == sequence && record.data_bytes <= 48 && record.chain == chain;
  };
  for (uint64_t i = first; i < head; ++i) {
    if (!follows(i)) return false;
  }
  return after != head || !follows(head) || (writing && !follows(head + 1));
}

void check(uint64_t after, bool writing) {
  // A file of another size: a block of its own.
  uint8_t* block = file;
  if (file_bytes != kBytes) {
    block = static_cast<uint8_t*>(std::malloc(file_bytes + (file_bytes == 0)));
    std::memcpy(block, file, file_bytes < kBytes ? file_bytes : kBytes);
  }
  LogRange expected;
  const bool right = accepts(file_bytes, after, writing, &expected);
  const Result<LogRange> found = runtime::check_log({block, file_bytes}, after, writing);
  must(found.ok() == right);
  if (right) {
    fuzz_accepted += 1;
    must(found.value().first == expected.first && found.value().end == expected.end);
  }
  if (block != file) std::free(block);
}

/// Goes on with the ring, if it is right or has no header yet, and writes what the input says.
void write_more(Input& input, bool made) {
  if (made) std::memset(file, 0, kHeaderBytes);
  static const uint8_t kZero[kHeaderBytes] = {};
  const bool fresh = std::memcmp(file, kZero, sizeof(LogHeader)) == 0;
  LogRange range;
  const bool right = fresh ? std::memcmp(file, kZero, kHeaderBytes) == 0
                           : accepts(kBytes, header()->head, true, &range);
  runtime::LogWriter writer;
  const Error error = writer.open("ring");
  must(!failed(error) == right);
  if (failed(error)) return;
  fuzz_accepted += 1;
  uint64_t head = header()->head;
  const uint64_t begin = head;
  for (uint64_t count = input.take<uint8_t>() % 16; count > 0; --count) {
    const size_t bytes = input.take<uint8_t>() % 200;
    auto* text = static_cast<uint8_t*>(std::malloc(bytes + 1));
    std::memset(text, input.take<uint8_t>(), bytes);
    if (input.take<uint8_t>() % 2 == 0) {
      writer.write(runtime::Event::kError, head, 2, 3, {text, bytes});
      const LogRecord& record = *place(head++);
      must(record.sequence == head - 1 && record.numbers[0] == head - 1 && record.event == 7);
      must(record.data_bytes == (bytes < 48 ? bytes : 48));
      must(bytes == 0 || std::memcmp(record.data, text, record.data_bytes) == 0);
    } else {
      writer.write_text(runtime::Event::kPromptText, {text, bytes}, 1000, 2000);
      head += (bytes + 47) / 48;
      must(bytes == 0 || place(head - 1)->numbers[0] == 1000 + (bytes - 1) / 48 * 48);
    }
    std::free(text);
    must(header()->head == head);
  }
  for (uint64_t i = begin; i < head; ++i) holds[i % kPlaces] = kUnknown;
  // The writer's own record may stand beyond a head that was set back by one.
  must(accepts(kBytes, head, begin == head, &range) && range.end == head);
}

// What bitnet-log sees: the ring, on which a writer goes on between two looks, and in one.
Input* steps;
uint32_t looks, reads;

void show_ring(Input& input, uint8_t mode, bool right) {
  Arguments arguments{"ring", (mode & kFollow) != 0, (mode & kJson) != 0, input.take<uint8_t>()};
  steps = &input;
  looks = 1 + input.take<uint8_t>() % 4;
  reads = 0;
  const Error error = show(arguments);
  must(!failed(error) || !right);
  fuzz_accepted += !failed(error);
}

}  // namespace

namespace bitnet::platform {

Result<uint8_t*> open_log_file(const char*, size_t bytes) {
  must(bytes == kBytes);
  return file;
}
bool log_has_writer(int) { return reads % 2 != 0; }
Result<int> open_file(int, const char*) { return 7; }
void close_file(int) {}
Result<FileFacts> file_facts(int) { return FileFacts{file_bytes, looks}; }

Result<size_t> read_at(int, uint64_t offset, std::span<uint8_t> buffer) {
  if (offset > file_bytes) return size_t{0};
  const uint64_t left = file_bytes - offset;
  const size_t count = buffer.size() < left ? buffer.size() : left;
  const uint64_t there = offset < kBytes ? kBytes - offset : 0;
  std::memset(buffer.data(), 0, count);
  if (there > 0) std::memcpy(buffer.data(), file + offset, count < there ? count : there);
  // The head is read on its own, first and last; in between the writer goes on.
  if (++reads % 3 == 1 && header()->head == written) {
    go_on(steps->take<uint8_t>() % 8);
    header()->head = written;
  }
  return count;
}

void sleep_ms(uint32_t) {
  looks -= 1;
  if (header()->head == written) {
    // Now and then more than the ring holds.
    const uint64_t more = steps->take<uint8_t>();
    go_on(more == 255 && written < kPlaces ? kPlaces + 3 : more % 64);
    header()->head = written;
  }
  change(*steps, false);
}

Error write_all(int, std::span<const uint8_t> bytes) {
  must(!bytes.empty() && bytes.back() == '\n');
  for (const uint8_t byte : bytes.first(bytes.size() - 1)) must(byte >= 0x20 && byte != 0x7f);
  return kNoError;
}
uint64_t clock_ns() { return 5; }
uint64_t unix_ns() { return 6; }
[[noreturn]] void exit_process(int) { std::abort(); }

}  // namespace bitnet::platform

extern "C" int fuzz_one(const uint8_t* data, size_t bytes) {
  constexpr uint64_t kBases[] = {0, kPlaces, 2 * kPlaces, 40};
  if (file == nullptr) make_history();
  Input input{data, bytes};
  const auto mode = input.take<uint8_t>();
  const uint64_t base = kBases[input.take<uint8_t>() % 4];
  const auto delta = static_cast<uint64_t>(input.take<int8_t>());
  const uint64_t head = base + delta > kHeadMax ? base : base + delta;
  const uint64_t ahead = input.take<uint8_t>() % 8;
  const auto after = static_cast<uint64_t>(input.take<int8_t>());
  file_bytes = kBytes;
  write_ring(head + ahead);
  set_header(head);
  const uint64_t changes = change(input, (mode & kRechain) != 0);
  if (mode & kRawHeads) header()->head = input.take<uint64_t>();
  const uint64_t head_after = mode & kRawHeads ? input.take<uint64_t>() : header()->head + after;
  if (mode & kOtherSize) file_bytes = kBytes + static_cast<uint64_t>(input.take<int16_t>());
  if ((mode & kProgram) < 2) {
    check(head_after, (mode & kWriting) != 0);
  } else if ((mode & kProgram) == 2) {
    write_more(input, (mode & kJson) != 0);
  } else {
    const bool right = ahead == 0 && changes == 0 && (mode & (kRawHeads | kOtherSize)) == 0;
    show_ring(input, mode, right && (mode & kFollow) == 0);
  }
  return 0;
}
