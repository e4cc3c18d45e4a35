// SPDX-License-Identifier: Apache-2.0
#include "programs/arguments.h"

#include <cstring>

#include "base/version.h"
#include "platform/os.h"
#include "programs/report.h"

namespace bitnet::programs {
namespace {

bool parse_number(const char* text, uint64_t* number) {
  *number = 0;
  if (*text == 0) return false;
  for (; *text != 0; ++text) {
    if (*text < '0' || *text > '9') return false;
    const uint64_t digit = static_cast<uint64_t>(*text - '0');
    if (__builtin_mul_overflow(*number, 10u, number) ||
        __builtin_add_overflow(*number, digit, number))
      return false;
  }
  return true;
}

bool is_option(const char* name, const char* argument) {
  const size_t length = std::strlen(name);
  const bool joined = name[length - 1] == '=';
  return joined ? std::strncmp(name, argument, length) == 0 : std::strcmp(name, argument) == 0;
}

void print(const char* text) {
  (void)failed(platform::write_all(platform::kStdout, bytes_of(text)));
}

}  // namespace

Error parse_arguments(int count, char** values, std::span<Option> options, const char* help,
                      bool* done) {
  for (int i = 1; i < count; ++i) {
    const char* name = values[i];
    if (std::strcmp(name, "--help") == 0 || std::strcmp(name, "--version") == 0) {
      print(name[2] == 'h' ? help : kVersion);
      if (name[2] != 'h') print("\n");
      *done = true;
      return kNoError;
    }
    const bool alone = name[0] != '-';
    Option* option = nullptr;
    for (Option& each : options) {
      if (alone ? each.name[0] != '-' : is_option(each.name, name)) option = &each;
    }
    if (option == nullptr) return Error{Status::kUsage, name};
    if (option->words != nullptr) {
      if (*option->word_count == option->words->size()) return Error{Status::kOptionValue, name};
      (*option->words)[(*option->word_count)++] = name;
      continue;
    }
    const size_t length = std::strlen(option->name);
    const bool joined = option->name[length - 1] == '=';
    const bool bare = alone || joined || option->flag != nullptr;
    if (option->given || (!bare && i + 1 == count)) return Error{Status::kOptionValue, name};
    option->given = true;
    const char* value = joined ? name + length : bare ? name : values[++i];
    if (option->flag != nullptr) *option->flag = true;
    if (option->text != nullptr) *option->text = value;
    if (option->number == nullptr) continue;
    if (!parse_number(value, option->number) || *option->number < option->number_min ||
        *option->number > option->number_max)
      return Error{Status::kOptionValue, name};
  }
  for (const Option& option : options) {
    if (option.required && !option.given) return Error{Status::kOptionMissing, option.name};
  }
  return kNoError;
}

}  // namespace bitnet::programs
