// SPDX-License-Identifier: Apache-2.0
#include "format/config.h"

#include <cstring>

namespace bitnet::format {
namespace {

constexpr size_t kKeyBytesMax = 64;

/// A cursor over one line; `begin` … `end` without the line break.
struct Line {
  uint8_t* begin;
  uint8_t* end;
  uint64_t number;
};

struct Parser {
  Config config{};
  Line line{};
  const char* key = "";
  Error error{};

  /// The first failure stays, and nothing of the line is left to read after it.
  Text fail(Status status, uint64_t value = 0, uint64_t limit = 0) {
    if (!failed(error)) error = Error{status, key, line.number, value, limit};
    line.begin = line.end;
    return {};
  }
};

bool is_space(uint8_t c) { return c == ' '; }

void skip_spaces(Line& line) {
  while (line.begin < line.end && is_space(*line.begin)) ++line.begin;
}

/// True at the end of the value: nothing, or a comment set off by a space.
bool at_end(const Line& line, bool after_space) {
  return line.begin == line.end || (after_space && *line.begin == '#');
}

void expect_end(Parser& parser) {
  const uint8_t* before = parser.line.begin;
  skip_spaces(parser.line);
  if (!at_end(parser.line, parser.line.begin != before)) parser.fail(Status::kConfigSyntax);
}

/// An unquoted word: letters, digits and the punctuation of paths and numbers.
Text parse_word(Parser& parser) {
  Line& line = parser.line;
  const uint8_t* begin = line.begin;
  while (line.begin < line.end && !is_space(*line.begin)) {
    const uint8_t c = *line.begin;
    const bool allowed = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') ||
                         (c >= 'A' && c <= 'Z') || c == '_' || c == '-' || c == '+' || c == '.' ||
                         c == '/';
    if (!allowed) return parser.fail(Status::kConfigSyntax);
    ++line.begin;
  }
  if (begin == line.begin) return parser.fail(Status::kConfigValue);
  return Text(begin, static_cast<size_t>(line.begin - begin));
}

int hex_digit(uint8_t c) {
  if (c >= '0' && c <= '9') return c - '0';
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/// One escape after the backslash; writes one byte to *out. False if it is not one of ours.
bool parse_escape(Line& line, uint8_t* out) {
  constexpr uint8_t kEscapes[][2] = {{'"', '"'}, {'\\', '\\'}, {'n', '\n'}, {'t', '\t'}};
  if (line.begin == line.end) return false;
  const uint8_t name = *line.begin++;
  for (const auto& escape : kEscapes) {
    if (name != escape[0]) continue;
    *out = escape[1];
    return true;
  }
  // YAML's \xNN names a code point; below 0x80 that is the byte itself.
  if (name != 'x' || line.end - line.begin < 2) return false;
  const int high = hex_digit(*line.begin++);
  const int low = hex_digit(*line.begin++);
  *out = static_cast<uint8_t>(high * 16 + low);
  return high >= 0 && high <= 7 && low >= 0;
}

/// A double-quoted string, resolved in place.
Text parse_quoted(Parser& parser) {
  Line& line = parser.line;
  if (line.begin == line.end || *line.begin != '"') return parser.fail(Status::kConfigValue);
  uint8_t* out = ++line.begin;
  const uint8_t* begin = out;
  while (line.begin < line.end && *line.begin != '"') {
    const uint8_t c = *line.begin++;
    if (c != '\\') {
      *out++ = c;
    } else if (!parse_escape(line, out++)) {
      return parser.fail(Status::kConfigSyntax);
    }
  }
  if (line.begin == line.end) return parser.fail(Status::kConfigSyntax);
  ++line.begin;
  return Text(begin, static_cast<size_t>(out - begin));
}

/// Decimal digits only, no sign, no leading zero, within [low, high].
uint32_t parse_count(Parser& parser, uint32_t low, uint32_t high) {
  const Text word = parse_word(parser);
  uint64_t value = 0;
  for (const uint8_t c : word) {
    if (c < '0' || c > '9' || word.size() > 10 || (word[0] == '0' && word.size() > 1))
      parser.fail(Status::kConfigValue);
    value = value * 10 + (c - '0');
  }
  if (value < low || value > high)
    parser.fail(Status::kConfigRange, value, value < low ? low : high);
  return static_cast<uint32_t>(value);
}

/// A decimal number `digits` or `digits.digits` of at most 9 digits in all, so that the binary64
/// quotient below is the nearest and one rounding to binary32 follows. Range [low, high], or (low,
/// high].
float parse_number(Parser& parser, double low, double high, bool low_excluded) {
  const Text word = parse_word(parser);
  if (failed(parser.error)) return 0.0f;
  double digits = 0;
  double divisor = 1;
  uint32_t digit_count = 0;
  bool fraction = false;
  for (const uint8_t c : word) {
    if (c == '.' && !fraction && digit_count > 0) {
      fraction = true;
      continue;
    }
    if (c < '0' || c > '9' || ++digit_count > 9) {
      parser.fail(Status::kConfigValue);
      return 0.0f;
    }
    digits = digits * 10 + (c - '0');
    if (fraction) divisor *= 10;
  }
  // A leading zero means octal to readers of YAML 1.1.
  const bool leading_zero = word.size() > 1 && word[0] == '0' && word[1] != '.';
  if (leading_zero || word[word.size() - 1] == '.') parser.fail(Status::kConfigValue);
  const double value = digits / divisor;
  if (value > high || value < low || (low_excluded && value == low)) {
    // The found number is rounded up, so that it shows on which side of the limit, an integer, it
    // lies.
    const auto whole = static_cast<uint64_t>(value);
    const uint64_t found = whole + (static_cast<double>(whole) < value ? 1 : 0);
    parser.fail(Status::kConfigRange, found, static_cast<uint64_t>(value > high ? high : low));
  }
  return static_cast<float>(value);
}

/// One of the words, as the enumeration whose values are their places.
template <typename Enum, uint32_t kCount>
Enum parse_one_of(Parser& parser, const char* const (&words)[kCount]) {
  const Text word = parse_word(parser);
  for (uint32_t i = 0; i < kCount; ++i) {
    if (same(word, words[i])) return static_cast<Enum>(i);
  }
  parser.fail(Status::kConfigValue);
  return Enum{};
}

constexpr const char* kYesWords[] = {"no", "yes"};
constexpr const char* kPromptWords[] = {"raw", "chat"};
constexpr const char* kKvCacheWords[] = {"f32", "f16", "int8"};
constexpr const char* kWeightsWords[] = {"mapped", "resident"};
constexpr const char* kLockWords[] = {"all", "arena"};
constexpr const char* kVerifyWords[] = {"full", "lazy", "off"};

/// `word` or `"quoted"`.
Text parse_text(Parser& parser) {
  const bool quoted = parser.line.begin < parser.line.end && *parser.line.begin == '"';
  const Text text = quoted ? parse_quoted(parser) : parse_word(parser);
  if (text.empty()) parser.fail(Status::kConfigValue);
  return text;
}

/// `[]` or `[one, two]`; `item` parses one element.
void parse_list(Parser& parser, void (*item)(Parser& parser)) {
  Line& line = parser.line;
  if (line.begin == line.end || *line.begin++ != '[') parser.fail(Status::kConfigValue);
  skip_spaces(line);
  if (line.begin < line.end && *line.begin == ']') {
    ++line.begin;
    return;
  }
  while (!failed(parser.error)) {
    item(parser);
    skip_spaces(line);
    const uint8_t next = line.begin < line.end ? *line.begin++ : uint8_t{0};
    if (next == ']') return;
    if (next != ',') parser.fail(Status::kConfigSyntax);
    skip_spaces(line);
  }
}

void parse_stop(Parser& parser) {
  Config& config = parser.config;
  const Text text = parse_quoted(parser);
  if (config.stop_count == kStopStringCountMax) {
    parser.fail(Status::kConfigRange, config.stop_count + 1, kStopStringCountMax);
  } else if (text.empty() || text.size() > kStopStringBytesMax) {
    parser.fail(Status::kConfigRange, text.size(), text.empty() ? 1 : kStopStringBytesMax);
  } else {
    config.stop[config.stop_count++] = text;
  }
}

void parse_protection(Parser& parser) {
  const Text text = parse_quoted(parser);
  for (uint32_t i = 0; i < kProtectionCount; ++i) {
    if (same(text, kProtectionNames[i])) {
      parser.config.accept_missing |= 1u << i;
      return;
    }
  }
  parser.fail(Status::kConfigValue);
}

/// The digits of one processor's number; a word would go on over the separator.
void parse_core(Parser& parser) {
  Config& config = parser.config;
  uint8_t* begin = parser.line.begin;
  uint8_t* end = begin;
  while (end < parser.line.end && *end >= '0' && *end <= '9') ++end;
  uint8_t* const line_end = parser.line.end;
  parser.line.end = end;
  const uint32_t core = parse_count(parser, 0, kCoreMax);
  parser.line.end = line_end;
  if (config.core_count == kThreadCountMax) {
    parser.fail(Status::kConfigRange, config.core_count + 1, kThreadCountMax);
  } else {
    config.cores[config.core_count++] = core;
  }
}

/// `any` or `[0, 1]`.
void parse_cores(Parser& parser) {
  const Line& line = parser.line;
  if (line.begin < line.end && *line.begin == '[') {
    parse_list(parser, parse_core);
    if (parser.config.core_count == 0) parser.fail(Status::kConfigValue);
    return;
  }
  if (!same(parse_word(parser), "any")) parser.fail(Status::kConfigValue);
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
uint32_t parse_key(Parser& parser) {
  Line& line = parser.line;
  uint8_t* begin = line.begin;
  while (line.begin < line.end &&
         ((*line.begin >= 'a' && *line.begin <= 'z') || *line.begin == '_'))
    ++line.begin;
  const Text name(begin, static_cast<size_t>(line.begin - begin));
  const bool named = !name.empty() && name.size() <= kKeyBytesMax && line.begin < line.end &&
                     *line.begin++ == ':' && (line.begin == line.end || is_space(*line.begin));
  if (!named) {
    parser.fail(Status::kConfigSyntax);
    return kKeyCount;
  }
  skip_spaces(line);
  for (uint32_t i = 0; i < kKeyCount; ++i) {
    if (same(name, kKeys[i].name)) return i;
  }
  begin[name.size()] = 0;  // over the colon, so that the error can name the key
  parser.key = reinterpret_cast<const char*>(begin);
  parser.fail(Status::kConfigUnknownKey);
  return kKeyCount;
}

/// The next line, or false at the end. A carriage return or any other control byte is refused by
/// the word and string parsers' alphabets, or here.
bool next_line(Parser& parser, uint8_t*& cursor, uint8_t* end) {
  if (cursor == end) return false;
  auto* line_end =
      static_cast<uint8_t*>(std::memchr(cursor, '\n', static_cast<size_t>(end - cursor)));
  if (line_end == nullptr) line_end = end;
  parser.line = {cursor, line_end, parser.line.number + 1};
  parser.key = "";
  for (const uint8_t* c = cursor; c < line_end; ++c) {
    if (*c < 0x20 || *c == 0x7f) {
      parser.fail(Status::kConfigSyntax);
      return false;
    }
  }
  cursor = line_end == end ? end : line_end + 1;
  return true;
}

}  // namespace

Result<Config> parse_config(std::span<uint8_t> buffer) {
  Parser parser;
  uint64_t line_of[kKeyCount] = {};
  uint8_t* cursor = buffer.data();
  while (next_line(parser, cursor, buffer.data() + buffer.size())) {
    if (parser.line.begin == parser.line.end || *parser.line.begin == '#') continue;
    const uint32_t index = parse_key(parser);
    if (index == kKeyCount) break;
    parser.key = kKeys[index].name;
    if (line_of[index] != 0) {
      parser.fail(Status::kConfigDuplicateKey);
      break;
    }
    line_of[index] = parser.line.number;
    kKeys[index].parse(parser);
    expect_end(parser);
    if (failed(parser.error)) break;
  }
  if (failed(parser.error)) return parser.error;
  for (uint32_t i = 0; i < kKeyCount; ++i) {
    if (line_of[i] == 0) return Error{Status::kConfigMissingKey, kKeys[i].name, parser.line.number};
  }
  if (parser.config.max_new_tokens > parser.config.context) {
    return Error{Status::kConfigRange, "max_new_tokens", line_of[kMaxNewTokensKey],
                 parser.config.max_new_tokens, parser.config.context};
  }
  if (parser.config.core_count != 0 && parser.config.core_count != parser.config.threads) {
    return Error{Status::kConfigRange, "cores", line_of[kCoresKey], parser.config.core_count,
                 parser.config.threads};
  }
  return parser.config;
}

}  // namespace bitnet::format
