// The limits of this machine: bytes a second that can be read, int8 multiply-adds a second.
// SPDX-License-Identifier: Apache-2.0
//
// usage: limits BUFFER_BYTES [FILE]
//
// One command a line on standard input, one JSON object a line on standard output:
//
//   bandwidth THREADS PASSES   reads the whole buffer, every source and number of streams in turns
//   peak THREADS PASSES        runs each loop of multiply-adds that this processor has
//
// Sources of bandwidth: `plain` and `huge` are private memory on pages of 4 KiB and 2 MiB (left out
// where the kernel gives no huge pages), `file` is FILE mapped, as the engine maps a model. Each
// thread reads a part of its own from beginning to end, as one stream or as four side by side.
// A loop works on registers alone, with enough independent accumulators to hide the latency.
#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "kernels/table.h"
#include "platform/os.h"
#include "runtime/threads.h"

namespace {

using namespace bitnet;

constexpr uint32_t kPassesMax = 64;
using platform::kHugePageBytes;
constexpr size_t kStepBytes = 256;

// A team cannot be started again with another size, so each size has its own from its first use on.
runtime::ThreadTeam teams[kThreadCountMax + 1];
bool team_started[kThreadCountMax + 1];
runtime::ThreadTeam* team;
uint64_t pass_ns[kPassesMax];
uint64_t sink;

bool has_table(const char* name) {
  const Processor processor = detect_processor(platform::hardware_capabilities());
  for (const kernels::KernelLevel& level : kernels::kernel_levels()) {
    if (std::strcmp(level.name, name) == 0) return processor.*level.available;
  }
  return false;
}

// ---- Reading ------------------------------------------------------------------------------------

using Vector __attribute__((vector_size(64))) = uint64_t;

/// Reads `kStreams` equal parts of `bytes` side by side; the compiler uses the widest loads that
/// the calling function's target has.
template <uint32_t kStreams>
inline __attribute__((always_inline)) uint64_t read_streams(const uint8_t* data, size_t bytes) {
  const size_t part = bytes / kStreams / kStepBytes * kStepBytes;
  Vector acc[kStreams] = {};
  for (size_t at = 0; at < part; at += kStepBytes) {
    for (uint32_t stream = 0; stream < kStreams; ++stream) {
      const uint8_t* from = data + stream * part + at;
      for (size_t i = 0; i < kStepBytes; i += sizeof(Vector)) {
        acc[stream] |= *reinterpret_cast<const Vector*>(from + i);
      }
    }
  }
  uint64_t result = 0;
  for (uint32_t stream = 0; stream < kStreams; ++stream) {
    for (uint32_t lane = 0; lane < 8; ++lane) result |= acc[stream][lane];
  }
  return result;
}

using Read = uint64_t (*)(const uint8_t* data, size_t bytes, uint32_t streams);

uint64_t read_baseline(const uint8_t* data, size_t bytes, uint32_t streams) {
  return streams == 1 ? read_streams<1>(data, bytes) : read_streams<4>(data, bytes);
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) uint64_t read_avx2(const uint8_t* data, size_t bytes,
                                                   uint32_t streams) {
  return streams == 1 ? read_streams<1>(data, bytes) : read_streams<4>(data, bytes);
}

__attribute__((target("avx512f"))) uint64_t read_avx512(const uint8_t* data, size_t bytes,
                                                        uint32_t streams) {
  return streams == 1 ? read_streams<1>(data, bytes) : read_streams<4>(data, bytes);
}

Read choose_read() {
  if (has_table("avx512vnni")) return read_avx512;
  return has_table("avx2") ? read_avx2 : read_baseline;
}
#else
Read choose_read() { return read_baseline; }
#endif

struct Source {
  const char* pages;
  std::span<const uint8_t> bytes;
};

struct Reading {
  Source source;
  uint32_t streams;
  uint32_t passes;
  Read read;
};

void read_share(void* context, uint32_t thread) {
  const auto& reading = *static_cast<const Reading*>(context);
  const size_t share = reading.source.bytes.size() / team->size() / kStepBytes * kStepBytes;
  const uint8_t* begin = reading.source.bytes.data() + share * thread;
  for (uint32_t pass = 0; pass < reading.passes; ++pass) {
    team->barrier(thread);
    const uint64_t start = platform::clock_ns();
    __atomic_store_n(&sink, reading.read(begin, share, reading.streams), __ATOMIC_RELAXED);
    team->barrier(thread);
    if (thread == 0) pass_ns[pass] = platform::clock_ns() - start;
  }
}

void print_passes(uint32_t passes) {
  std::printf("\"ns\": [");
  for (uint32_t i = 0; i < passes; ++i) {
    std::printf("%s%llu", i == 0 ? "" : ", ", static_cast<unsigned long long>(pass_ns[i]));
  }
  std::printf("]}");
}

void measure_bandwidth(std::span<const Source> sources, uint32_t passes) {
  std::printf("{\"threads\": %u, \"reads\": [", team->size());
  const char* separator = "";
  for (const Source& source : sources) {
    for (const uint32_t streams : {1u, 4u}) {
      Reading reading{source, streams, passes, choose_read()};
      team->run(read_share, &reading);
      // What the shares and streams really cover is at most a few steps less.
      std::printf("%s{\"pages\": \"%s\", \"streams\": %u, \"bytes\": %zu, ", separator,
                  source.pages, streams, source.bytes.size());
      print_passes(passes);
      separator = ", ";
    }
  }
  std::printf("]}\n");
}

/// Kilobytes of this process on huge pages.
uint64_t huge_kilobytes() {
  static uint8_t text[16384];
  const Result<size_t> count =
      platform::read_file("/proc/self/smaps_rollup", std::span(text, sizeof text - 1));
  if (!count.ok()) return 0;
  text[count.value()] = 0;
  const char* line = std::strstr(reinterpret_cast<const char*>(text), "AnonHugePages:");
  return line == nullptr ? 0 : std::strtoull(line + std::strlen("AnonHugePages:"), nullptr, 10);
}

/// Filled private memory aligned to a huge page, with or without the kernel's leave to use them.
std::span<const uint8_t> make_buffer(size_t bytes, int advice) {
  const Result<std::span<uint8_t>> memory =
      platform::reserve_memory(bytes + kHugePageBytes, "buffer", false);
  if (!memory.ok()) return {};
  const uintptr_t address = reinterpret_cast<uintptr_t>(memory.value().data());
  uint8_t* begin = memory.value().data() + (kHugePageBytes - address % kHugePageBytes);
  (void)madvise(begin, bytes, advice);
  std::memset(begin, 0x5a, bytes);
  return {begin, bytes};
}

// ---- Multiply-adds ------------------------------------------------------------------------------

constexpr uint64_t kLoopCount = 2'000'000;
constexpr uint32_t kChains = 12;

struct Loop {
  const char* name;
  const char* table;  ///< the kernel table whose processors can run it
  uint32_t macs;      ///< of one instruction, or of one group of them
  void (*run)(uint64_t count);
};

// One line of the loop for each of twelve accumulators. Inputs are all ones: -1 and 255.
#define TWELVE(line) \
  line(0) line(1) line(2) line(3) line(4) line(5) line(6) line(7) line(8) line(9) line(10) line(11)

#if defined(__x86_64__)
#define VPDPBUSD_512(i) "vpdpbusd %%zmm30, %%zmm31, %%zmm" #i "\n\t"
#define VPDPBUSD_256(i) "vpdpbusd %%ymm30, %%ymm31, %%ymm" #i "\n\t"

__attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni"))) void vpdpbusd_512(uint64_t count) {
  __asm__ volatile(
      "vpternlogd $0xff, %%zmm30, %%zmm30, %%zmm30\n\t"
      "vpternlogd $0xff, %%zmm31, %%zmm31, %%zmm31\n\t"
      "1:\n\t" TWELVE(VPDPBUSD_512) "dec %0\n\tjnz 1b\n\tvzeroupper"
      : "+r"(count)
      :
      : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
        "xmm10", "xmm11", "xmm30", "xmm31");
}

__attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni"))) void vpdpbusd_256(uint64_t count) {
  __asm__ volatile(
      "vpternlogd $0xff, %%ymm30, %%ymm30, %%ymm30\n\t"
      "vpternlogd $0xff, %%ymm31, %%ymm31, %%ymm31\n\t"
      "1:\n\t" TWELVE(VPDPBUSD_256) "dec %0\n\tjnz 1b\n\tvzeroupper"
      : "+r"(count)
      :
      : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
        "xmm10", "xmm11", "xmm30", "xmm31");
}

// 16-bit sums, which ternary codes may use for 64 steps before they must be widened.
#define VPMADDUBSW(i)                        \
  "vpmaddubsw %%ymm14, %%ymm15, %%ymm12\n\t" \
  "vpaddw %%ymm12, %%ymm" #i ", %%ymm" #i "\n\t"

__attribute__((target("avx2"))) void vpmaddubsw_256(uint64_t count) {
  __asm__ volatile(
      "vpcmpeqd %%ymm14, %%ymm14, %%ymm14\n\t"
      "vpcmpeqd %%ymm15, %%ymm15, %%ymm15\n\t"
      "1:\n\t" TWELVE(VPMADDUBSW) "dec %0\n\tjnz 1b\n\tvzeroupper"
      : "+r"(count)
      :
      : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
        "xmm10", "xmm11", "xmm12", "xmm14", "xmm15");
}

constexpr Loop kLoops[] = {
    {"vpdpbusd_512", "avx512vnni", 64, vpdpbusd_512},
    {"vpdpbusd_256", "avx512vnni", 32, vpdpbusd_256},
    {"vpmaddubsw_256", "avx2", 32, vpmaddubsw_256},
};
#elif defined(__aarch64__)
#define SDOT(i) "sdot v" #i ".4s, v30.16b, v31.16b\n\t"
#define SMMLA(i) "smmla v" #i ".4s, v30.16b, v31.16b\n\t"
#define SMLAL(i)            \
  "smlal v" #i              \
  ".8h, v30.8b, v31.8b\n\t" \
  "smlal2 v" #i ".8h, v30.16b, v31.16b\n\t"

__attribute__((target("dotprod"))) void sdot(uint64_t count) {
  __asm__ volatile(
      "movi v30.16b, #255\n\tmovi v31.16b, #1\n\t"
      "1:\n\t" TWELVE(SDOT) "subs %0, %0, #1\n\tb.ne 1b"
      : "+r"(count)
      :
      : "cc", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v30",
        "v31");
}

__attribute__((target("i8mm"))) void smmla(uint64_t count) {
  __asm__ volatile(
      "movi v30.16b, #255\n\tmovi v31.16b, #1\n\t"
      "1:\n\t" TWELVE(SMMLA) "subs %0, %0, #1\n\tb.ne 1b"
      : "+r"(count)
      :
      : "cc", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v30",
        "v31");
}

void smlal(uint64_t count) {
  __asm__ volatile(
      "movi v30.16b, #255\n\tmovi v31.16b, #1\n\t"
      "1:\n\t" TWELVE(SMLAL) "subs %0, %0, #1\n\tb.ne 1b"
      : "+r"(count)
      :
      : "cc", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v30",
        "v31");
}

constexpr Loop kLoops[] = {
    {"smmla", "i8mm", 32, smmla},
    {"sdot", "dotprod", 16, sdot},
    {"smlal", "neon", 16, smlal},
};
#endif

struct Peak {
  const Loop* loop;
  uint32_t passes;
};

void run_loop(void* context, uint32_t thread) {
  const auto& peak = *static_cast<const Peak*>(context);
  for (uint32_t pass = 0; pass < peak.passes; ++pass) {
    team->barrier(thread);
    const uint64_t start = platform::clock_ns();
    peak.loop->run(kLoopCount);
    team->barrier(thread);
    if (thread == 0) pass_ns[pass] = platform::clock_ns() - start;
  }
}

void measure_peak(uint32_t passes) {
  std::printf("{\"threads\": %u, \"loops\": [", team->size());
  const char* separator = "";
  for (const Loop& loop : kLoops) {
    if (!has_table(loop.table)) continue;
    Peak peak{&loop, passes};
    team->run(run_loop, &peak);
    const uint64_t macs = kLoopCount * kChains * loop.macs * team->size();
    std::printf("%s{\"name\": \"%s\", \"macs\": %llu, ", separator, loop.name,
                static_cast<unsigned long long>(macs));
    print_passes(passes);
    separator = ", ";
  }
  std::printf("]}\n");
}

// ---- Commands -----------------------------------------------------------------------------------

struct Sources {
  Source list[3];
  size_t count = 0;
  void add(const char* pages, std::span<const uint8_t> bytes) {
    if (!bytes.empty()) list[count++] = {pages, bytes};
  }
};

Sources sources;

/// Returns an exit code.
int run_command(const char* line) {
  char name[16];
  uint32_t threads = 0;
  uint32_t passes = 0;
  if (std::sscanf(line, "%15s %u %u", name, &threads, &passes) != 3) return 2;
  if (threads == 0 || threads > kThreadCountMax || passes == 0 || passes > kPassesMax) return 2;
  if (!team_started[threads] && failed(teams[threads].start(threads))) return 5;
  team_started[threads] = true;
  team = &teams[threads];
  if (std::strcmp(name, "bandwidth") == 0) {
    measure_bandwidth({sources.list, sources.count}, passes);
  } else if (std::strcmp(name, "peak") == 0) {
    measure_peak(passes);
  } else {
    return 2;
  }
  std::fflush(stdout);
  return 0;
}

}  // namespace

int main(int argument_count, char** arguments) {
  if (argument_count != 2 && argument_count != 3) return 2;
  const size_t bytes = std::strtoull(arguments[1], nullptr, 10) / kHugePageBytes * kHugePageBytes;
  if (bytes == 0) return 2;
  sources.add("plain", make_buffer(bytes, MADV_NOHUGEPAGE));
  const std::span<const uint8_t> huge = make_buffer(bytes, MADV_HUGEPAGE);
  if (huge_kilobytes() >= bytes / 1024 / 10 * 9) sources.add("huge", huge);
  if (argument_count == 3) {
    const Result<std::span<const uint8_t>> file = platform::map_file(arguments[2]);
    if (!file.ok()) return 1;
    sources.add("file", file.value());
  }
  std::printf("{\"bytes\": %zu}\n", bytes);
  std::fflush(stdout);
  static char line[64];
  while (std::fgets(line, sizeof line, stdin) != nullptr) {
    if (const int code = run_command(line); code != 0) return code;
  }
  return 0;
}
