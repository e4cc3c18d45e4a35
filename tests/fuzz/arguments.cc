// Command lines: any words are what an obvious reading of them says, or are refused as it refuses
// them; and no word and no row of words is read past its end.
// SPDX-License-Identifier: Apache-2.0
//
// Input: u8 the kinds of the words that stand alone, then words, each ended by 0 but the last.
#include "programs/arguments.h"

#include <csetjmp>

#include "base/version.h"
#include "platform/os.h"
#include "programs/report.h"
#include "walk.h"

using namespace bitnet;

extern "C" uint64_t fuzz_accepted;
uint64_t fuzz_accepted = 0;

namespace {

constexpr size_t kWordsMax = 64;
constexpr char kHelp[] = "usage: a program\n";
constexpr char kClaims[] = "claims\n";
constexpr char kKeepDefault[] = "72h";

jmp_buf end_of_program;
int exit_code;
uint8_t printed[2][8192];  // by descriptor
size_t printed_bytes[2];

}  // namespace

// What the programs print is kept, and their end comes back here.
namespace bitnet::platform {
Error write_all(int descriptor, std::span<const uint8_t> bytes) {
  must(descriptor == kStdout || descriptor == kStderr);
  size_t& count = printed_bytes[descriptor - 1];
  must(bytes.size() <= sizeof printed[0] - count);
  std::memcpy(printed[descriptor - 1] + count, bytes.data(), bytes.size());
  count += bytes.size();
  return kNoError;
}
void exit_process(int code) {
  exit_code = code;
  std::longjmp(end_of_program, 1);
}
}  // namespace bitnet::platform

namespace {

/// The values of a command line. Where one goes to: the words of `verb`, or `place`.
struct Values {
  const char* config = nullptr;
  const char* keep = kKeepDefault;
  const char* keeper = nullptr;
  const char* place = nullptr;
  uint64_t seed = 0;
  uint64_t few = 5;
  uint64_t limit = 7;
  bool stats = false;
  const char* verb[kWordsMax];
  size_t verb_count = 0;
};

/// How reading ends: at --help, at --version, with an error, or with the values.
enum class End { kHelp, kVersion, kError, kValues };

struct Reading {
  Values values;
  End end = End::kValues;
  Status status = Status::kOk;
  const char* subject = "";

  void refuse(Status why, const char* name) {
    end = End::kError;
    status = why;
    subject = name;
  }
};

bool is(const char* a, const char* b) { return std::strcmp(a, b) == 0; }

/// Digits and nothing else, within [low, high].
bool read_number(const char* word, uint64_t low, uint64_t high, uint64_t* out) {
  if (*word == 0 || word[std::strspn(word, "0123456789")] != 0) return false;
  unsigned __int128 value = 0;
  for (; *word != 0 && value <= UINT64_MAX; ++word) {
    value = value * 10 + static_cast<unsigned>(*word - '0');
  }
  *out = static_cast<uint64_t>(value);
  return value >= low && value <= high;
}

/// Word after word, with an answer of its own for each option.
Reading read(char** words, size_t count, bool verbs) {
  Reading reading;
  Values& values = reading.values;
  bool config = false, keep = false, keeper = false, place = false;
  bool seed = false, few = false, limit = false;
  for (size_t i = 1; i < count && reading.end == End::kValues; ++i) {
    const char* word = words[i];
    const char* next = i + 1 < count ? words[i + 1] : nullptr;
    bool* given = nullptr;  // of an option with a value
    const char* value = next;
    if (is(word, "--help")) {
      reading.end = End::kHelp;
    } else if (is(word, "--version")) {
      reading.end = End::kVersion;
    } else if (word[0] != '-' && verbs) {
      values.verb[values.verb_count++] = word;
    } else if (word[0] != '-') {
      given = &place;
      values.place = value = word;
    } else if (is(word, "--stats")) {
      if (values.stats) reading.refuse(Status::kOptionValue, word);
      values.stats = true;
    } else if (std::strncmp(word, "--keep-old=", 11) == 0) {
      given = &keep;
      values.keep = value = word + 11;
    } else if (std::strncmp(word, "--limit=", 8) == 0) {
      given = &limit;
      value = word + 8;
    } else if (is(word, "--config")) {
      given = &config;
      values.config = next;
    } else if (is(word, "--keep-old")) {
      given = &keeper;
      values.keeper = next;
    } else if (is(word, "--seed")) {
      given = &seed;
    } else if (is(word, "--few")) {
      given = &few;
    } else {
      reading.refuse(Status::kUsage, word);
    }
    if (given == nullptr) continue;
    bool right = !*given && value != nullptr;
    *given = true;
    if (right && given == &seed) right = read_number(value, 0, UINT64_MAX, &values.seed);
    if (right && given == &few) right = read_number(value, 2, 9, &values.few);
    if (right && given == &limit) right = read_number(value, 0, 100, &values.limit);
    if (!right) reading.refuse(Status::kOptionValue, word);
    i += value == next && value != nullptr;
  }
  if (reading.end == End::kValues && !config) reading.refuse(Status::kOptionMissing, "--config");
  if (reading.end == End::kValues && !seed) reading.refuse(Status::kOptionMissing, "--seed");
  return reading;
}

void must_print(size_t which, const char* text, const char* more = "", const char* rest = "") {
  Walk({printed[which], printed_bytes[which]}).text(text).text(more).text(rest).end();
}

/// What is told of an error: printable lines, and an end.
void check_report(const Error& error) {
  const int code = programs::report(error);
  must(code == programs::status_text(error.status).exit_code && code != 0);
  must(printed_bytes[0] == 0 && printed_bytes[1] > 0);
  for (size_t i = 0; i < printed_bytes[1]; ++i) {
    must(printed[1][i] == '\n' || (printed[1][i] >= 0x20 && printed[1][i] < 0x7f));
  }
  must(printed[1][printed_bytes[1] - 1] == '\n');
}

/// The same text, and the same place of the command line.
void must_be_word(const char* found, const char* expected) {
  must(found == expected);
  must(found == nullptr || std::strlen(found) < SIZE_MAX);  // a sanitizer sees an end that is none
}

void check(char** words, size_t count, bool verbs) {
  const Reading expected = read(words, count, verbs);
  Values values;
  std::span<char*> verb;
  programs::Option options[] = {
      {.name = "--config", .text = &values.config, .required = true},
      {.name = "--seed", .number = &values.seed, .required = true},
      {.name = "--few", .number = &values.few, .number_min = 2, .number_max = 9},
      {.name = "--stats", .flag = &values.stats},
      {.name = "--keep-old=", .text = &values.keep},
      {.name = "--keep-old", .text = &values.keeper},
      {.name = "--limit=", .number = &values.limit, .number_max = 100},
      {.name = "PATH", .text = &values.place},
  };
  if (verbs) options[7] = {.name = "verb", .words = &verb};
  printed_bytes[0] = printed_bytes[1] = 0;
  if (setjmp(end_of_program) != 0) {
    must(exit_code == 0 && printed_bytes[1] == 0);
    if (expected.end == End::kHelp) return must_print(0, kHelp);
    must(expected.end == End::kVersion);
    return must_print(0, kVersion, "\n", kClaims);
  }
  const Error error =
      programs::parse_arguments(static_cast<int>(count), words, options, kHelp, kClaims);
  must(words[count] == nullptr);
  if (failed(error)) {
    must(expected.end == End::kError && error.status == expected.status);
    must(is(error.subject, expected.subject));
    return check_report(error);
  }
  must(expected.end == End::kValues);
  fuzz_accepted += 1;
  must_be_word(values.config, expected.values.config);
  must_be_word(values.keeper, expected.values.keeper);
  must_be_word(values.place, expected.values.place);
  must_be_word(values.keep, expected.values.keep);
  must(values.seed == expected.values.seed && values.few == expected.values.few);
  must(values.limit == expected.values.limit && values.stats == expected.values.stats);
  must(verb.size() == expected.values.verb_count && (verb.empty() || verb.data() == words + 1));
  for (size_t i = 0; i < verb.size(); ++i) must_be_word(verb[i], expected.values.verb[i]);
}

}  // namespace

extern "C" int fuzz_one(const uint8_t* data, size_t bytes) {
  // As the kernel gives them: each word a block of its own, a row of just them, null at its end.
  char* own[kWordsMax];
  size_t count = 0;
  for (size_t begin = 1; begin < bytes && count < kWordsMax;) {
    const auto* end = static_cast<const uint8_t*>(std::memchr(data + begin, 0, bytes - begin));
    const size_t length = (end == nullptr ? bytes : static_cast<size_t>(end - data)) - begin;
    own[count] = static_cast<char*>(std::malloc(length + 1));
    std::memcpy(own[count], data + begin, length);
    own[count++][length] = 0;
    begin += length + 1;
  }
  auto** words = static_cast<char**>(std::malloc((count + 1) * sizeof(char*)));
  if (count > 0) std::memcpy(words, own, count * sizeof(char*));
  words[count] = nullptr;
  check(words, count, bytes > 0 && (data[0] & 1) != 0);
  std::free(words);
  for (size_t i = 0; i < count; ++i) std::free(own[i]);
  return 0;
}
