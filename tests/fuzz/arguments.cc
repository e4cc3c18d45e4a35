// Command lines: any words are options or are refused, and no word is read past its end.
// SPDX-License-Identifier: Apache-2.0
#include "programs/arguments.h"

#include <cstdlib>
#include <cstring>

using namespace bitnet;

extern "C" int fuzz_one(const uint8_t* data, size_t bytes) {
  constexpr int kWordsMax = 32;
  char* words[kWordsMax];
  int count = 0;
  words[count++] = strdup("program");
  for (size_t begin = 0; begin < bytes && count < kWordsMax;) {
    const auto* end = static_cast<const uint8_t*>(std::memchr(data + begin, 0, bytes - begin));
    const size_t length = (end == nullptr ? bytes : static_cast<size_t>(end - data)) - begin;
    words[count] = static_cast<char*>(std::malloc(length + 1));
    std::memcpy(words[count], data + begin, length);
    words[count][length] = 0;
    // These two end the program.
    const bool ends =
        !std::strcmp(words[count], "--help") || !std::strcmp(words[count], "--version");
    if (ends) words[count][0] = '+';
    ++count;
    begin += length + 1;
  }
  const char* config = nullptr;
  const char* place = nullptr;
  uint64_t seed = 0;
  uint64_t few = 5;
  bool flag = false;
  programs::Option options[] = {
      {.name = "--config", .text = &config, .required = true},
      {.name = "--seed", .number = &seed, .required = true},
      {.name = "--few", .number = &few, .number_min = 2, .number_max = 9},
      {.name = "--stats", .flag = &flag},
      {.name = "PATH", .text = &place},
  };
  const Error error = programs::parse_arguments(count, words, options, "");
  if (!failed(error) && config == nullptr) std::abort();
  if (!failed(error) && options[2].given && (few < 2 || few > 9)) std::abort();
  for (int i = 0; i < count; ++i) std::free(words[i]);
  return 0;
}
