// config.yaml: required, complete, strict. A subset of YAML: one `key: value` a line.
// docs/formats/config.md is normative.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "base/limits.h"
#include "base/status.h"

namespace bitnet::format {

/// Text of a configuration value: bytes inside the buffer that was parsed, unescaped in place.
using Text = std::span<const uint8_t>;

/// How the KV cache keeps its rows; docs/numerics.md, "The KV cache". The numbers are those of the
/// C interface.
enum class KvCacheKind : uint32_t { kF32 = 0, kF16 = 1, kInt8 = 2 };
inline constexpr uint32_t kKvCacheKindCount = 3;

/// Every setting of a run. There is no default: the parser refuses a file in which a key is
/// missing.
struct Config {
  Text model;        ///< "sealed", or the path of a model.bin
  uint32_t context;  ///< positions for prompt and answer together
  KvCacheKind kv_cache;
  uint32_t max_new_tokens;
  uint32_t prompt_bytes_max;
  uint32_t prefill_chunk;  ///< tokens of the prompt computed together
  uint32_t threads;
  Text isa;                  ///< "auto" or a name
  bool chat;                 ///< prompt: chat | raw
  Text system;               ///< system message; empty for none
  float temperature;         ///< 0 is greedy
  uint32_t top_k;            ///< 0 is off
  float top_p;               ///< 1 is off
  float repetition_penalty;  ///< 1 is off
  Text stop[kStopStringCountMax];
  uint32_t stop_count;
};

/// Parses and checks `buffer` (changed in place: escapes of quoted strings are resolved).
/// Errors carry the line number in `where`; the subject is the key where one is known.
/// kConfigSyntax, kConfigUnknownKey, kConfigDuplicateKey, kConfigMissingKey, kConfigValue,
/// kConfigRange.
Result<Config> parse_config(std::span<uint8_t> buffer);

}  // namespace bitnet::format
