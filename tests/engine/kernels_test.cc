// Walks all operations of all kernel tables and compares each with the definition, byte for byte.
// SPDX-License-Identifier: Apache-2.0
//
//   kernels_test                      the walk; the last line is `N passed, M failed`
//   kernels_test --walk COUNT SEED    the walk with COUNT random cases an operation
//   kernels_test --tables             one line a table: `NAME available` or `NAME unavailable`
//   kernels_test --evaluate NAME      runs the cases on stdin with table NAME, outputs to stdout
//   kernels_test --bench OPERATION ROUNDS ROUND_MS MATRICES SIZE...
//                                     times all tables in turns, one JSON line a table
//
// A case on stdin: u32 operation, u32 size[6], f32 scalar, u32 input count, then for each input u32
// bytes and the bytes. Its answer: u32 output count, then for each u32 bytes and the bytes.
#include <sys/auxv.h>
#include <unistd.h>

#include <csignal>
#include <ctime>

#include "kernels_case.h"
#include "kernels_definition.h"
#include "kernels_shapes.h"

namespace kernels_test {
namespace {

using namespace bitnet::kernels;

bool available(const KernelLevel& level) {
  return bitnet::detect_processor(getauxval(AT_HWCAP) | uint64_t{getauxval(AT_HWCAP2)} << 32).*
         level.available;
}

/// FNV-1a over all inputs, to see that a kernel leaves them alone.
uint64_t digest_inputs(const Case& c) {
  uint64_t digest = 0xcbf29ce484222325u;
  for (uint32_t i = 0; i < c.input_count; ++i) {
    for (size_t b = 0; b < c.inputs[i].bytes(); ++b) {
      digest = (digest ^ c.inputs[i].data()[b]) * 0x100000001b3u;
    }
  }
  return digest;
}

void report(const char* what, const char* isa, const Case& c, uint32_t output, size_t index) {
  const uint32_t* s = c.size;
  std::printf("FAIL %s: %s %s size %u %u %u %u %u %u seed %llu output %u first difference %zu\n",
              what, kOperationNames[static_cast<uint32_t>(c.operation)], isa, s[0], s[1], s[2],
              s[3], s[4], s[5], static_cast<unsigned long long>(c.seed), output, index);
}

/// True when `found` equals `expected` and nothing else was written.
bool check(const char* isa, const Case& c, const Outputs& expected, const Outputs& found) {
  if (!found.guards_hold()) {
    report("guard bytes were written", isa, c, 0, 0);
    return false;
  }
  for (uint32_t i = 0; i < expected.count; ++i) {
    const Slot& a = expected.slots[i];
    const Slot& b = found.slots[i];
    for (size_t at = 0; at < a.bytes(); ++at) {
      if (a.data()[at] == b.data()[at]) continue;
      report("bytes differ", isa, c, i, at);
      return false;
    }
  }
  return true;
}

struct Counts {
  uint32_t passed = 0;
  uint32_t failed = 0;
};

// What runs, for the report of a crash: reading past an input is one.
Case current;
const char* running = "definition";

void report_crash(int) {
  report("crash", running, current, 0, 0);
  std::fflush(stdout);
  std::_Exit(1);
}

void walk_case(Case& c, Counts& counts) {
  static Outputs expected;
  static Outputs found;
  const uint64_t before = digest_inputs(c);
  running = "definition";
  execute(kernels_definition::definition(), c, expected);
  for (const KernelLevel& level : kernel_levels()) {
    if (!available(level)) continue;
    running = level.name;
    execute(level.table(), c, found);
    bool good = check(level.name, c, expected, found);
    if (digest_inputs(c) != before) {
      report("an input was changed", level.name, c, 0, 0);
      good = false;
    }
    ++(good ? counts.passed : counts.failed);
  }
}

int walk(uint32_t random_count, uint64_t seed) {
  static Slot inputs[kInputCountMax];
  Counts counts;
  std::signal(SIGSEGV, report_crash);
  std::signal(SIGILL, report_crash);
  for (uint32_t operation = 0; operation < kOperationCount; ++operation) {
    current.operation = static_cast<Operation>(operation);
    current.inputs = inputs;
    for (uint32_t i = 0; i < case_count(current.operation, random_count); ++i) {
      current.seed = seed + operation * 1000003ull + i;
      make_case(current, i);
      walk_case(current, counts);
    }
  }
  std::printf("%u passed, %u failed\n", counts.passed, counts.failed);
  return counts.failed == 0 ? 0 : 1;
}

int print_tables() {
  for (const KernelLevel& level : kernel_levels()) {
    std::printf("%s %s\n", level.name, available(level) ? "available" : "unavailable");
  }
  return 0;
}

bool read_exactly(void* to, size_t bytes) { return std::fread(to, 1, bytes, stdin) == bytes; }

void write_exactly(const void* from, size_t bytes) {
  if (std::fwrite(from, 1, bytes, stdout) != bytes) stop("cannot write");
}

/// Reads one case; false at the end of the input.
bool read_case(Case& c) {
  uint32_t operation = 0;
  if (!read_exactly(&operation, sizeof operation)) return false;
  c.operation = static_cast<Operation>(operation);
  const bool header = read_exactly(c.size, sizeof c.size) &&
                      read_exactly(&c.scalar, sizeof c.scalar) &&
                      read_exactly(&c.input_count, sizeof c.input_count);
  if (!header || operation >= kOperationCount || c.input_count > kInputCountMax) stop("bad case");
  for (uint32_t i = 0; i < c.input_count; ++i) {
    uint32_t bytes = 0;
    if (!read_exactly(&bytes, sizeof bytes)) stop("bad case");
    c.inputs[i].prepare(bytes, input_alignment(c.operation), 0);
    if (!read_exactly(c.inputs[i].data(), bytes)) stop("bad case");
  }
  return true;
}

int evaluate(const char* name) {
  static Slot inputs[kInputCountMax];
  static Outputs out;
  const std::span<const KernelLevel> levels = kernel_levels();
  size_t index = 0;
  while (index < levels.size() && std::strcmp(levels[index].name, name) != 0) ++index;
  if (index == levels.size()) stop("no such table");
  if (!available(levels[index])) stop("this processor cannot run the table");
  current.inputs = inputs;
  while (read_case(current)) {
    execute(levels[index].table(), current, out);
    write_exactly(&out.count, sizeof out.count);
    for (uint32_t i = 0; i < out.count; ++i) {
      const uint32_t bytes = static_cast<uint32_t>(out.slots[i].bytes());
      write_exactly(&bytes, sizeof bytes);
      write_exactly(out.slots[i].data(), bytes);
    }
  }
  return std::fflush(stdout) == 0 ? 0 : 2;
}

/// Processor time of this program, so that a busy machine does not count.
double now_ns() {
  timespec time;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) * 1e9 + static_cast<double>(time.tv_nsec);
}

/// What `--bench` measures: `matrices` > 1 gives each call another matrix, so that a set larger
/// than the caches is read from memory.
struct Bench {
  int rounds;
  double round_ns;
  uint32_t matrices;
};

/// Mean nanoseconds of a call over about one round.
double time_round(const KernelTable& table, Case& c, Outputs& out, const Bench& plan) {
  const uint32_t tiles = c.size[2];
  const double begin = now_ns();
  double elapsed = 0.0;
  uint64_t calls = 0;
  do {
    for (uint32_t matrix = 0; matrix < plan.matrices; ++matrix) {
      if (plan.matrices > 1) {
        c.size[1] = matrix * tiles;
        c.size[2] = (matrix + 1) * tiles;
      }
      execute(table, c, out);
      ++calls;
    }
    elapsed = now_ns() - begin;
  } while (elapsed < plan.round_ns);
  c.size[1] = plan.matrices > 1 ? 0 : c.size[1];
  c.size[2] = tiles;
  return elapsed / static_cast<double>(calls);
}

constexpr int kRoundsMax = 100;

/// Times all tables in turns, round after round, and prints a line for each.
void time_tables(Case& c, const Bench& plan) {
  static Outputs out;
  static double times[kKernelLevelsMax][kRoundsMax];
  const std::span<const KernelLevel> levels = kernel_levels();
  out.prefill = false;
  for (int round = 0; round < plan.rounds; ++round) {
    for (uint32_t i = 0; i < levels.size(); ++i) {
      if (available(levels[i])) times[i][round] = time_round(levels[i].table(), c, out, plan);
    }
  }
  for (uint32_t i = 0; i < levels.size(); ++i) {
    if (!available(levels[i])) continue;
    std::printf("{\"operation\": \"%s\", \"isa\": \"%s\", \"ns\": [",
                kOperationNames[static_cast<uint32_t>(c.operation)], levels[i].name);
    for (int round = 0; round < plan.rounds; ++round) {
      std::printf("%s%.1f", round == 0 ? "" : ", ", times[i][round]);
    }
    std::printf("]}\n");
  }
}

/// Arguments: operation, rounds, milliseconds of a round, matrices, sizes.
int bench(int count, char** arguments) {
  static Slot inputs[kInputCountMax];
  const Bench plan = {std::atoi(arguments[1]), std::atof(arguments[2]) * 1e6,
                      static_cast<uint32_t>(std::atoi(arguments[3]))};
  uint32_t operation = 0;
  while (operation < kOperationCount && std::strcmp(kOperationNames[operation], arguments[0])) {
    ++operation;
  }
  if (operation == kOperationCount) stop("no such operation");
  if (plan.rounds < 1 || plan.rounds > kRoundsMax || plan.matrices < 1) stop("bad arguments");
  current.operation = static_cast<Operation>(operation);
  current.inputs = inputs;
  for (int i = 4; i < count && i < 10; ++i) {
    current.size[i - 4] = static_cast<uint32_t>(std::atoi(arguments[i]));
  }
  const uint32_t tiles = current.size[2];
  Random random(1);
  if (plan.matrices > 1) current.size[2] = tiles * plan.matrices;
  fill_case(current, random, 0, true);
  if (plan.matrices > 1) current.size[2] = tiles;
  time_tables(current, plan);
  return 0;
}

int run(int count, char** arguments) {
  const char* mode = count > 1 ? arguments[1] : "--walk";
  if (std::strcmp(mode, "--tables") == 0) return print_tables();
  if (std::strcmp(mode, "--evaluate") == 0 && count == 3) return evaluate(arguments[2]);
  if (std::strcmp(mode, "--bench") == 0 && count > 6) return bench(count - 2, arguments + 2);
  if (std::strcmp(mode, "--walk") != 0 || (count != 1 && count != 4)) stop("bad arguments");
  if (count == 1) return walk(100, 1);
  return walk(static_cast<uint32_t>(std::atoi(arguments[2])),
              std::strtoull(arguments[3], nullptr, 10));
}

}  // namespace
}  // namespace kernels_test

int main(int count, char** arguments) { return kernels_test::run(count, arguments); }
