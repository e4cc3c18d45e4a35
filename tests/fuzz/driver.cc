// A coverage-guided fuzzer for one harness: the pinned compiler instruments, and brings no runtime.
// SPDX-License-Identifier: Apache-2.0
//
//   HARNESS --corpus DIR --crashes DIR --seconds N --seed N [--runs N] [--bytes-max N]
//                                              for N seconds of processor time
//   HARNESS FILE...                            runs each file once, to look at a finding again
//
// The harness defines fuzz_one, which must return 0. A child process mutates inputs and keeps, in
// memory and under --corpus, those that reach a new edge, or an edge a new number of times. The
// input under way stands in memory shared with the parent, so that no way of dying loses it: the
// parent saves it under --crashes and exits with 1. With the same corpus, seed and --runs two runs
// do the same. Numbers and texts that the code compares with (trace-cmp, memcmp) are put into
// inputs, so that magic numbers and keys are found. What the compiler instruments of Zig counts by
// itself, in a section of bytes. This file itself is not instrumented: g++ compiles it.
//
// A harness may define `uint64_t fuzz_accepted` and add 1 for each input that the code under test
// accepted: a harness of which every mutation is refused at the door tests the door alone.
#include <signal.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

extern "C" int fuzz_one(const uint8_t* data, size_t bytes);
extern "C" uint64_t fuzz_accepted __attribute__((weak));

namespace {

using Bytes = std::vector<uint8_t>;

constexpr size_t kEdgesMax = 1u << 17;
constexpr size_t kInputMax = 1u << 20;
constexpr uint64_t kHangSeconds = 20;        // of processor time
constexpr uint64_t kHangSecondsWall = 1800;  // a low priority may leave a harness waiting long

/// What child and parent share: the input under way, and how far the child is.
struct Shared {
  uint64_t executions, edges, features, corpus;
  uint64_t accepted;    // of the mutations, not of what was loaded
  uint64_t slowest_ns;  // processor time of one execution
  uint64_t bytes;
  uint8_t input[kInputMax];
};

struct Options {
  std::string corpus, crashes;
  uint64_t seconds = 10, seed = 1, runs = UINT64_MAX, bytes_max = 4096;
};

uint8_t counters[kEdgesMax];
uint32_t edge_count = 1;

/// Bytes that count edges, and for each a bit for each order of magnitude that it has reached.
struct Edges {
  uint8_t* counts;
  size_t count;
  std::vector<uint8_t> seen;
};
Edges all_edges[2];  // through the calls below; by the code itself
Shared* shared;
Options options;

// Comparisons of the last runs: either side may be what the input should hold. A ring.
struct Compared {
  uint8_t bytes[2][64];
  uint8_t count;
  bool number;  // little-endian, and 0 beyond `count` bytes: it may stand in the input with a width
                // of its own
};
Compared compared[256];
uint32_t compared_count = 0;

volatile bool noting = false;  // only while the harness runs, or the hooks would call themselves

void note(const void* a, const void* b, size_t count) {
  if (!noting || count == 0 || count > sizeof compared[0].bytes[0]) return;
  Compared& row = compared[compared_count++ % 256];
  std::memcpy(row.bytes[0], a, count);
  std::memcpy(row.bytes[1], b, count);
  row.count = static_cast<uint8_t>(count);
  row.number = false;
}

/// Of the program, its heap or its stack, as they lie without chance.
bool is_address(uint64_t value) { return value >> 44 >= 5 && value >> 44 <= 7; }

/// Equal numbers, and the pointers of loops, have nothing to tell and would fill the ring.
void note_numbers(uint64_t a, uint64_t b, uint8_t count) {
  if (!noting || a == b || (is_address(a) && is_address(b))) return;
  Compared& row = compared[compared_count++ % 256];
  std::memcpy(row.bytes[0], &a, sizeof a);
  std::memcpy(row.bytes[1], &b, sizeof b);
  row.count = count;
  row.number = true;
}

}  // namespace

extern "C" {
extern uint8_t __start___sancov_cntrs[] __attribute__((weak));
extern uint8_t __stop___sancov_cntrs[] __attribute__((weak));
thread_local uintptr_t __sancov_lowest_stack = UINTPTR_MAX;

void __sanitizer_cov_trace_pc_guard_init(uint32_t* begin, uint32_t* end) {
  for (uint32_t* guard = begin; guard < end; ++guard) {
    if (*guard == 0 && edge_count < kEdgesMax) *guard = edge_count++;
  }
}
void __sanitizer_cov_trace_pc_guard(uint32_t* guard) {
  uint8_t& counter = counters[*guard];
  counter = static_cast<uint8_t>(counter + (counter != 255));
}
void __sanitizer_cov_trace_cmp1(uint8_t, uint8_t) {}
void __sanitizer_cov_trace_cmp2(uint16_t a, uint16_t b) { note_numbers(a, b, 2); }
void __sanitizer_cov_trace_cmp4(uint32_t a, uint32_t b) { note_numbers(a, b, 4); }
void __sanitizer_cov_trace_cmp8(uint64_t a, uint64_t b) { note_numbers(a, b, 8); }
void __sanitizer_cov_trace_const_cmp1(uint8_t, uint8_t) {}
void __sanitizer_cov_trace_const_cmp2(uint16_t a, uint16_t b) { note_numbers(a, b, 2); }
void __sanitizer_cov_trace_const_cmp4(uint32_t a, uint32_t b) { note_numbers(a, b, 4); }
void __sanitizer_cov_trace_const_cmp8(uint64_t a, uint64_t b) { note_numbers(a, b, 8); }
void __sanitizer_cov_trace_switch(uint64_t value, uint64_t* cases) {
  for (uint64_t i = 0; i < cases[0] && i < 16; ++i) {
    note_numbers(value, cases[2 + i], static_cast<uint8_t>(cases[1] / 8));
  }
}
void __sanitizer_weak_hook_memcmp(void*, const void* a, const void* b, size_t count, int) {
  note(a, b, count);
}
void __sanitizer_weak_hook_strcmp(void*, const char* a, const char* b, int) {
  note(a, b, std::min(std::strlen(a), std::strlen(b)) + 1);
}
}

namespace {

/// SplitMix64.
struct Random {
  uint64_t state;
  uint64_t next() {
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
  }
  size_t below(size_t limit) { return limit == 0 ? 0 : next() % limit; }
};

constexpr uint64_t kInteresting[] = {0,          1,          2,          16,         127,
                                     128,        255,        256,        4095,       4096,
                                     32767,      32768,      65535,      65536,      0x7fffffff,
                                     0x80000000, 0xffffffff, 1ull << 32, 1ull << 63, UINT64_MAX};

void insert(Bytes& input, size_t at, const uint8_t* data, size_t count) {
  input.insert(input.begin() + static_cast<ptrdiff_t>(at), data, data + count);
}

/// Writes the low `width` bytes of a number at a place, so that the size stays.
void put_number(Random& random, Bytes& input, uint64_t value) {
  const size_t width = size_t{1} << random.below(4);
  if (input.size() < width) return;
  std::memcpy(input.data() + random.below(input.size() - width + 1), &value, width);
}

/// How many bytes of a comparison to look for: a number may stand in the input in any width that
/// holds both sides, whatever the width that it was compared in.
size_t width_of(Random& random, const Compared& row) {
  const size_t width = size_t{1} << random.below(4);
  if (!row.number) return row.count;
  for (size_t i = width; i < 8; ++i) {
    if (row.bytes[0][i] != 0 || row.bytes[1][i] != 0) return row.count;
  }
  return width;
}

/// One side of a comparison stands in the input: put the other there; else put it anywhere.
void put_compared(Random& random, Bytes& input, bool steady) {
  if (compared_count == 0) return;
  const Compared& row = compared[random.below(std::min<size_t>(compared_count, 256))];
  const size_t side = random.below(2);
  const size_t count = width_of(random, row);
  const auto* from = row.bytes[side];
  const auto* to = row.bytes[1 - side];
  // Not always the first of several places.
  const auto begin =
      input.begin() + static_cast<ptrdiff_t>(random.below(2) == 0 ? 0 : random.below(input.size()));
  auto place = std::search(begin, input.end(), from, from + count);
  if (place != input.end() && random.below(8) != 0) {
    std::copy(to, to + count, place);
  } else if (!steady && (random.below(2) == 0 || input.size() < count)) {
    insert(input, random.below(input.size() + 1), to, count);
  } else if (input.size() >= count) {
    std::memcpy(input.data() + random.below(input.size() - count + 1), to, count);
  }
}

// The mutations after which every other byte is where it was.
constexpr size_t kSteady[] = {0, 1, 2, 3, 8};

void mutate_once(Random& random, Bytes& input, const std::vector<Bytes>& corpus, bool steady) {
  const size_t size = input.size();
  const size_t at = random.below(size);
  const size_t count = random.below(std::min<size_t>(size - at, 64) + 1);
  const auto place = input.begin() + static_cast<ptrdiff_t>(at);
  switch (steady ? kSteady[random.below(std::size(kSteady))] : random.below(10)) {
    case 0:
      if (size > 0) input[at] = static_cast<uint8_t>(input[at] ^ 1u << random.below(8));
      break;
    case 1:
      if (size > 0) input[at] = static_cast<uint8_t>(random.next());
      break;
    case 2:
      put_number(random, input, kInteresting[random.below(std::size(kInteresting))]);
      break;
    case 3:
      if (size >= 4) {
        uint32_t value;
        const size_t word = random.below(size - 3);
        std::memcpy(&value, &input[word], 4);
        value += static_cast<uint32_t>(random.below(33)) - 16;
        std::memcpy(&input[word], &value, 4);
      }
      break;
    case 4:
      input.erase(place, place + static_cast<ptrdiff_t>(count));
      break;
    case 5: {
      const Bytes piece(place, place + static_cast<ptrdiff_t>(count));
      insert(input, random.below(size + 1), piece.data(), piece.size());
      break;
    }
    case 6: {
      const Bytes same(1 + random.below(64), static_cast<uint8_t>(random.next()));
      insert(input, random.below(size + 1), same.data(), same.size());
      break;
    }
    case 7: {
      const Bytes& other = corpus[random.below(corpus.size())];
      const size_t from = random.below(other.size());
      const size_t length = random.below(other.size() - from + 1);
      if (random.below(2) == 0) input.resize(at);
      insert(input, at, other.data() + from, length);
      break;
    }
    default:
      put_compared(random, input, steady);
  }
}

Bytes mutate(Random& random, const std::vector<Bytes>& corpus) {
  // Half of the time one of the newest, which reach what is not explored yet.
  const size_t newest = std::min<size_t>(corpus.size(), 16);
  const bool recent = random.below(2) == 0;
  const size_t index =
      recent ? corpus.size() - 1 - random.below(newest) : random.below(corpus.size());
  Bytes input = corpus[index];
  // And half of the time nothing moves, as a file of fixed places wants it.
  const bool steady = random.below(2) == 0;
  for (size_t i = size_t{1} << random.below(steady ? 3 : 4); i > 0; --i) {
    mutate_once(random, input, corpus, steady);
  }
  if (input.size() > options.bytes_max) input.resize(options.bytes_max);
  return input;
}

uint8_t magnitude(uint8_t count) {
  return count == 0 ? 0 : static_cast<uint8_t>(1u << (31 - __builtin_clz(count)));
}

void find_edges() {
  all_edges[0] = {counters, edge_count, std::vector<uint8_t>(edge_count)};
  const auto inside = static_cast<size_t>(__stop___sancov_cntrs - __start___sancov_cntrs);
  all_edges[1] = {__start___sancov_cntrs, inside, std::vector<uint8_t>(inside)};
}

/// Returns whether an edge, or a number of times of an edge, was new.
bool note_new(Edges& edges) {
  bool found = false;
  for (size_t i = 0; i < edges.count; ++i) {
    const uint8_t bit = magnitude(edges.counts[i]);
    if ((bit & ~edges.seen[i]) == 0) continue;
    shared->edges += edges.seen[i] == 0;
    ++shared->features;
    edges.seen[i] |= bit;
    found = true;
  }
  return found;
}

/// Nanoseconds of a clock; 0 where it does not exist, as that of a process which has ended.
uint64_t nanoseconds_of(clockid_t clock) {
  struct timespec now;
  if (clock_gettime(clock, &now) != 0) return 0;
  return static_cast<uint64_t>(now.tv_sec) * 1000000000u + static_cast<uint64_t>(now.tv_nsec);
}
uint64_t seconds_of(clockid_t clock) { return nanoseconds_of(clock) / 1000000000u; }

/// Only a run of the harness that took longer than the slowest one is worth a call of the kernel.
void note_time(uint64_t used, uint64_t wall) {
  if (nanoseconds_of(CLOCK_MONOTONIC) - wall <= shared->slowest_ns) return;
  const uint64_t took = nanoseconds_of(CLOCK_PROCESS_CPUTIME_ID) - used;
  shared->slowest_ns = std::max(shared->slowest_ns, took);
}

/// Runs the harness; returns whether it did anything new. `used` is the processor time before.
bool execute(const Bytes& input, uint64_t used) {
  shared->bytes = input.size();
  std::copy(input.begin(), input.end(), shared->input);
  for (Edges& edges : all_edges) std::fill_n(edges.counts, edges.count, 0);
  // A block of its own and of the exact size, so that a sanitizer sees a read past its end.
  auto* data = static_cast<uint8_t*>(std::malloc(input.empty() ? 1 : input.size()));
  std::copy(input.begin(), input.end(), data);
  const uint64_t wall = nanoseconds_of(CLOCK_MONOTONIC);
  noting = true;
  if (fuzz_one(data, input.size()) != 0) std::abort();
  noting = false;
  note_time(used, wall);
  std::free(data);
  ++shared->executions;
  bool found = false;
  for (Edges& edges : all_edges) found = note_new(edges) || found;
  return found;
}

std::string name_of(const uint8_t* data, size_t bytes) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (size_t i = 0; i < bytes; ++i) hash = (hash ^ data[i]) * 0x100000001b3u;
  char name[20];
  std::snprintf(name, sizeof name, "%016llx", static_cast<unsigned long long>(hash));
  return name;
}

bool save(const std::string& folder, const char* prefix, const uint8_t* data, size_t bytes) {
  std::error_code ignored;
  std::filesystem::create_directories(folder, ignored);
  std::FILE* file = std::fopen((folder + "/" + prefix + name_of(data, bytes)).c_str(), "wb");
  if (file == nullptr) return false;
  const bool whole = std::fwrite(data, 1, bytes, file) == bytes;
  return std::fclose(file) == 0 && whole;
}

Bytes load(const std::string& path) {
  Bytes input;
  std::FILE* file = std::fopen(path.c_str(), "rb");
  if (file == nullptr) return input;
  input.resize(kInputMax);
  input.resize(std::fread(input.data(), 1, input.size(), file));
  std::fclose(file);
  return input;
}

/// What the corpus holds, the shortest first: of two inputs that reach the same the first is kept.
std::vector<Bytes> load_corpus() {
  std::vector<std::string> paths;
  std::error_code missing;
  for (const auto& entry : std::filesystem::directory_iterator(options.corpus, missing)) {
    paths.push_back(entry.path().string());
  }
  std::sort(paths.begin(), paths.end());
  std::vector<Bytes> inputs(1);
  for (const std::string& path : paths) {
    Bytes input = load(path);
    if (input.size() <= options.bytes_max) inputs.push_back(std::move(input));
  }
  const auto shorter = [](const Bytes& a, const Bytes& b) { return a.size() < b.size(); };
  std::stable_sort(inputs.begin(), inputs.end(), shorter);
  return inputs;
}

uint64_t accepted() { return &fuzz_accepted == nullptr ? 0 : fuzz_accepted; }

/// The child: what is in the corpus, then mutations until time or runs are over.
void explore() {
  Random random{options.seed};
  std::vector<Bytes> corpus;
  for (Bytes& input : load_corpus()) {
    const bool found = execute(input, nanoseconds_of(CLOCK_PROCESS_CPUTIME_ID));
    if (found || corpus.empty()) corpus.push_back(std::move(input));
  }
  shared->corpus = corpus.size();
  const uint64_t loaded = accepted();
  while (shared->executions < options.runs) {
    const uint64_t used = nanoseconds_of(CLOCK_PROCESS_CPUTIME_ID);
    if (used / 1000000000u >= options.seconds) break;
    const Bytes input = mutate(random, corpus);
    const bool found = execute(input, used);
    shared->accepted = accepted() - loaded;
    if (!found) continue;
    corpus.push_back(input);
    shared->corpus = corpus.size();
    if (!options.corpus.empty() && !save(options.corpus, "", input.data(), input.size())) {
      std::fprintf(stderr, "fuzz: cannot write under %s\n", options.corpus.c_str());
      std::_Exit(2);
    }
  }
  std::_Exit(0);
}

/// Waits for the child; a child that makes no progress is ended. Returns how it ended.
int watch(pid_t child) {
  clockid_t clock;
  if (clock_getcpuclockid(child, &clock) != 0) clock = CLOCK_MONOTONIC;
  uint64_t executions = 0, used = 0, wall = seconds_of(CLOCK_MONOTONIC);
  int state = 0;
  while (waitpid(child, &state, WNOHANG) == 0) {
    if (shared->executions != executions) {
      executions = shared->executions;
      used = seconds_of(clock);
      wall = seconds_of(CLOCK_MONOTONIC);
    } else if (seconds_of(clock) > used + kHangSeconds ||
               seconds_of(CLOCK_MONOTONIC) > wall + kHangSecondsWall) {
      std::fprintf(stderr, "fuzz: no end after %u s\n", static_cast<unsigned>(kHangSeconds));
      kill(child, SIGKILL);
      waitpid(child, &state, 0);
      break;
    }
    usleep(20000);
  }
  return state;
}

void print_result(bool clean) {
  struct rusage used;
  getrusage(RUSAGE_CHILDREN, &used);
  std::printf(
      "{\"seconds\": %llu, \"executions\": %llu, \"edges\": %llu, \"edges_in_all\": %zu, "
      "\"features\": %llu, \"corpus\": %llu, \"slowest_ms\": %.1f, ",
      static_cast<unsigned long long>(used.ru_utime.tv_sec + used.ru_stime.tv_sec),
      static_cast<unsigned long long>(shared->executions),
      static_cast<unsigned long long>(shared->edges), all_edges[0].count - 1 + all_edges[1].count,
      static_cast<unsigned long long>(shared->features),
      static_cast<unsigned long long>(shared->corpus),
      static_cast<double>(shared->slowest_ns) / 1e6);
  if (&fuzz_accepted == nullptr) {
    std::printf("\"accepted\": null, ");
  } else {
    std::printf("\"accepted\": %llu, ", static_cast<unsigned long long>(shared->accepted));
  }
  std::printf("\"crashes\": %d}\n", clean ? 0 : 1);
}

int fuzz() {
  const pid_t parent = getpid();
  const pid_t child = fork();
  if (child == 0) {
    // Nobody would take up what a child without parent finds.
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) std::_Exit(2);
    // What a harness writes is not ours to tell.
    if (std::freopen("/dev/null", "w", stdout) == nullptr) std::_Exit(2);
    explore();
  }
  const int state = watch(child);
  const bool clean = WIFEXITED(state) && WEXITSTATUS(state) == 0;
  if (!clean && !save(options.crashes, "crash-", shared->input, shared->bytes)) return 2;
  print_result(clean);
  return clean ? 0 : 1;
}

bool parse(int count, char** values, int* first_file) {
  int i = 1;
  for (; i < count && std::strncmp(values[i], "--", 2) == 0; i += 2) {
    if (i + 1 == count) return false;
    const std::string name = values[i];
    const char* value = values[i + 1];
    if (name == "--corpus") {
      options.corpus = value;
    } else if (name == "--crashes") {
      options.crashes = value;
    } else {
      uint64_t* number = name == "--seconds"     ? &options.seconds
                         : name == "--seed"      ? &options.seed
                         : name == "--runs"      ? &options.runs
                         : name == "--bytes-max" ? &options.bytes_max
                                                 : nullptr;
      if (number == nullptr) return false;
      *number = std::strtoull(value, nullptr, 10);
    }
  }
  *first_file = i;
  options.bytes_max = std::min<uint64_t>(options.bytes_max, kInputMax);
  return i < count || !options.crashes.empty();
}

}  // namespace

int main(int count, char** values) {
  // Pointers are compared too: at addresses of chance no two runs would do the same.
  const int persona = personality(0xffffffff);
  if ((persona & ADDR_NO_RANDOMIZE) == 0 &&
      personality(static_cast<unsigned long>(persona) | ADDR_NO_RANDOMIZE) != -1) {
    execv("/proc/self/exe", values);
  }
  int first_file = 0;
  if (!parse(count, values, &first_file)) {
    std::fprintf(stderr, "usage: see the head of tests/fuzz/driver.cc\n");
    return 2;
  }
  void* memory =
      mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return 2;
  shared = static_cast<Shared*>(memory);
  find_edges();
  if (first_file == count) return fuzz();
  for (int i = first_file; i < count; ++i) execute(load(values[i]), 0);
  return 0;
}
