// config.yaml: any bytes are parsed or refused; what was accepted keeps every promise of config.h.
// SPDX-License-Identifier: Apache-2.0
#include "format/config.h"

#include <cstdlib>
#include <cstring>

using namespace bitnet;

namespace {

void must(bool condition) {
  if (!condition) std::abort();
}

/// A text lies inside the buffer that was parsed, or is empty.
void must_lie_inside(Text text, const uint8_t* buffer, size_t bytes) {
  if (text.empty()) return;
  must(text.data() >= buffer && text.data() + text.size() <= buffer + bytes);
}

}  // namespace

extern "C" int fuzz_one(const uint8_t* data, size_t bytes) {
  auto* buffer = static_cast<uint8_t*>(std::malloc(bytes + (bytes == 0)));
  std::memcpy(buffer, data, bytes);
  const Result<format::Config> result = format::parse_config({buffer, bytes});
  if (result.ok()) {
    const format::Config& config = result.value();
    for (const Text text : {config.model, config.log, config.isa, config.system}) {
      must_lie_inside(text, buffer, bytes);
    }
    must(config.threads >= 1 && config.threads <= kThreadCountMax);
    must(config.core_count == 0 || config.core_count == config.threads);
    must(config.context >= 1 && config.context <= kContextMax);
    must(config.max_new_tokens <= config.context && config.prefill_chunk <= kPrefillChunkMax);
    must(config.prompt_bytes_max <= kPromptBytesMax && config.stop_count <= kStopStringCountMax);
    for (uint32_t i = 0; i < config.stop_count; ++i) {
      must(!config.stop[i].empty() && config.stop[i].size() <= kStopStringBytesMax);
      must_lie_inside(config.stop[i], buffer, bytes);
    }
  }
  std::free(buffer);
  return 0;
}
