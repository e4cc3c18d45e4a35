// SPDX-License-Identifier: Apache-2.0
#include "programs/bench.h"

#include "platform/os.h"
#include "programs/report.h"

namespace bitnet::programs {
namespace {

Error print_times(model::Session& session, std::span<const uint64_t> times) {
  Line line;
  line.text("{\"isa\": \"").text(session.transformer().kernels().name);
  line.text("\", \"threads\": ").number(session.transformer().options().threads);
  line.text(", \"times_ns\": [");
  for (size_t i = 0; i < times.size(); ++i) {
    line.text(i == 0 ? "" : ", ").number(times[i]);
    BITNET_TRY(platform::write_all(platform::kStdout, line.written()));
    line.clear();  // each by itself: no number of tokens overflows the buffer
  }
  return platform::write_all(platform::kStdout, text_of("]}\n"));
}

}  // namespace

Error bench(model::Session& session, std::span<uint64_t> times) {
  constexpr uint32_t kPrompt[kBenchPromptTokens] = {};
  model::GenerateOptions options{};
  options.max_new_tokens = static_cast<uint32_t>(times.size());
  options.times = times;
  const model::AnswerSink nowhere{[](void*, uint32_t, Text) { return kNoError; }, nullptr};
  (void)BITNET_VALUE(
      session.generator().run(session.transformer(), nullptr, kPrompt, options, nowhere));
  return print_times(session, times.subspan(1));  // the first one has the prompt in it
}

}  // namespace bitnet::programs
