// Times the forward pass: decode token by token, prefill chunk by chunk.
// SPDX-License-Identifier: Apache-2.0
//
// usage: decode MODEL ISA THREADS CHUNK CONTEXT KV_CACHE WEIGHTS
//
// KV_CACHE is the number of a format::KvCacheKind, WEIGHTS that of a format::WeightsPlace.
//
// One command a line on standard input, one JSON object a line on standard output; the first line
// tells of the session. The model is mapped from its file, or copied from there. Between commands
// nothing runs, so that several of these programs can be measured in turns.
//
//   decode POSITION COUNT    one token after the other from POSITION on, greedy; ns: each token
//   prefill POSITION COUNT   COUNT tokens from POSITION on, in chunks; ns: each chunk
//
// Answer: {"ns": [...], "next": the token that a greedy choice takes after the last one,
// "head_bytes": what the choices have read of the head, "faults": pages that had to be mapped
// meanwhile, "reads": of these, pages read from a disk}. What a decode attends to is what earlier
// commands left in the cache: prefill it first. A time contains the choice of the next token, as in
// the product. The tokens of a prompt, and the first of a decode, come from SplitMix64 of their
// position.
#include <sys/resource.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "model/session.h"
#include "platform/os.h"
#include "programs/report.h"
#include "sampler/sampler.h"

namespace {

using namespace bitnet;

constexpr uint32_t kCountMax = 65536;

struct Program {
  model::Session session;
  sampler::Sampler sampler;
  uint32_t vocab_size = 0;
  uint32_t chunk = 0;
  uint32_t next = 0;
  uint64_t times[kCountMax];
};

Program program;

uint32_t random_token(uint64_t index) {
  uint64_t z = (index + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return static_cast<uint32_t>((z ^ (z >> 31)) % program.vocab_size);
}

/// Chooses after the last forward.
Error choose(uint64_t index) {
  model::Transformer& transformer = program.session.transformer();
  const Result<uint32_t> next = transformer.head().choose(program.sampler, index);
  if (next.ok()) program.next = next.value();
  return next.ok() ? kNoError : next.error();
}

Error decode(uint32_t position, uint32_t count) {
  program.next = random_token(position);
  program.sampler.start({});
  for (uint32_t i = 0; i < count; ++i) {
    const uint64_t begin = platform::clock_ns();
    const uint32_t token = program.next;
    Error error = program.session.transformer().forward({&token, 1}, position + i,
                                                        model::LogitsMode::kChoice);
    if (!failed(error)) error = choose(i);
    if (failed(error)) return error;
    program.times[i] = platform::clock_ns() - begin;
  }
  return kNoError;
}

/// Returns the number of chunks through `chunks`. Only the last one asks for logits.
Error prefill(uint32_t position, uint32_t count, uint32_t* chunks) {
  static uint32_t ids[kPrefillChunkMax];
  *chunks = 0;
  program.sampler.start({});
  for (uint32_t done = 0; done < count;) {
    const uint32_t left = count - done;
    const bool last = left <= program.chunk;
    const uint32_t size = last ? left : program.chunk;
    for (uint32_t i = 0; i < size; ++i) ids[i] = random_token(position + done + i);
    const auto mode = last ? model::LogitsMode::kChoice : model::LogitsMode::kNone;
    const uint64_t begin = platform::clock_ns();
    Error error = program.session.transformer().forward({ids, size}, position + done, mode);
    if (!failed(error) && last) error = choose(0);
    if (failed(error)) return error;
    program.times[(*chunks)++] = platform::clock_ns() - begin;
    done += size;
  }
  return kNoError;
}

struct Faults {
  long minor;
  long major;
};

Faults count_faults() {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return {usage.ru_minflt, usage.ru_majflt};
}

uint64_t head_bytes() { return program.session.transformer().head().cost().bytes; }

void print_answer(uint32_t count, const Faults& before, uint64_t head_bytes_before) {
  const Faults now = count_faults();
  std::printf("{\"ns\": [");
  for (uint32_t i = 0; i < count; ++i) {
    std::printf("%s%llu", i == 0 ? "" : ", ", static_cast<unsigned long long>(program.times[i]));
  }
  std::printf("], \"next\": %u, \"head_bytes\": %llu, \"faults\": %ld, \"reads\": %ld}\n",
              program.next, static_cast<unsigned long long>(head_bytes() - head_bytes_before),
              now.minor + now.major - before.minor - before.major, now.major - before.major);
  std::fflush(stdout);
}

/// Runs one line; returns an exit code.
int run_command(const char* line) {
  char name[16];
  uint32_t position = 0;
  uint32_t count = 0;
  if (std::sscanf(line, "%15s %u %u", name, &position, &count) != 3 || count > kCountMax) return 2;
  uint32_t measured = count;
  const Faults before = count_faults();
  const uint64_t head_bytes_before = head_bytes();
  Error error = kNoError;
  if (std::strcmp(name, "decode") == 0) {
    error = decode(position, count);
  } else if (std::strcmp(name, "prefill") == 0) {
    error = prefill(position, count, &measured);
  } else {
    return 2;
  }
  if (failed(error)) return programs::report(error);
  print_answer(measured, before, head_bytes_before);
  return 0;
}

void take_sampler(void* vocab_size, Arena& arena, bool) {
  program.sampler = sampler::Sampler(arena, *static_cast<uint32_t*>(vocab_size));
}

Error open_session(char** arguments) {
  const uint64_t begin = platform::clock_ns();
  const Result<std::span<const uint8_t>> file = platform::map_file(arguments[1]);
  if (!file.ok()) return file.error();
  const Result<const format::ModelHeader*> header = format::check_model_header(file.value());
  if (!header.ok()) return header.error();
  program.vocab_size = header.value()->vocab_size;
  program.chunk = static_cast<uint32_t>(std::strtoul(arguments[4], nullptr, 10));
  const auto context = static_cast<uint32_t>(std::strtoul(arguments[5], nullptr, 10));
  const auto* isa = reinterpret_cast<const uint8_t*>(arguments[2]);
  const auto threads = static_cast<uint32_t>(std::strtoul(arguments[3], nullptr, 10));
  const auto kv_cache = static_cast<uint32_t>(std::strtoul(arguments[6], nullptr, 10));
  if (kv_cache >= format::kKvCacheKindCount) std::exit(2);
  const bool resident = std::strcmp(arguments[7], "1") == 0;
  const model::SessionOptions options{
      context,
      program.chunk,
      threads,
      {isa, std::strlen(arguments[2])},
      static_cast<format::KvCacheKind>(kv_cache),
      resident ? format::WeightsPlace::kResident : format::WeightsPlace::kMapped};
  const Error error =
      program.session.open(file.value(), options, {take_sampler, &program.vocab_size});
  if (failed(error)) return error;
  std::printf("{\"isa\": \"%s\", \"threads\": %u, \"arena_bytes\": %zu, \"open_ns\": %llu}\n",
              program.session.transformer().kernels().name, threads, program.session.arena().size(),
              static_cast<unsigned long long>(platform::clock_ns() - begin));
  std::fflush(stdout);
  return kNoError;
}

}  // namespace

int main(int argument_count, char** arguments) {
  if (argument_count != 8) return 2;
  if (const Error error = open_session(arguments); failed(error)) return programs::report(error);
  static char line[64];
  while (std::fgets(line, sizeof line, stdin) != nullptr) {
    if (const int code = run_command(line); code != 0) return code;
  }
  return 0;
}
