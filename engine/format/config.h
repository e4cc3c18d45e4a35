// config.yaml: required, complete, strict. A subset of YAML: one `key: value` a line.
// docs/formats/config.md is normative.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "base/limits.h"
#include "base/status.h"
#include "base/text.h"

namespace bitnet::format {

/// How the KV cache keeps its rows; docs/numerics.md, "The KV cache". The numbers are those of the
/// C interface.
enum class KvCacheKind : uint32_t { kF32 = 0, kF16 = 1, kInt8 = 2 };
inline constexpr uint32_t kKvCacheKindCount = 3;

/// Where the weights are read from: the file's own pages, or a copy in huge pages, where the KV
/// cache then is, too.
enum class WeightsPlace : uint32_t { kMapped = 0, kResident = 1 };
/// What is kept from being swapped: the arena and the weights, or the arena alone.
enum class LockScope : uint32_t { kAll = 0, kArena = 1 };
/// When the model's leaves are checked: before the first token, each before its first use, never.
enum class VerifyMode : uint32_t { kFull = 0, kLazy = 1, kOff = 2 };

/// A layer of the lock-down; docs/threat_model.md. One that is missing stops the start unless
/// `accept_missing` names it.
enum class Protection : uint32_t {
  kMemoryLock,
  kDontDump,
  kNotDumpable,
  kCoreLimit,
  kNoNewPrivileges,
  kMdwe,
  kMseal,
  kLandlock,
  kDescriptors,
  kFilter,
};
inline constexpr uint32_t kProtectionCount = 10;
/// Names of the layers in config.yaml and in reports, in the order of the enumeration.
inline constexpr const char* kProtectionNames[kProtectionCount] = {
    "memory_lock", "dont_dump", "not_dumpable", "core_limit",  "no_new_privileges",
    "mdwe",        "mseal",     "landlock",     "descriptors", "filter"};

/// How the head of the model chooses a token; no mode changes a result.
enum class HeadMode : uint8_t {
  kScreened,  ///< a choice computes as few rows as its bound allows
  kFull,      ///< every row
};

/// What a run asks of memory, threads and kernels.
struct SessionOptions {
  uint32_t context = 0;        ///< positions for prompt and answer together
  uint32_t prefill_chunk = 0;  ///< tokens of the prompt computed together: most of one call
  uint32_t threads = 0;
  Text isa = {};  ///< "auto", or the name of a kernel table
  KvCacheKind kv_cache = KvCacheKind::kF32;
  WeightsPlace weights = WeightsPlace::kMapped;
  std::span<const uint32_t> cores = {};  ///< one for each thread, or none; must outlive the session
  VerifyMode verify = VerifyMode::kOff;
  HeadMode head = HeadMode::kScreened;
};

/// How a token is chosen from its logits.
struct SamplerOptions {
  float temperature = 0.0f;         ///< 0: greedy
  uint32_t top_k = 0;               ///< 0: off
  float top_p = 1.0f;               ///< 1: off
  float repetition_penalty = 1.0f;  ///< 1: off
  uint64_t seed = 0;                ///< from the command line
};

/// Every setting of a run. There is no default: the parser refuses a file in which a key is
/// missing. Texts are bytes inside the buffer that was parsed, unescaped in place.
struct Config : SessionOptions, SamplerOptions {
  Text model;  ///< "sealed", or the path of a model.bin
  uint32_t max_new_tokens;
  uint32_t prompt_bytes_max;
  uint32_t core_list[kThreadCountMax];  ///< thread i runs on processor core_list[i]
  uint32_t core_count;                  ///< 0: any; else as many as threads
  LockScope lock;
  uint32_t accept_missing;  ///< bit i: Protection i may be missing
  Text log;                 ///< "off", or the path of the ring in shared memory
  bool log_text;            ///< whether prompt and answer go to the log
  bool chat;                ///< prompt: chat | raw
  Text system;              ///< system message; empty for none
  Text stop[kStopStringCountMax];
  uint32_t stop_count;
};

/// Parses and checks `buffer` (changed in place: escapes of quoted strings are resolved).
/// Errors carry the line number in `where`; the subject is the key where one is known.
/// kConfigSyntax, kConfigUnknownKey, kConfigDuplicateKey, kConfigMissingKey, kConfigValue,
/// kConfigRange.
Result<Config> parse_config(std::span<uint8_t> buffer);

}  // namespace bitnet::format
