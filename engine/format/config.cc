// SPDX-License-Identifier: Apache-2.0
#include "format/config.h"

#include <cstring>

namespace bitnet::format {
namespace {

constexpr size_t kKeyBytesMax = 64;

bool is_digit(uint8_t c) { return c >= '0' && c <= '9'; }

/// Letters, digits and the punctuation of paths and numbers.
bool is_word_byte(uint8_t c) {
  const uint8_t lower = c | 0x20;
  return is_digit(c) || (lower >= 'a' && lower <= 'z') ||
         (c != 0 && std::strchr("_-+./", c) != nullptr);
}

/// Reads one line from left to right, without its line break.
struct Parser {
  Config config{};
  uint8_t* at = nullptr;  ///< what is left of the line: to `end`
  uint8_t* end = nullptr;
  uint64_t line = 0;
  const char* key = "";
  Error error{};

  /// The first failure stays, and nothing of the line is left to read after it.
  Text fail(Status status, uint64_t value = 0, uint64_t limit = 0) {
    if (!failed(error)) error = Error{status, key, line, value, limit};
    at = end;
    return {};
  }
  bool is_next(char c) const { return at < end && *at == static_cast<uint8_t>(c); }
  bool accept(char c) {
    const bool found = is_next(c);
    at += found ? 1 : 0;
    return found;
  }
  void skip_spaces() {
    while (accept(' ')) {
    }
  }
};

/// The end of the value: nothing, or a comment set off by a space.
void expect_end(Parser& p) {
  const uint8_t* before = p.at;
  p.skip_spaces();
  const bool comment = p.at != before && p.is_next('#');
  if (p.at != p.end && !comment) p.fail(Status::kConfigSyntax);
}

/// An unquoted word.
Text parse_word(Parser& p) {
  const uint8_t* begin = p.at;
  while (p.at < p.end && is_word_byte(*p.at)) ++p.at;
  if (p.at < p.end && *p.at != ' ') return p.fail(Status::kConfigSyntax);
  if (begin == p.at) return p.fail(Status::kConfigValue);
  return Text(begin, p.at);
}

/// One escape after the backslash; writes one byte to *out. False if it is not one of ours.
bool parse_escape(Parser& p, uint8_t* out) {
  constexpr char kNames[] = "\"\\nt";
  constexpr char kBytes[] = "\"\\\n\t";
  for (size_t i = 0; i < sizeof kNames - 1; ++i) {
    *out = static_cast<uint8_t>(kBytes[i]);
    if (p.accept(kNames[i])) return true;
  }
  // YAML's \xNN names a code point; below 0x80 that is the byte itself.
  if (!p.accept('x') || p.end - p.at < 2) return false;
  Text digits(p.at, 2);
  uint64_t value = 0;
  const bool right = take_number(&digits, 16, &value) && digits.empty() && value < 0x80;
  *out = static_cast<uint8_t>(value);
  p.at += 2;
  return right;
}

/// A double-quoted string, resolved in place.
Text parse_quoted(Parser& p) {
  if (!p.accept('"')) return p.fail(Status::kConfigValue);
  uint8_t* out = p.at;
  const uint8_t* begin = out;
  while (p.at < p.end && !p.is_next('"')) {
    const bool escape = p.accept('\\');
    if (!escape) *out = *p.at++;
    if (escape && !parse_escape(p, out)) return p.fail(Status::kConfigSyntax);
    ++out;
  }
  return p.accept('"') ? Text(begin, out) : p.fail(Status::kConfigSyntax);
}

/// Decimal digits only, no sign, no leading zero, within [low, high].
uint32_t parse_count(Parser& p, uint32_t low, uint32_t high) {
  const Text word = parse_word(p);
  Text rest = word;
  uint64_t value = 0;
  const bool right = take_number(&rest, 10, &value) && rest.empty() && word.size() <= 10;
  if (!right || (word[0] == '0' && word.size() > 1)) p.fail(Status::kConfigValue);
  if (value < low || value > high) p.fail(Status::kConfigRange, value, value < low ? low : high);
  return static_cast<uint32_t>(value);
}

/// A decimal number `digits` or `digits.digits` of at most 9 digits in all, so that the binary64
/// quotient below is the nearest and one rounding to binary32 follows. Range [low, high], or (low,
/// high].
float parse_number(Parser& p, double low, double high, bool low_excluded) {
  const Text word = parse_word(p);
  double digits = 0;
  double divisor = 0;  // 0 before the point
  uint32_t digit_count = 0;
  // A leading zero means octal to readers of YAML 1.1.
  bool right =
      !word.empty() && word.back() != '.' && (word.size() == 1 || word[0] != '0' || word[1] == '.');
  for (const uint8_t c : word) {
    if (c == '.' && divisor == 0 && digit_count > 0) {
      divisor = 1;
      continue;
    }
    right = right && is_digit(c) && ++digit_count <= 9;
    digits = digits * 10 + (c - '0');
    divisor *= 10;
  }
  if (!right) p.fail(Status::kConfigValue);
  const double value = !right ? 0 : divisor == 0 ? digits : digits / divisor;
  if (value > high || value < low || (low_excluded && value == low)) {
    // The found number is rounded up, so that it shows on which side of the limit, an integer, it
    // lies.
    const auto whole = static_cast<uint64_t>(value);
    const uint64_t found = whole + (static_cast<double>(whole) < value ? 1 : 0);
    p.fail(Status::kConfigRange, found, static_cast<uint64_t>(value > high ? high : low));
  }
  return static_cast<float>(value);
}

/// One of the words, as the enumeration whose values are their places.
template <typename Enum, uint32_t kCount>
Enum parse_one_of(Parser& p, const char* const (&words)[kCount]) {
  const Text word = parse_word(p);
  for (uint32_t i = 0; i < kCount; ++i) {
    if (same(word, words[i])) return static_cast<Enum>(i);
  }
  p.fail(Status::kConfigValue);
  return Enum{};
}

constexpr const char* kYesWords[] = {"no", "yes"};
constexpr const char* kPromptWords[] = {"raw", "chat"};
constexpr const char* kKvCacheWords[] = {"f32", "f16", "int8"};
constexpr const char* kWeightsWords[] = {"mapped", "resident"};
constexpr const char* kLockWords[] = {"all", "arena"};
constexpr const char* kVerifyWords[] = {"full", "lazy", "off"};

/// `word` or `"quoted"`.
Text parse_text(Parser& p) {
  const Text text = p.is_next('"') ? parse_quoted(p) : parse_word(p);
  return text.empty() ? p.fail(Status::kConfigValue) : text;
}

/// `[]` or `[one, two]`; `item` parses one element.
void parse_list(Parser& p, void (*item)(Parser& parser)) {
  if (!p.accept('[')) p.fail(Status::kConfigValue);
  p.skip_spaces();
  if (p.accept(']')) return;
  do {
    p.skip_spaces();
    item(p);
    p.skip_spaces();
  } while (p.accept(','));
  if (!p.accept(']')) p.fail(Status::kConfigSyntax);
}

/// Whether one more fits on a list.
bool has_room(Parser& p, uint32_t count, uint32_t count_max) {
  if (count == count_max) p.fail(Status::kConfigRange, count_max + 1, count_max);
  return count < count_max;
}

void parse_stop(Parser& p) {
  const Text text = parse_quoted(p);
  if (!has_room(p, p.config.stop_count, kStopStringCountMax)) return;
  if (text.empty() || text.size() > kStopStringBytesMax)
    p.fail(Status::kConfigRange, text.size(), text.empty() ? 1 : kStopStringBytesMax);
  p.config.stop[p.config.stop_count++] = text;
}

void parse_protection(Parser& p) {
  const Text text = parse_quoted(p);
  uint32_t i = 0;
  while (i < kProtectionCount && !same(text, kProtectionNames[i])) ++i;
  if (i == kProtectionCount) p.fail(Status::kConfigValue);
  p.config.accept_missing |= 1u << i;
}

/// The digits of one processor's number; a word would go on over the separator.
void parse_core(Parser& p) {
  uint8_t* const line_end = p.end;
  p.end = p.at;
  while (p.end < line_end && is_digit(*p.end)) ++p.end;
  const uint32_t core = parse_count(p, 0, kCoreMax);
  p.end = line_end;
  if (has_room(p, p.config.core_count, kThreadCountMax))
    p.config.core_list[p.config.core_count++] = core;
}

/// `any` or `[0, 1]`.
void parse_cores(Parser& p) {
  const bool list = p.is_next('[');
  if (list) parse_list(p, parse_core);
  const bool right = list ? p.config.core_count > 0 : same(parse_word(p), "any");
  if (!right) p.fail(Status::kConfigValue);
}

struct Key {
  const char* name;
  void (*parse)(Parser& parser);
};

constexpr Key kKeys[] = {
    {"model", [](Parser& p) { p.config.model = parse_text(p); }},
    {"context", [](Parser& p) { p.config.context = parse_count(p, 16, kContextMax); }},
    {"kv_cache",
     [](Parser& p) { p.config.kv_cache = parse_one_of<KvCacheKind>(p, kKvCacheWords); }},
    {"max_new_tokens", [](Parser& p) { p.config.max_new_tokens = parse_count(p, 1, kContextMax); }},
    {"prompt_bytes_max",
     [](Parser& p) { p.config.prompt_bytes_max = parse_count(p, 1, kPromptBytesMax); }},
    {"prefill_chunk",
     [](Parser& p) { p.config.prefill_chunk = parse_count(p, 1, kPrefillChunkMax); }},
    {"threads", [](Parser& p) { p.config.threads = parse_count(p, 1, kThreadCountMax); }},
    {"cores", parse_cores},
    {"weights", [](Parser& p) { p.config.weights = parse_one_of<WeightsPlace>(p, kWeightsWords); }},
    {"lock", [](Parser& p) { p.config.lock = parse_one_of<LockScope>(p, kLockWords); }},
    {"accept_missing", [](Parser& p) { parse_list(p, parse_protection); }},
    {"verify", [](Parser& p) { p.config.verify = parse_one_of<VerifyMode>(p, kVerifyWords); }},
    {"log", [](Parser& p) { p.config.log = parse_text(p); }},
    {"log_text", [](Parser& p) { p.config.log_text = parse_one_of<bool>(p, kYesWords); }},
    {"isa", [](Parser& p) { p.config.isa = parse_word(p); }},
    {"prompt", [](Parser& p) { p.config.chat = parse_one_of<bool>(p, kPromptWords); }},
    {"system", [](Parser& p) { p.config.system = parse_quoted(p); }},
    {"temperature", [](Parser& p) { p.config.temperature = parse_number(p, 0, 100, false); }},
    {"top_k", [](Parser& p) { p.config.top_k = parse_count(p, 0, kVocabSizeMax); }},
    {"top_p", [](Parser& p) { p.config.top_p = parse_number(p, 0, 1, true); }},
    {"repetition_penalty",
     [](Parser& p) { p.config.repetition_penalty = parse_number(p, 0, 10, true); }},
    {"stop", [](Parser& p) { parse_list(p, parse_stop); }},
};
constexpr uint32_t kKeyCount = sizeof kKeys / sizeof kKeys[0];
constexpr uint32_t kMaxNewTokensKey = 3;
constexpr uint32_t kCoresKey = 7;

/// Finds the key of the line and moves to its value; kKeyCount if the line is at fault.
uint32_t parse_key(Parser& p) {
  uint8_t* const begin = p.at;
  while (p.at < p.end && ((*p.at >= 'a' && *p.at <= 'z') || *p.at == '_')) ++p.at;
  const Text name(begin, p.at);
  const bool named = !name.empty() && name.size() <= kKeyBytesMax && p.accept(':');
  if (!named || (p.at < p.end && !p.is_next(' '))) {
    p.fail(Status::kConfigSyntax);
    return kKeyCount;
  }
  p.skip_spaces();
  for (uint32_t i = 0; i < kKeyCount; ++i) {
    if (same(name, kKeys[i].name)) return i;
  }
  begin[name.size()] = 0;  // over the colon, so that the error can name the key
  p.key = reinterpret_cast<const char*>(begin);
  p.fail(Status::kConfigUnknownKey);
  return kKeyCount;
}

/// Moves to the line that begins at `begin`. A carriage return or any other control byte is refused
/// here.
void enter_line(Parser& p, uint8_t* begin, const uint8_t* buffer_end) {
  bool control = false;
  p.key = "";
  p.line += 1;
  p.at = begin;
  for (p.end = begin; p.end < buffer_end && *p.end != '\n'; ++p.end) {
    control = control || *p.end < 0x20 || *p.end == 0x7f;
  }
  if (control) p.fail(Status::kConfigSyntax);
}

}  // namespace

Result<Config> parse_config(std::span<uint8_t> buffer) {
  Parser p;
  uint64_t line_of[kKeyCount] = {};
  uint8_t* const end = buffer.data() + buffer.size();
  for (uint8_t* next = buffer.data(); next < end; next = p.end + (p.end < end ? 1 : 0)) {
    enter_line(p, next, end);
    const bool empty = p.at == p.end || p.is_next('#');
    const uint32_t index = empty ? kKeyCount : parse_key(p);
    if (index < kKeyCount) {
      p.key = kKeys[index].name;
      if (line_of[index] != 0) p.fail(Status::kConfigDuplicateKey);
      line_of[index] = p.line;
      kKeys[index].parse(p);
      expect_end(p);
    }
    if (failed(p.error)) return p.error;
  }
  for (uint32_t i = 0; i < kKeyCount; ++i) {
    if (line_of[i] == 0) return Error{Status::kConfigMissingKey, kKeys[i].name, p.line};
  }
  const Config& config = p.config;
  if (config.max_new_tokens > config.context) {
    return Error{Status::kConfigRange, "max_new_tokens", line_of[kMaxNewTokensKey],
                 config.max_new_tokens, config.context};
  }
  if (config.core_count != 0 && config.core_count != config.threads) {
    return Error{Status::kConfigRange, "cores", line_of[kCoresKey], config.core_count,
                 config.threads};
  }
  return config;
}

}  // namespace bitnet::format
