// config.yaml: any bytes are parsed or refused; what was accepted keeps every promise of config.h,
// and its values, written out by another hand, are parsed to the same values.
// SPDX-License-Identifier: Apache-2.0
#include "format/config.h"

#include <cmath>
#include <cstdio>

#include "walk.h"

using namespace bitnet;

extern "C" uint64_t fuzz_accepted;
uint64_t fuzz_accepted = 0;

namespace {

using format::Config;

/// What the file says of a number; the head of docs/formats/config.md.
void must_lie(uint64_t low, uint64_t value, uint64_t high) { must(low <= value && value <= high); }
void must_be_real(float value, float high) {
  must(std::isfinite(value) && 0 <= value && value <= high && !std::signbit(value));
}

/// A text lies inside the buffer that was parsed.
void must_lie_inside(Text text, std::span<const uint8_t> buffer) {
  if (text.empty()) return;
  must(text.data() >= buffer.data());
  must(text.data() + text.size() <= buffer.data() + buffer.size());
}

/// Whether the bytes of a text are those of an unquoted word.
bool is_word(Text text) {
  bool word = !text.empty();
  for (const uint8_t byte : text) {
    const bool letter = (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z');
    const bool digit = byte >= '0' && byte <= '9';
    const bool sign = byte == '_' || byte == '-' || byte == '+' || byte == '.' || byte == '/';
    word = word && (letter || digit || sign);
  }
  return word;
}

void check_ranges(const Config& config) {
  must_lie(16, config.context, kContextMax);
  must_lie(0, static_cast<uint32_t>(config.kv_cache), format::kKvCacheKindCount - 1);
  must_lie(1, config.max_new_tokens, config.context);
  must_lie(1, config.prompt_bytes_max, kPromptBytesMax);
  must_lie(1, config.prefill_chunk, kPrefillChunkMax);
  must_lie(1, config.threads, kThreadCountMax);
  must(config.core_count == 0 || config.core_count == config.threads);
  for (uint32_t i = 0; i < config.core_count; ++i) must_lie(0, config.core_list[i], kCoreMax);
  must_lie(0, static_cast<uint32_t>(config.weights), 1);
  must_lie(0, static_cast<uint32_t>(config.lock), 1);
  must(config.accept_missing >> format::kProtectionCount == 0);
  must_lie(0, static_cast<uint32_t>(config.verify), 2);
  must_lie(0, config.top_k, kVocabSizeMax);
  must_be_real(config.temperature, 100.0f);
  must_be_real(config.top_p, 1.0f);
  must_be_real(config.repetition_penalty, 10.0f);
  must(config.top_p > 0 && config.repetition_penalty > 0);
  must_lie(0, config.stop_count, kStopStringCountMax);
}

void check_texts(const Config& config, std::span<const uint8_t> buffer) {
  for (const Text text : {config.model, config.log, config.isa, config.system}) {
    must_lie_inside(text, buffer);
  }
  must(!config.model.empty() && !config.log.empty() && is_word(config.isa));
  for (uint32_t i = 0; i < config.stop_count; ++i) {
    must_lie(1, config.stop[i].size(), kStopStringBytesMax);
    must_lie_inside(config.stop[i], buffer);
  }
}

/// A file that is put together.
struct File {
  uint8_t data[1u << 17];
  size_t count;

  void add(const char* words) {
    must(std::strlen(words) < sizeof data - count);
    std::memcpy(data + count, words, std::strlen(words));
    count += std::strlen(words);
  }
  template <typename... Values>
  void line(const char* format, Values... values) {
    const size_t left = sizeof data - count;
    const int bytes = std::snprintf(reinterpret_cast<char*>(data + count), left, format, values...);
    must(bytes > 0 && static_cast<size_t>(bytes) < left);
    count += static_cast<size_t>(bytes);
  }
  /// In quotes; every byte that has an escape is written as one.
  void quote(Text text) {
    add("\"");
    for (const uint8_t byte : text) {
      const bool plain = byte >= 0x80 || (byte >= 0x20 && byte < 0x7f && byte != '"');
      if (plain && byte != '\\') {
        must(count < sizeof data);
        data[count++] = byte;
      } else {
        line("\\x%02x", byte);
      }
    }
    add("\"");
  }
  /// Nine digits at most, which give a number of nine digits back.
  void real(const char* key, float value) {
    line("%s: %.*f\n", key, value < 10 ? 8 : value < 100 ? 7 : 6, static_cast<double>(value));
  }
};

/// Keys in another order than the parser's table.
void write_out(const Config& config, File* file) {
  constexpr const char* kYes[] = {"no", "yes"};
  constexpr const char* kKinds[] = {"f32", "f16", "int8"};
  constexpr const char* kModes[] = {"full", "lazy", "off"};
  file->count = 0;
  file->add("stop: [");
  for (uint32_t i = 0; i < config.stop_count; ++i) {
    file->add(i == 0 ? "" : ", ");
    file->quote(config.stop[i]);
  }
  file->add("]\n");
  file->real("repetition_penalty", config.repetition_penalty);
  file->real("top_p", config.top_p);
  file->line("top_k: %u\n", config.top_k);
  file->real("temperature", config.temperature);
  file->add("system: ");
  file->quote(config.system);
  file->line("\nprompt: %s\n", config.chat ? "chat" : "raw");
  file->line("isa: %.*s\n", static_cast<int>(config.isa.size()),
             reinterpret_cast<const char*>(config.isa.data()));
  file->line("log_text: %s\nlog: ", kYes[config.log_text]);
  file->quote(config.log);
  file->line("\nverify: %s\n", kModes[static_cast<uint32_t>(config.verify)]);
  file->add("accept_missing: [");
  const char* separator = "";
  for (uint32_t i = 0; i < format::kProtectionCount; ++i) {
    if ((config.accept_missing >> i & 1) == 0) continue;
    file->line("%s\"%s\"", separator, format::kProtectionNames[i]);
    separator = ",";
  }
  file->line("]\nlock: %s\n", config.lock == format::LockScope::kAll ? "all" : "arena");
  const bool mapped = config.weights == format::WeightsPlace::kMapped;
  file->line("weights: %s\n", mapped ? "mapped" : "resident");
  file->line("cores: %s", config.core_count == 0 ? "any" : "");
  for (uint32_t i = 0; i < config.core_count; ++i) {
    file->line("%s%u", i == 0 ? "[" : ", ", config.core_list[i]);
  }
  file->add(config.core_count == 0 ? "\n" : "]\n");
  file->line("threads: %u\nprefill_chunk: %u\n", config.threads, config.prefill_chunk);
  file->line("prompt_bytes_max: %u\n", config.prompt_bytes_max);
  file->line("max_new_tokens: %u\n", config.max_new_tokens);
  file->line("kv_cache: %s\n", kKinds[static_cast<uint32_t>(config.kv_cache)]);
  file->line("context: %u\nmodel: ", config.context);
  file->quote(config.model);
}

void must_equal(const Config& a, const Config& b) {
  must(same(a.model, b.model) && same(a.log, b.log));
  must(same(a.isa, b.isa) && same(a.system, b.system));
  must(a.context == b.context && a.kv_cache == b.kv_cache && a.threads == b.threads);
  must(a.max_new_tokens == b.max_new_tokens && a.prompt_bytes_max == b.prompt_bytes_max);
  must(a.prefill_chunk == b.prefill_chunk && a.core_count == b.core_count);
  for (uint32_t i = 0; i < a.core_count; ++i) must(a.core_list[i] == b.core_list[i]);
  must(a.weights == b.weights && a.lock == b.lock && a.verify == b.verify);
  must(a.accept_missing == b.accept_missing);
  must(a.log_text == b.log_text && a.chat == b.chat && a.top_k == b.top_k);
  must(a.temperature == b.temperature && a.top_p == b.top_p);
  must(a.repetition_penalty == b.repetition_penalty && a.stop_count == b.stop_count);
  for (uint32_t i = 0; i < a.stop_count; ++i) must(same(a.stop[i], b.stop[i]));
}

/// Each key stands in the file once, at the front of a line.
void check_keys(std::span<const uint8_t> buffer) {
  constexpr const char* kKeys[] = {"model:",
                                   "context:",
                                   "kv_cache:",
                                   "max_new_tokens:",
                                   "prompt_bytes_max:",
                                   "prefill_chunk:",
                                   "threads:",
                                   "cores:",
                                   "weights:",
                                   "lock:",
                                   "accept_missing:",
                                   "verify:",
                                   "log:",
                                   "log_text:",
                                   "isa:",
                                   "prompt:",
                                   "system:",
                                   "temperature:",
                                   "top_k:",
                                   "top_p:",
                                   "repetition_penalty:",
                                   "stop:"};
  constexpr size_t kCount = sizeof kKeys / sizeof kKeys[0];
  size_t found[kCount] = {};
  for (size_t begin = 0; begin < buffer.size(); ++begin) {
    if (begin > 0 && buffer[begin - 1] != '\n') continue;
    const Text rest = buffer.subspan(begin);
    size_t i = 0;
    while (i < kCount && (rest.size() < std::strlen(kKeys[i]) ||
                          std::memcmp(rest.data(), kKeys[i], std::strlen(kKeys[i])) != 0)) {
      ++i;
    }
    must(i < kCount || rest[0] == '#' || rest[0] == '\n');
    if (i < kCount) found[i] += 1;
  }
  for (const size_t times : found) must(times == 1);
}

/// The system message as the file spells it: a string, escape by escape.
void check_system(std::span<const uint8_t> rest, Text system) {
  constexpr char kKey[] = "\nsystem:";
  constexpr size_t kKeyBytes = sizeof kKey - 1;
  size_t at = std::memcmp(rest.data(), kKey + 1, kKeyBytes - 1) == 0 ? kKeyBytes - 1 : 0;
  for (size_t i = 0; at == 0; ++i) {
    must(rest.size() - i >= kKeyBytes);
    if (std::memcmp(rest.data() + i, kKey, kKeyBytes) == 0) at = i + kKeyBytes;
  }
  while (rest[at] == ' ') ++at;
  must(rest[at++] == '"');
  for (const uint8_t byte : system) {
    if (rest[at++] != '\\') {
      must(rest[at - 1] == byte && byte != '"');
      continue;
    }
    const uint8_t name = rest[at++];
    const uint8_t simple = name == 'n' ? '\n' : name == 't' ? '\t' : name;
    const bool known = name == '"' || name == '\\' || name == 'n' || name == 't';
    if (name == 'x') {
      char digits[3];
      std::snprintf(digits, sizeof digits, "%02x", byte);
      must(byte < 0x80 && std::memcmp(rest.data() + at, digits, 2) == 0);
      at += 2;
    } else {
      must(known && byte == simple);
    }
  }
  must(rest[at] == '"');
}

File written;

}  // namespace

extern "C" int fuzz_one(const uint8_t* data, size_t bytes) {
  auto* buffer = static_cast<uint8_t*>(std::malloc(bytes + (bytes == 0)));
  if (bytes > 0) std::memcpy(buffer, data, bytes);
  const Result<Config> result = format::parse_config({buffer, bytes});
  if (result.ok()) {
    fuzz_accepted += 1;
    check_keys({data, bytes});
    check_ranges(result.value());
    check_texts(result.value(), {buffer, bytes});
    check_system({data, bytes}, result.value().system);
    write_out(result.value(), &written);
    const Result<Config> again = format::parse_config({written.data, written.count});
    must(again.ok());
    must_equal(again.value(), result.value());
  } else {
    const Error& error = result.error();
    must(error.status >= Status::kConfigSyntax && error.status <= Status::kConfigRange);
    must(std::strlen(error.subject) <= 64 && error.where <= bytes + 1);
  }
  std::free(buffer);
  return 0;
}
