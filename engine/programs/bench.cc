// SPDX-License-Identifier: Apache-2.0
#include "programs/bench.h"

#include "platform/os.h"
#include "programs/report.h"

namespace bitnet::programs {
namespace {

/// Buckets of the histogram: bucket b counts times from 2^(b/4) to below 2^((b+1)/4) microseconds.
constexpr uint32_t kBucketsPerOctave = 4;
constexpr uint32_t kBucketCount = 30 * kBucketsPerOctave;

/// Shell's sort: in place, without recursion.
void sort(std::span<uint64_t> values) {
  for (size_t gap = values.size() / 2; gap > 0; gap /= 2) {
    for (size_t i = gap; i < values.size(); ++i) {
      const uint64_t moved = values[i];
      size_t to = i;
      for (; to >= gap && values[to - gap] > moved; to -= gap) values[to] = values[to - gap];
      values[to] = moved;
    }
  }
}

uint32_t bucket_of(uint64_t ns) {
  constexpr double kRatio = 1.189207115002721;  // 2^(1/4)
  double edge = 1000.0 * kRatio;
  uint32_t bucket = 0;
  for (; bucket + 1 < kBucketCount && static_cast<double>(ns) >= edge; ++bucket) edge *= kRatio;
  return bucket;
}

void add_histogram(Line& line, std::span<const uint64_t> sorted) {
  line.text(", \"buckets_per_octave\": ").number(kBucketsPerOctave).text(", \"histogram\": {");
  const char* separator = "\"";
  for (size_t i = 0; i < sorted.size();) {
    const uint32_t bucket = bucket_of(sorted[i]);
    size_t end = i;
    while (end < sorted.size() && bucket_of(sorted[end]) == bucket) ++end;
    line.text(separator).number(bucket).text("\": ").number(end - i);
    separator = ", \"";
    i = end;
  }
  line.text("}");
}

void print_times(model::Session& session, std::span<uint64_t> times) {
  sort(times);
  double sum = 0;
  for (const uint64_t ns : times) sum += static_cast<double>(ns);
  const double count = static_cast<double>(times.size());
  const double mean = sum / count;
  double squares = 0;
  for (const uint64_t ns : times) {
    squares += (static_cast<double>(ns) - mean) * (static_cast<double>(ns) - mean);
  }
  const double deviation = __builtin_sqrt(squares / count);
  const auto at = [&times](uint64_t per_mille) {
    return times[(times.size() - 1) * per_mille / 1000];
  };
  Line line;
  line.text("{\"tokens\": ").number(times.size());
  line.text(", \"isa\": \"").text(session.transformer().kernels().name);
  line.text("\", \"threads\": ").number(session.transformer().options().threads);
  line.text(", \"mean_ns\": ").number(static_cast<uint64_t>(mean));
  line.text(", \"sd_ns\": ").number(static_cast<uint64_t>(deviation));
  line.text(", \"cv\": ").decimal(static_cast<uint64_t>(1e6 * deviation / mean), 6);
  line.text(", \"min_ns\": ").number(times[0]).text(", \"p50_ns\": ").number(at(500));
  line.text(", \"p90_ns\": ").number(at(900)).text(", \"p99_ns\": ").number(at(990));
  line.text(", \"max_ns\": ").number(times[times.size() - 1]);
  add_histogram(line, times);
  line.text("}\n");
  print(platform::kStdout, line);
}

}  // namespace

Error bench(model::Session& session, std::span<uint64_t> times) {
  constexpr uint32_t kPrompt[kBenchPromptTokens] = {};
  model::GenerateOptions options{};
  options.max_new_tokens = static_cast<uint32_t>(times.size());
  options.times = times;
  const model::AnswerSink nowhere{[](void*, uint32_t, Text) { return kNoError; }, nullptr};
  const Result<model::GenerateResult> result =
      session.generator().run(session.transformer(), nullptr, kPrompt, options, nowhere);
  if (!result.ok()) return result.error();
  print_times(session, times.subspan(1));  // the first one has the prompt in it
  return kNoError;
}

}  // namespace bitnet::programs
