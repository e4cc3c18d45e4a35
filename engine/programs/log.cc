// bitnet-log: shows a log ring, from outside and without a right to write.
// SPDX-License-Identifier: Apache-2.0
#include <bit>

#include "platform/fs.h"
#include "platform/os.h"
#include "programs/arguments.h"
#include "programs/report.h"
#include "runtime/log_ring.h"

namespace {

using namespace bitnet;
using runtime::LogRecord;

constexpr uint32_t kPollMs = 200;

constexpr char kHelp[] =
    R"(usage: bitnet-log PATH [--follow] [--json] [--lines N]

Checks the log ring at PATH and shows its records, oldest first. The file is only read.

  --follow     go on as records come, until interrupted or the file is removed
  --json       one JSON object a line; the last one tells of head, chain and writer
  --lines N    begin with the newest N records
  --version    print the version

example: ./bitnet-log /dev/shm/bitnet.log --follow
exit codes: 0 done, 1 failed, 2 usage, 3 the ring was changed or truncated
)";

struct Arguments {
  const char* path = nullptr;
  bool follow = false;
  bool json = false;
  uint64_t lines = UINT64_MAX;
};

alignas(64) uint8_t ring[runtime::kLogBytes];

void print(int descriptor, Writer& line) {
  if (!programs::print(descriptor, line)) platform::exit_process(programs::report(kNoError));
}

/// What the table of events says of a number; nothing of one that it does not know.
struct EventText {
  const char* word;
  const char* labels[3];
  enum Data { none, hex, text } data;
};

EventText event_text(uint32_t number) {
  switch (static_cast<runtime::Event>(number)) {
#define BITNET_EVENT(name, number, word, a, b, c, data) \
  case runtime::Event::name:                            \
    return {word, {a, b, c}, EventText::data};
#include "runtime/events.def"
#undef BITNET_EVENT
  }
  return {"unknown", {"a", "b", "c"}, EventText::hex};
}

void print_record(const LogRecord& record, bool json) {
  const EventText event = event_text(record.event);
  const Text data(record.data, record.data_bytes);
  programs::Line line;
  if (json) {
    line.text("{\"sequence\": ").number(record.sequence).text(", \"monotonic_ns\": ");
    line.number(record.monotonic_ns).text(", \"number\": ").number(record.event);
    line.text(", \"event\": \"").text(event.word).text("\"");
  } else {
    line.number(record.sequence).text(" [").decimal(record.monotonic_ns / 1000, 6).text("] ");
    line.text(event.word);
  }
  for (int i = 0; i < 3; ++i) {
    if (event.labels[i][0] == 0) continue;
    line.text(json ? ", \"" : " ").text(event.labels[i]).text(json ? "\": " : "=");
    line.number(record.numbers[i]);
  }
  if (!data.empty()) {
    line.text(json ? ", \"data\": " : " ");
    event.data == EventText::text ? line.quoted(data) : line.text("\"").hex(data).text("\"");
  }
  print(platform::kStdout, line.text(json ? "}\n" : "\n"));
}

/// Where the ring stands: written down elsewhere, head and chain show later that nothing before
/// them was changed.
void print_state(const runtime::LogRange& range, bool running, bool json) {
  const bool any = range.end > range.first;
  const LogRecord& last = runtime::log_record(ring, range.end - 1);
  const bool ended = any && last.event == static_cast<uint32_t>(runtime::Event::kExit);
  programs::Line line;
  line.text(json ? "{\"head\": " : "head ").number(range.end);
  line.text(json ? ", \"chain\": \"" : ", chain ");
  if (any) line.hex(last.chain);
  line.text(json ? "\", \"writer\": \"" : ", writer ");
  line.text(running ? "running" : ended ? "ended" : any ? "died" : "none");
  print(json ? platform::kStdout : platform::kStderr, line.text(json ? "\"}\n" : "\n"));
}

/// All of `to`, from `offset` on; a file that ends before is no ring.
Error read_part(int file, uint64_t offset, std::span<uint8_t> to) {
  const size_t count = BITNET_VALUE(platform::read_at(file, offset, to));
  return count == to.size() ? kNoError : Error{Status::kLogFormat, "size", offset};
}

/// Copies the ring and checks the copy.
Result<runtime::LogRange> read_ring(int file, bool* running) {
  const bool before = platform::log_has_writer(file);
  const uint64_t bytes = BITNET_VALUE(platform::file_facts(file)).bytes;
  if (bytes != sizeof ring) return Error{Status::kLogFormat, "size", bytes};
  // The head first, on its own: the records up to it are whole then. And once more behind them.
  constexpr uint64_t kHeadOffset = offsetof(runtime::LogHeader, head);
  const std::span<uint8_t> all(ring);
  uint8_t head[sizeof(uint64_t)];
  BITNET_TRY(read_part(file, 0, all.first(runtime::kLogHeaderBytes)));
  BITNET_TRY(read_part(file, runtime::kLogHeaderBytes, all.subspan(runtime::kLogHeaderBytes)));
  const bool after = platform::log_has_writer(file);
  BITNET_TRY(read_part(file, kHeadOffset, head));
  const auto head_after = std::bit_cast<uint64_t>(head);
  // Also one that came in between, or came and went.
  *running = before || after || std::memcmp(head, ring + kHeadOffset, sizeof head) != 0;
  return runtime::check_log(ring, head_after, *running);
}

Error show(const Arguments& arguments) {
  const platform::Handle file(platform::open_file(platform::kAnywhere, arguments.path));
  if (failed(file.error())) {
    return Error{Status::kReadFailed, arguments.path, 0, file.error().value};
  }
  uint64_t next = 0;
  uint64_t seen_end = 0;        // records that were there at an earlier look,
  runtime::LogChain seen = {};  // and the chain of the last of them
  for (bool first = true, was_running = false;; first = false) {
    bool running = false;
    const runtime::LogRange range = BITNET_VALUE(read_ring(file, &running));
    const auto [begin, end] = range;
    if (end < seen_end ||
        (begin < seen_end && runtime::log_record(ring, seen_end - 1).chain != seen))
      return Error{Status::kLogChain, "shown before", seen_end - 1};
    if (first) next = end - (arguments.lines < end - begin ? arguments.lines : end - begin);
    const uint64_t before = next;
    if (begin > next) {
      programs::Line line;
      line.text("note: records lost between two looks: ").number(begin - next);
      print(platform::kStderr, line.text("\n"));
      next = begin;
    }
    for (; next < end; ++next) print_record(runtime::log_record(ring, next), arguments.json);
    if (begin < end) {
      seen_end = end;
      seen = runtime::log_record(ring, end - 1).chain;
    }
    const bool changed = first || running != was_running || (!running && next != before);
    if (changed) print_state(range, running, arguments.json);
    was_running = running;
    if (!arguments.follow) return kNoError;
    platform::sleep_ms(kPollMs);
    const Result<platform::FileFacts> facts = platform::file_facts(file);
    if (!facts.ok() || facts.value().links == 0) return facts.error();
  }
}

}  // namespace

int main(int argument_count, char** argument_values) {
  Arguments arguments;
  programs::Option options[] = {
      {.name = "PATH", .text = &arguments.path, .required = true},
      {.name = "--follow", .flag = &arguments.follow},
      {.name = "--json", .flag = &arguments.json},
      {.name = "--lines", .number = &arguments.lines},
  };
  Error error = programs::parse_arguments(argument_count, argument_values, options, kHelp);
  if (!failed(error)) error = show(arguments);
  return programs::report(error);
}
